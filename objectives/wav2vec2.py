"""wav2vec 2.0's task: tell the quantised frame behind a mask from others (arXiv 2006.11477).

Numbers match transformers' Wav2Vec2ForPreTraining; masks, targets and weighting follow fairseq,
but each clip keeps all of its masked frames. DEVIATION: whether a negative equals the positive is
decided by the codes, not by vectors that the straight-through estimator left with rounding errors.

Notation: B clips, N frames of a clip, M masked frames of the batch, K negatives each, P width of
the stem, D encoder width, G groups of V codes, Q width of codes, E width that is compared in.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, gumbel_softmax, normalize, one_hot
from zoo.modalities.contracts import Batch, Encoder
from zoo.modalities.frames import FrameEncoder
from zoo.objectives.contract import Losses, Objective

__all__ = ["Quantizer", "Wav2Vec2Config", "Wav2Vec2Objective", "draw_negatives", "draw_spans"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wav2Vec2Config:
    """The pretext task; the defaults are those of the base model."""

    mask_prob: float = 0.65  # spans begin at mask_prob / mask_length of the frames
    mask_length: int = 10
    num_negatives: int = 100
    groups: int = 2
    codes: int = 320  # of each group
    code_dim: int = 256
    projection_dim: int = 256
    temperature: float = 0.1  # of the contrast
    diversity_weight: float = 0.1
    penalty_weight: float = 10.0  # on the size of the stem's outputs
    stem_grad_scale: float = 0.1
    target_dropout: float = 0.0
    gumbel_start: float = 2.0
    gumbel_end: float = 0.5
    gumbel_decay: float = 0.999995  # an update

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_prob < 1.0 or self.mask_length < 1:
            raise ValueError("mask_prob must lie between 0 and 1, mask_length be at least 1")
        if self.code_dim % self.groups:
            raise ValueError(f"code_dim {self.code_dim} must be a multiple of groups {self.groups}")


class Quantizer(nn.Module):
    """A code of each group, straight through: Gumbel noise in training, the best code otherwise."""

    def __init__(self, dim: int, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.groups, self.codes = config.groups, config.codes
        self.weight_proj = nn.Linear(dim, config.groups * config.codes)
        width = config.code_dim // config.groups
        self.codevectors = nn.Parameter(torch.empty(1, config.groups * config.codes, width))
        nn.init.uniform_(self.codevectors)
        nn.init.normal_(self.weight_proj.weight)
        nn.init.zeros_(self.weight_proj.bias)

    def forward(self, frames: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(M, P) -> codes (M, Q), which they are (M, G), and probabilities (M, G, V)."""
        logits = self.weight_proj(frames).float().unflatten(-1, (self.groups, self.codes))
        if self.training:
            chosen = gumbel_softmax(logits, tau=temperature, hard=True)  # type: ignore[arg-type]
            share = logits.softmax(dim=-1)
        else:
            chosen = one_hot(logits.argmax(dim=-1), self.codes).to(logits.dtype)
            share = chosen
        book = self.codevectors.view(self.groups, self.codes, -1).to(logits.dtype)
        quantized = torch.einsum("mgv,gvq->mgq", chosen, book).flatten(1)
        return quantized, chosen.argmax(dim=-1), share


class Wav2Vec2Objective(Objective):
    """Batches need `target_index` (M,) and `negative_index` (M, K) into the B * N frames."""

    requires: ClassVar[type[Encoder]] = FrameEncoder
    config_class = Wav2Vec2Config
    updates: Tensor

    def __init__(self, config: Wav2Vec2Config, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, FrameEncoder)
        self.config = config
        self.num_frames = encoder.preprocess.length
        self.masked_spec_embed = nn.Parameter(torch.empty(encoder.dim).uniform_())
        self.quantizer = Quantizer(encoder.stem_dim, config)
        self.project_q = nn.Linear(config.code_dim, config.projection_dim)
        self.project_hid = nn.Linear(encoder.dim, config.projection_dim)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """Adds `target_index` (M,) and `negative_index` (M, K) into the clip's frames."""
        config = self.config
        index = draw_spans(self.num_frames(sample), config.mask_prob, config.mask_length, generator)
        negatives = draw_negatives(index, config.num_negatives, generator)
        return sample | {"target_index": index, "negative_index": negatives}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """`contrastive` + weights x (`diversity`, `penalty`), each a mean over masked frames."""
        assert isinstance(encoder, FrameEncoder)
        config = self.config
        frames = _scale_gradient(encoder.stem(batch), config.stem_grad_scale)
        predicted, target, codes, share = self.project(encoder, frames, batch)
        loss, top1 = contrast(predicted, target, codes, self._rows(batch, frames), config)
        perplexity = _perplexity(share)
        size = config.groups * config.codes
        parts = {
            "contrastive": loss,
            "diversity": (size - perplexity) / size,
            "penalty": _mean_square(frames, batch["lengths"]),
        }
        total = loss + config.diversity_weight * parts["diversity"]
        total = total + config.penalty_weight * parts["penalty"]
        metrics = {"top1": top1, "perplexity": perplexity, "temperature": self.gumbel_temperature}
        return Losses(total=total, parts=parts, metrics=metrics)

    def project(
        self, encoder: FrameEncoder, frames: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is compared at the masked frames.

        Args:
            encoder: the trunk that sees the masked input.
            frames: (B, N, P), what its stem gave.
            batch: with `target_index`.

        Returns:
            Predictions (M, E), quantised targets (M, E), codes (M, G), probabilities (M, G, V).
        """
        index = batch["target_index"]
        tokens = encoder.tokenize(frames, batch["lengths"])
        assert tokens.targets is not None
        target = dropout(
            tokens.targets.flatten(0, 1)[index], self.config.target_dropout, self.training
        )
        quantized, codes, share = self.quantizer(target, self.gumbel_temperature)
        masks = self.masked_spec_embed.to(tokens.x.dtype).expand(len(index), -1)
        x = tokens.x.flatten(0, 1).index_copy(0, index, masks).view_as(tokens.x)
        seen = encoder.encode(replace(tokens, x=x)).x.flatten(0, 1)[index]
        return self.project_hid(seen), self.project_q(quantized), codes, share

    @property
    def gumbel_temperature(self) -> Tensor:
        """Falls with every update, down to `gumbel_end`."""
        config = self.config
        power = config.gumbel_decay ** self.updates.double()
        return (config.gumbel_start * power).clamp(min=config.gumbel_end).float()

    def count(self, batch: Batch) -> int:
        """Masked frames."""
        return len(batch["target_index"])

    def after_step(self, encoder: Encoder) -> None:
        """Counts the update, which cools the choice of codes."""
        self.updates += 1

    def _rows(self, batch: Batch, frames: Tensor) -> Tensor:
        """(M, K): which of the M masked frames each negative is."""
        index = batch["target_index"]
        places = index.new_zeros(frames.shape[0] * frames.shape[1])
        places[index] = torch.arange(len(index), device=index.device)
        return places[batch["negative_index"]]


def contrast(
    predicted: Tensor, target: Tensor, codes: Tensor, rows: Tensor, config: Wav2Vec2Config
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of each frame's own target among its negatives; how often it is nearest.

    Args:
        predicted: (M, E).
        target: (M, E).
        codes: (M, G); a negative of the same codes is left out.
        rows: (M, K) into the targets.
        config: the temperature.
    """
    cosines = normalize(predicted.float(), dim=-1) @ normalize(target.float(), dim=-1).T
    negative = cosines.gather(1, rows)
    same = (codes[rows] == codes.unsqueeze(1)).all(dim=-1)
    negative = negative.masked_fill(same, float("-inf"))
    logits = torch.cat([cosines.diagonal().unsqueeze(1), negative], dim=1) / config.temperature
    first = logits.new_zeros(len(logits), dtype=torch.int64)
    # A batch of clips too short to mask has no target: its loss is 0, not 0 / 0.
    count = max(1, len(logits))
    loss = cross_entropy(logits, first, reduction="sum") / count
    return loss, (logits.argmax(dim=1) == 0).sum() / count


def draw_spans(frames: int, prob: float, length: int, generator: torch.Generator) -> Tensor:
    """Masked frames (M,) of a clip, ascending: at least two spans, which may overlap.

    Args:
        frames: N.
        prob: of a frame to be masked if spans did not overlap.
        length: of a span; shorter in clips of less than two.
        generator: all chance.

    Returns:
        Nothing where a clip has fewer than two frames to mask: there would be no negatives.
    """
    length = min(length, frames // 2)
    if length < 1:
        return torch.empty(0, dtype=torch.int64)
    starts = frames - length + 1
    chance = torch.rand((), generator=generator).item()
    spans = min(starts, max(2, int(prob * frames / length + chance)))
    begin = torch.randperm(starts, generator=generator)[:spans]
    return (begin.unsqueeze(1) + torch.arange(length)).flatten().unique()


def draw_negatives(index: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(M, count): for each masked frame others of the same clip, drawn with replacement."""
    masked = len(index)
    if not masked:
        return torch.empty(0, count, dtype=torch.int64)
    draw = torch.randint(masked - 1, (masked, count), generator=generator)
    return index[draw + (draw >= torch.arange(masked).unsqueeze(1))]


def _scale_gradient(x: Tensor, scale: float) -> Tensor:
    """The same values, with `scale` times the gradient."""
    still = x.detach()
    return still + scale * (x - still)


def _perplexity(share: Tensor) -> Tensor:
    """(M, G, V) -> how many codes are in use, summed over groups: at most G * V."""
    mean = share.mean(dim=0) if len(share) else share.sum(dim=0)
    return (mean * (mean + 1e-7).log()).sum(dim=-1).neg().exp().sum()


def _mean_square(frames: Tensor, lengths: Tensor) -> Tensor:
    """Of the frames (B, N, P) that belong to a clip."""
    squares = frames.float().square().mean(dim=-1)
    real = torch.arange(frames.shape[1]) < lengths.unsqueeze(1)
    real = real.to(frames.device, non_blocking=True)
    return (squares * real).sum() / max(1, int(lengths.sum()))
