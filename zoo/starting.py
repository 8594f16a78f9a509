"""`train.init`: a run that begins with weights instead of random numbers; and its teachers."""

import logging
from pathlib import Path

from torch import Tensor

from zoo.errors import UsageError, WeightsError
from zoo.hub.convert import convert
from zoo.hub.weights import check_fit, load_beside, read_state
from zoo.modalities.contracts import Encoder
from zoo.models import load
from zoo.objectives.contract import Objective

__all__ = ["start_from"]

_log = logging.getLogger("zoo")


def start_from(source: str | None, encoder: Encoder, objective: Objective) -> None:
    """Gives a run the weights that it begins with, in place.

    The encoder takes all of its tensors from `source`. The objective's heads do too where the
    source has them; else they stay random, which is said. Teachers have sources of their own.

    Args:
        source: a file of weights in zoo's or the authors' layout, or a run or export folder, which
            brings its tokenizer along; None leaves the random numbers.
        encoder: of the same architecture.
        objective: whose heads may be in the file.

    Raises:
        UsageError: there is no such thing, or it was trained with another preprocessing.
        WeightsError, IntegrityError: the weights do not fit, or are damaged.
    """
    for place, teacher in objective.teachers().items():
        _take(place, teacher)
        _log.info("the teacher's weights are those of %s", place)
    if source is None:
        return
    heads = _take(source, encoder)
    if heads:
        _fill(objective, heads, Path(source))
    said = f"and {len(heads)} of the objective" if heads else "; the objective's heads are random"
    _log.info("starts with %d tensors of %s %s", len(encoder.state_dict()), source, said)


def _take(source: str, encoder: Encoder) -> dict[str, Tensor]:
    """Gives an encoder the weights of a file or folder; returns those of the objective's heads."""
    path, heads = Path(source), dict[str, Tensor]()
    if path.is_dir():
        loaded = load(path)
        weights = loaded.state_dict()
        _check_bound(loaded, encoder, path)
        if not encoder.preprocess.ready:
            encoder.preprocess.load_assets(loaded.preprocess.assets())
    else:
        converted = convert(read_state(path), encoder.layout)
        weights, heads = converted.encoder, converted.objective
        if not encoder.preprocess.ready:
            load_beside(encoder.preprocess, path.parent)
    encoder.adapt(weights)
    check_fit(encoder, weights, path)
    encoder.load_state_dict(weights)
    return heads


def _check_bound(loaded: Encoder, encoder: Encoder, path: Path) -> None:
    for key, value in loaded.preprocess.bound.items():
        if (own := encoder.preprocess.bound.get(key, value)) != value:
            raise UsageError(
                f"{path}: trained with preprocess.{key} = {value}, not {own}; set it so, or start "
                "from the file of weights alone"
            )


def _fill(objective: Objective, heads: dict[str, Tensor], path: Path) -> None:
    """Counters and what follows others may be missing, what is trained may not."""
    try:
        missing, unexpected = objective.load_state_dict(heads, strict=False)
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: the objective's heads are of another size "
            f"({str(error).splitlines()[-1].strip()}); set the objective's options to theirs"
        ) from None
    trained = {name for name, p in objective.named_parameters() if p.requires_grad}
    missing = sorted(set(missing) & trained)
    if missing or unexpected:
        raise WeightsError(
            f"{path}: the objective's heads do not fit: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}"
        )
