"""Masked autoencoder: reconstruct hidden tokens from the visible ones (arXiv 2111.06377).

Numbers match facebookresearch/mae. The reference puts mask tokens between the visible ones before
the decoder and predicts every patch; here the decoder runs on [prefix, visible, hidden] with
positions gathered to match, only hidden patches are predicted, and in the last block the others are
only looked at. Transformers do not see order, so the function is the same; `reconstruct` gives the
reference's form. AudioMAE's decoder of local windows (arXiv 2207.06405) does see it, and gets all
tokens in their places, without the prefix.

Works on any encoder with a fixed grid whose tokens carry the values they were made from.

Notation: B samples, N tokens, n visible tokens, D encoder width, P values of a token.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from zoo.modalities.attention import attention
from zoo.modalities.blocks import Block
from zoo.modalities.contracts import Batch, Encoder, GridEncoder, Preprocess, Sample, Tokens
from zoo.modalities.positions import sincos_positions
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.pictures import side_by_side
from zoo.objectives.swin_decoder import SwinBlock

__all__ = [
    "MAE",
    "MAEConfig",
    "Reconstruction",
    "random_order",
    "reconstruction_loss",
    "squared_errors",
    "unstacked",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MAEConfig:
    """The pretext task and its decoder."""

    mask_ratio: float = 0.75
    norm_pix_loss: bool = True
    repeats: int = 1  # augmentations of a decoded sample, each with a mask of its own
    decoder: Literal["std", "swin"] = "std"  # the encoder's kind of block, or shifted windows
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}")
        for name in ("repeats", "decoder_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction:
    """What `MAE.reconstruct` gives, every token in its place."""

    latent: Tensor  # (B, prefix + n, D) the encoder's output
    prediction: Tensor  # (B, N, P), in normalised space where norm_pix_loss
    target: Tensor  # (B, N, P) before normalisation
    mask: Tensor  # (B, N) 0 visible, 1 hidden
    order: Tensor  # (B, N) token indices, the n visible ones first


class MAE(Objective):
    """Batches need `noise` (B, N), uniform: the tokens with the lowest values stay visible.

    Where samples are repeated every field is (B, R, ...).
    """

    requires: ClassVar[type[Encoder]] = GridEncoder
    config_class: ClassVar[type] = MAEConfig
    decoder_pos_embed: Tensor

    def __init__(self, config: MAEConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, GridEncoder)
        self.config = config
        self.num_tokens = torch.Size(encoder.grid).numel()
        self.num_visible = int(self.num_tokens * (1 - config.mask_ratio))
        prefix, width = encoder.num_prefix_tokens, config.decoder_dim
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_embed = nn.Linear(encoder.dim, width)
        try:
            self._add_positions(encoder.grid, prefix)
        except ValueError as error:
            raise ValueError(f"decoder_dim: {error}") from None
        self.decoder_blocks = nn.ModuleList(
            self._block(encoder.grid, shifted=i % 2 == 1) for i in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.decoder_pred = nn.Linear(width, encoder.target_dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform matrices, zero biases, normal(0.02) mask token."""
        nn.init.normal_(self.mask_token, std=0.02)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Augmented and masked; stacked where there are `repeats`: decoding takes most time."""
        once = super().prepare
        several = [once(sample, preprocess, generator) for _ in range(self.config.repeats)]
        if len(several) == 1:
            return several[0]
        return {name: torch.stack([one[name] for one in several]) for name in several[0]}

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """Adds `noise` (N,)."""
        return sample | {"noise": torch.rand(self.num_tokens, generator=generator)}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """Mean squared error over the hidden tokens."""
        visible = self.num_visible
        latent, tokens, order = self._encode(encoder, unstacked(batch), visible)
        decoded = self._decode(latent, order, first=visible)
        return self._losses(self.decoder_pred(decoded), order[:, visible:], tokens)

    def reconstruct(self, encoder: Encoder, batch: Batch) -> Reconstruction:
        """Predictions for every token, visible ones too, in the tokens' own order."""
        return self._reconstruct(encoder, unstacked(batch), self.num_visible)

    def fill_in(self, whole: Reconstruction) -> Tensor:
        """(B, N, P) in the input's space: visible tokens as they are, hidden ones predicted.

        With norm_pix_loss predictions are put back with the statistics of the true token.
        """
        prediction = whole.prediction
        if self.config.norm_pix_loss:
            mean, var = whole.target.mean(-1, keepdim=True), whole.target.var(-1, keepdim=True)
            prediction = prediction * (var + 1e-6).sqrt() + mean
        return torch.where(whole.mask.unsqueeze(-1) > 0, prediction, whole.target)

    def pictures(self, encoder: Encoder, batch: Batch) -> list[tuple[str, Tensor]]:
        """Side by side: samples as they are, what the encoder sees, hidden tokens filled in."""
        assert isinstance(encoder, GridEncoder)
        whole = self.reconstruct(encoder, batch)
        rows = (
            ("original", encoder.draw(whole.target)),
            ("what the encoder sees", encoder.draw(whole.target, whole.mask.bool())),
            ("hidden tokens filled in", encoder.draw(self.fill_in(whole))),
        )
        return [(title, side_by_side(images)) for title, images in rows]

    def _losses(self, prediction: Tensor, hidden: Tensor, tokens: Tokens) -> Losses:
        """Of predictions (B, N - n, P) for the tokens at `hidden` (B, N - n)."""
        assert tokens.targets is not None
        target = tokens.targets.take_along_dim(hidden.unsqueeze(-1), 1)
        normalize = self.config.norm_pix_loss
        return Losses(total=reconstruction_loss(prediction, target, normalize=normalize))

    def _reconstruct(self, encoder: Encoder, batch: Batch, visible: int) -> Reconstruction:
        latent, tokens, order = self._encode(encoder, batch, visible)
        decoded = self._decode(latent, order)
        places = order.argsort(dim=1)
        prediction = self.decoder_pred(decoded).take_along_dim(places.unsqueeze(-1), 1)
        hidden = places >= visible
        if tokens.valid is not None:
            hidden |= ~tokens.valid
        assert tokens.targets is not None
        return Reconstruction(
            latent=latent.x,
            prediction=prediction,
            target=tokens.targets,
            mask=hidden.to(prediction.dtype),
            order=order,
        )

    def _encode(
        self, encoder: Encoder, batch: Batch, visible: int
    ) -> tuple[Tokens, Tokens, Tensor]:
        assert isinstance(encoder, GridEncoder)
        tokens = encoder.tokenize(batch)
        order = random_order(batch["noise"])
        latent = encoder.encode(tokens.select(order[:, :visible]))
        return latent, tokens, order

    def _block(self, grid: tuple[int, ...], *, shifted: bool) -> nn.Module:
        config = self.config
        width, heads = config.decoder_dim, config.decoder_heads
        hidden = int(width * config.mlp_ratio)
        if config.decoder == "std":
            return Block(width, heads, hidden, norm_eps=config.norm_eps)
        return SwinBlock(width, heads, hidden, grid=grid, shifted=shifted, eps=config.norm_eps)

    def _add_positions(self, grid: tuple[int, ...], prefix: int) -> None:
        table = sincos_positions(self.config.decoder_dim, grid, prefix=prefix)
        self.decoder_pos_embed = nn.Parameter(table, requires_grad=False)

    def _positions(self) -> Tensor:
        """(1, prefix + N, decoder_dim)."""
        return self.decoder_pos_embed

    def _decode(self, latent: Tokens, order: Tensor, *, first: int = 0) -> Tensor:
        """(B, N - first, decoder_dim), tokens in `order` from `first` on."""
        x = self.decoder_embed(latent.x)
        mask = self.mask_token.to(x.dtype)
        if latent.valid is not None:  # what was never there is as good as hidden
            valid = pad(latent.valid, (latent.prefix, 0), value=True)
            x = torch.where(valid.unsqueeze(-1), x, mask)
        hidden = self.num_tokens + latent.prefix - x.shape[1]
        x = torch.cat([x, mask.expand(len(x), hidden, -1)], dim=1)
        table = self._positions().to(x.dtype)
        head, body = table[:, : latent.prefix], table[:, latent.prefix :]
        places = body.expand(len(x), -1, -1).take_along_dim(order.unsqueeze(-1), 1)
        x = x + torch.cat([head.expand(len(x), -1, -1), places], dim=1)
        if self.config.decoder == "std":
            x = self._attended(x, latent.prefix + first)
        else:
            x = x[:, latent.prefix :].take_along_dim(order.argsort(dim=1).unsqueeze(-1), 1)
            for block in self.decoder_blocks:
                x = block(x)
            x = x.take_along_dim(order[:, first:].unsqueeze(-1), 1)
        normed: Tensor = self.decoder_norm(x)
        return normed

    def _attended(self, x: Tensor, first: int) -> Tensor:
        """(B, T, decoder_dim) through the blocks -> tokens from `first` on.

        In training the last block gives no others. FLOPs are counted in eval mode: the model's own.
        """
        *blocks, last = self.decoder_blocks
        for block in blocks:
            x = block(x, attention)
        return last(x, attention, first) if self.training else last(x, attention)[:, first:]


def unstacked(batch: Batch) -> Batch:
    """Repeated samples, every field (B, R, ...), as samples: (B * R, ...)."""
    if "noise" not in batch or batch["noise"].ndim == 2:
        return batch
    return {name: value.flatten(0, 1) for name, value in batch.items()}


def random_order(noise: Tensor) -> Tensor:
    """(B, N) uniform noise -> (B, N) token indices by ascending noise; ties keep their order."""
    return noise.argsort(dim=1, stable=True)


def reconstruction_loss(prediction: Tensor, target: Tensor, *, normalize: bool) -> Tensor:
    """Mean of `squared_errors` over hidden tokens (B, M, P)."""
    return squared_errors(prediction, target, normalize=normalize).mean()


def squared_errors(prediction: Tensor, target: Tensor, *, normalize: bool) -> Tensor:
    """(prediction - target)^2 of tokens (..., P), in float32.

    With `normalize`, each token's target is (t - mean) / sqrt(var + 1e-6) over its P values, with
    the unbiased variance.
    """
    target, prediction = target.float(), prediction.float()
    if normalize:
        mean, var = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        target = (target - mean) / (var + 1e-6).sqrt()
    return (prediction - target).square()
