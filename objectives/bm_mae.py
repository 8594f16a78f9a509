"""BM-MAE: a masked autoencoder of several MRI sequences, any of which may be missing (2505.00568).

Numbers match Lucas-rbnt/BM-MAE. It is the masked autoencoder of `zoo.objectives.mae` with another
choice of visible tokens, a decoder that is told which sequence a token is of, and a mean for each
sequence in the loss. Beyond the reference a volume may lack sequences: it shows the same share of
what is there, and what is not there is in no loss. Means are over a micro-batch, as they are over
one GPU's batch there: sequences have different numbers of hidden tokens in each.

DEVIATION: the decoder has no dropout (the reference 0.1), and a draw in which a proportion is too
large is always drawn again (the reference keeps it in the first sample of a batch).

Notation: B volumes, S sequences, V tokens of each, N = S * V, n visible ones, M = N - n, P values
of a token.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from zoo.modalities.contracts import Batch, Encoder, Tokens
from zoo.modalities.volumes import SequenceEncoder, volume_positions
from zoo.objectives.contract import Losses
from zoo.objectives.mae import MAE, MAEConfig, Reconstruction, squared_errors, unstacked
from zoo.objectives.pictures import side_by_side

from zoo.errors import UnknownNameError

__all__ = ["BMMAE", "BMMAEConfig", "draw_noise", "draw_shares"]

_TRIES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BMMAEConfig(MAEConfig):
    """The pretext task and its decoder."""

    norm_pix_loss: bool = False
    decoder: Literal["std"] = "std"
    decoder_dim: int = 384
    decoder_depth: int = 3
    decoder_heads: int = 12
    norm_eps: float = 1e-5


class BMMAE(MAE):
    """Batches need `noise` (B, N): the tokens with the lowest values stay visible."""

    requires: ClassVar[type[Encoder]] = SequenceEncoder
    config_class = BMMAEConfig

    def __init__(self, config: BMMAEConfig, encoder: Encoder) -> None:
        assert isinstance(encoder, SequenceEncoder)
        super().__init__(config, encoder)
        self.sequences = encoder.sequences
        self.modality_embeddings = nn.ParameterDict(
            {name: torch.empty(1, 1, config.decoder_dim) for name in encoder.sequences}
        )
        for embedding in self.modality_embeddings.values():
            nn.init.trunc_normal_(embedding, std=0.02)

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """Adds `noise` (N,)."""
        present = sample.get("present", torch.ones(len(self.sequences), dtype=torch.bool))
        noise = draw_noise(present, self._tokens_each, self.config.mask_ratio, generator)
        return sample | {"noise": noise}

    def reconstruct(
        self, encoder: Encoder, batch: Batch, missing: str | None = None
    ) -> Reconstruction:
        """Predictions for every token, visible ones too, in the tokens' own order.

        Args:
            encoder: of the same sequences.
            batch: `noise` decides which tokens are visible where nothing is `missing`.
            missing: a sequence that is hidden, while all tokens of the others are visible; what its
                channel of `volume` holds is never looked at.

        Raises:
            UnknownNameError: there is no such sequence.
        """
        if missing is None:
            return super().reconstruct(encoder, batch)
        batch = unstacked(batch)
        if missing not in self.sequences:
            raise UnknownNameError("sequence", missing, self.sequences)
        hidden = torch.tensor([name == missing for name in self.sequences])
        noise = hidden.repeat_interleave(self._tokens_each).float().to(batch["volume"].device)
        batch = batch | {"noise": noise.expand(len(batch["volume"]), -1)}
        return self._reconstruct(encoder, batch, self.num_tokens - self._tokens_each)

    def pictures(self, encoder: Encoder, batch: Batch) -> list[tuple[str, Tensor]]:
        """As of any masked autoencoder, then each sequence as the others tell it."""
        assert isinstance(encoder, SequenceEncoder)
        shown = super().pictures(encoder, batch)
        for name in self.sequences if len(self.sequences) > 1 else ():
            whole = self.reconstruct(encoder, batch, missing=name)
            shown.append(
                (f"{name} from the others", side_by_side(encoder.draw(self.fill_in(whole))))
            )
        return shown

    def _losses(self, prediction: Tensor, hidden: Tensor, tokens: Tokens) -> Losses:
        """The sum over sequences of the mean squared error of their hidden tokens."""
        assert tokens.targets is not None
        target = tokens.targets.take_along_dim(hidden.unsqueeze(-1), 1)
        errors = squared_errors(prediction, target, normalize=self.config.norm_pix_loss).mean(-1)
        known = torch.ones_like(hidden, dtype=torch.bool)
        if tokens.valid is not None:
            known = tokens.valid.take_along_dim(hidden, 1)
        owner = hidden // self._tokens_each
        parts = {}
        for number, name in enumerate(self.sequences):
            of_it = ((owner == number) & known).to(errors.dtype)
            # A sequence may be all visible, or be missing everywhere: its loss is 0, not 0 / 0.
            parts[name] = (errors * of_it).sum() / of_it.sum().clamp(min=1)
        return Losses(total=torch.stack([*parts.values()]).sum(), parts=parts)

    def _add_positions(self, grid: tuple[int, ...], prefix: int) -> None:
        x, y, z = grid[-3:]
        table = volume_positions(self.config.decoder_dim, (x, y, z))
        self.register_buffer("decoder_pos_embed", table, persistent=False)
        self._prefix, self._tokens_each = prefix, table.shape[1]

    def _positions(self) -> Tensor:
        """Positions of each sequence with what tells it from the others; no prefix has a place."""
        # The dict itself is in alphabetical order.
        tables = [self.decoder_pos_embed + self.modality_embeddings[n] for n in self.sequences]
        return pad(torch.cat(tables, dim=1), (0, 0, self._prefix, 0))


def draw_shares(count: int, limit: float, rows: int, generator: torch.Generator) -> Tensor:
    """(rows, count) shares of the visible tokens, uniform among those below `limit`.

    That is Dirichlet(1, ..., 1), drawn again until every share is below the limit; where that takes
    too long all shares are equal.
    """
    shares = torch.full((rows, count), 1 / count)
    todo = torch.arange(rows)
    for _ in range(_TRIES):
        drawn = -torch.rand(len(todo), count, generator=generator).clamp(min=1e-30).log()
        drawn /= drawn.sum(dim=1, keepdim=True)
        fits = (drawn < limit).all(dim=1) | (count == 1)
        shares[todo[fits]] = drawn[fits]
        todo = todo[~fits]
        if not len(todo):
            break
    return shares


def draw_noise(
    present: Tensor, tokens: int, mask_ratio: float, generator: torch.Generator
) -> Tensor:
    """Noise by which a volume's visible tokens come first, then those that are not there.

    Of the present tokens a share of 1 - `mask_ratio` is visible; how it divides among sequences is
    drawn (`draw_shares`), then which tokens of each, uniformly.

    Args:
        present: (S,), True where the sequence is there.
        tokens: V of each sequence.
        mask_ratio: share of hidden tokens.
        generator: all chance.

    Returns:
        (S * V,): below 1 at visible tokens, 1 where nothing is, above 1 at hidden ones.
    """
    count = int(present.sum())
    visible = int(count * tokens * (1 - mask_ratio))
    limit = tokens / max(1, visible)
    wanted = torch.zeros(len(present))
    wanted[present] = draw_shares(count, limit, 1, generator)[0]
    chance = torch.rand(2, len(present), tokens, generator=generator)
    ranks = chance[0].argsort(dim=1).argsort(dim=1)
    # Rounded counts may differ from `visible` by a few: chance decides which tokens make up for it.
    chosen = ranks < (wanted * visible).round().unsqueeze(1)
    order = (chance[1] + ~chosen + 2 * ~present.unsqueeze(1)).flatten().argsort()
    noise = torch.where(present.unsqueeze(1), 2 + chance[1], 1.0).flatten()
    noise[order[:visible]] -= 2
    return noise
