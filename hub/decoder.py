"""What an encoder of several sequences was pretrained with, so that it can make one of them up.

Files of weights and runs hold a decoder that the encoder itself has no part for. It is built and
filled when it is first asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor
from zoo.hub.rules import State
from zoo.modalities.contracts import Batch
from zoo.modalities.volumes import SequenceEncoder
from zoo.objectives.bm_mae import BMMAE
from zoo.objectives.contract import Objective
from zoo.registry.build import build_objective
from zoo.registry.catalogue import card

from zoo.errors import UsageError, WeightsError

__all__ = ["Decoder", "decoder_of"]


@dataclass
class Decoder:
    """`make` gives the objective for an encoder, with its weights."""

    make: Callable[[SequenceEncoder], Objective]
    _made: BMMAE | None = field(default=None, repr=False)

    def __call__(self, encoder: SequenceEncoder, batch: Batch, missing: str) -> Tensor:
        """(B, V, P): see `SequenceDecoder`.

        Raises:
            UsageError: the pretraining left no sequence out, or its weights are gone.
            UnknownNameError: there is no such sequence.
        """
        if self._made is None:
            objective = self.make(encoder).eval()
            if not isinstance(objective, BMMAE):
                raise UsageError("only objective 'bm_mae' makes up a sequence from the others")
            self._made = objective
        objective = self._made.to(batch["volume"].device)
        whole = objective.reconstruct(encoder, batch, missing=missing)
        place, count = encoder.sequences.index(missing), len(encoder.sequences)
        return whole.prediction.unflatten(1, (count, -1))[:, place]


def decoder_of(model: str, state: State) -> Decoder:
    """That of a file, whose options are those of the model's card.

    Args:
        model: a name of the catalogue.
        state: the file's tensors of the objective.
    """
    return Decoder(partial(_filled, model, state))


def _filled(model: str, state: State, encoder: SequenceEncoder) -> Objective:
    recipe = card(model).recipe
    assert recipe is not None
    objective = build_objective(recipe.objective, encoder)
    try:
        objective.load_state_dict(state)
    except RuntimeError:
        raise WeightsError(
            f"the decoder that came with {model} is of other sequences or sizes than this encoder"
        ) from None
    return objective
