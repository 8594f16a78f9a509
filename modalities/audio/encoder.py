"""Spectrogram transformer: the vision transformer on log-mel patches, time the first axis.

State dict and numerics are those of Bird-MAE (arXiv 2504.12880) and AudioMAE (arXiv 2207.06405).
Their position table is built for a grid of (mel, time) and read by tokens that run over
(time, mel): `positions="transposed"` keeps that for their weights. Token i is time patch i // 8,
mel patch i % 8 either way.

Notation: B clips, R frames and M mel bins of the features, N = T * F tokens, T time patches, F mel
patches, D width, P = patch_size**2.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from zoo.modalities.audio.preprocess import AudioPreprocess, AudioPreprocessConfig
from zoo.modalities.audio.windows import AudioEncoder
from zoo.modalities.contracts import Batch, Features, Tokens
from zoo.modalities.patch_vit import PatchViT, PatchViTConfig, unpatchify
from zoo.modalities.positions import sincos_positions

__all__ = ["SpectrogramFeatures", "SpectrogramViT", "SpectrogramViTConfig", "keep_lines"]

_DRAWN = 1.5  # white and minus black: three standard deviations, because features are halved


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrogramViTConfig(PatchViTConfig):
    """Everything that shapes the encoder; the size of a spectrogram belongs to `preprocess`."""

    positions: Literal["grid", "transposed"] = "grid"
    # AudioMAE's fine-tuning: shares of all time patches and of all mel patches that a training
    # batch is without.
    mask_time: float = 0.0
    mask_mel: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.mask_time < 1.0 and 0.0 <= self.mask_mel < 1.0):
            raise ValueError("mask_time and mask_mel must lie in [0, 1)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrogramFeatures(Features):
    """`tokens` are those before the final norm, and `pooled` is made of them.

    `tokens_norm` (B, N, D) and `cls` (B, D) are behind the norm: prototypes and attention pooling
    work on these.
    """

    tokens_norm: Tensor
    cls: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trunk(Tokens):
    """`x` is behind the final norm, `before_norm` is not."""

    before_norm: Tensor


class SpectrogramViT(AudioEncoder, PatchViT):
    """Patches -> pre-norm transformer; `norm` for every token, `fc_norm` for their mean.

    A batch holds `features` (B, 1, R, M), normalised log-mel, or `waveform` (B, samples) that they
    are made of here. R may differ from what `preprocess` makes: any multiple of the patch.
    """

    config_class = SpectrogramViTConfig
    preprocess_class = AudioPreprocessConfig
    config: SpectrogramViTConfig
    preprocess: AudioPreprocess

    def __init__(self, config: SpectrogramViTConfig, preprocess: AudioPreprocessConfig) -> None:
        patch, features = config.patch_size, preprocess.features
        if features.target_length % patch or features.num_mel_bins % patch:
            raise ValueError(
                f"{features.target_length} frames and {features.num_mel_bins} mel bins must be "
                f"multiples of patch_size {patch}"
            )
        grid = (features.target_length // patch, features.num_mel_bins // patch)
        super().__init__(config, in_chans=1, positions=_positions(config, grid))
        self._grid = grid
        self.preprocess = AudioPreprocess(preprocess)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        # Pretraining never reaches it, and published files hold it as it begins.
        self.fc_norm = nn.LayerNorm(config.dim, eps=config.norm_eps).requires_grad_(False)

    @property
    def grid(self) -> tuple[int, int]:
        """(T, F) of a spectrogram as `preprocess` makes it."""
        return self._grid

    def tokenize(self, batch: Batch) -> Tokens:
        """`x` (B, N, D) with positions, `targets` (B, N, P) of the features, `coords` (N, 2)."""
        features = self._features(batch)
        grid = self._grid_of(features)
        stored = grid == self.grid
        positions = self.pos_embed if stored else _positions(self.config, grid).to(features.device)
        return self._tokens(features, positions)

    def encode(self, tokens: Tokens) -> "_Trunk":
        """Class token in front, blocks, norm: (B, n, D) -> (B, 1 + n, D) for any n >= 0."""
        x = self._run(tokens.x)
        return _Trunk(
            x=self.norm(x), before_norm=x, coords=tokens.coords, targets=tokens.targets, prefix=1
        )

    def pool(self, tokens: Tokens) -> Tensor:
        """(B, D): the mean over patches of what was not normed yet, then `fc_norm`."""
        assert isinstance(tokens, _Trunk)
        return self.fc_norm(tokens.before_norm[:, tokens.prefix :].mean(dim=1))

    def forward(self, batch: Batch) -> SpectrogramFeatures:
        """All tokens through the trunk; in training only those that `mask_time`, `mask_mel` leave.

        Returns:
            Features, with `grid` (T, F) where no token is missing.
        """
        features = self._features(batch)
        grid, shares = self._grid_of(features), (self.config.mask_time, self.config.mask_mel)
        tokens = self.tokenize({"features": features})
        whole = not self.training or shares == (0.0, 0.0)
        if not whole:
            tokens = tokens.select(keep_lines(len(tokens.x), grid, shares, tokens.x.device))
        trunk = self.encode(tokens)
        return SpectrogramFeatures(
            tokens=trunk.before_norm[:, 1:],
            pooled=self.pool(trunk),
            grid=grid if whole else None,
            tokens_norm=trunk.x[:, 1:],
            cls=trunk.x[:, 0],
        )

    def draw(self, values: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, N, P) -> uint8 (B, M, R, 1): time to the right, low frequencies at the bottom."""
        levels = (unpatchify(values, self.grid, self.config.patch_size) / _DRAWN + 1) / 2
        if hidden is not None:
            grey = hidden.unsqueeze(-1).expand_as(values)
            levels[unpatchify(grey, self.grid, self.config.patch_size)] = 0.5
        picture = levels.transpose(2, 3).flip(2).movedim(1, -1)
        return (picture * 255).round().clamp(0, 255).byte()

    def adapt(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """Positions for another length are made anew; a norm that a stage never had is neutral.

        Files of pretraining have no `fc_norm`, those of a fine-tuned AudioMAE no `norm`.
        """
        changed: list[str] = []
        if "pos_embed" in state and state["pos_embed"].shape != self.pos_embed.shape:
            state["pos_embed"] = _positions(self.config, self.grid)
            changed.append("pos_embed")
        lacking = [name for name in ("norm", "fc_norm") if f"{name}.weight" not in state]
        if len(lacking) == 1:
            state[f"{lacking[0]}.weight"] = torch.ones(self.dim)
            state[f"{lacking[0]}.bias"] = torch.zeros(self.dim)
            changed += [f"{lacking[0]}.weight", f"{lacking[0]}.bias"]
        return tuple(changed)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """(1, 1 + N, D) for tokens that run over (time, mel)."""
        return _table(
            self.config.dim, grid[::-1] if self.config.positions == "transposed" else grid
        )

    def _features(self, batch: Batch) -> Tensor:
        if "features" in batch:
            return batch["features"]
        return self.preprocess.features(batch["waveform"])

    def _grid_of(self, features: Tensor) -> tuple[int, int]:
        patch, mels = self.config.patch_size, self.grid[1] * self.config.patch_size
        if features.shape[1] != 1 or features.shape[2] % patch or features.shape[3] != mels:
            raise ValueError(
                f"features are {tuple(features.shape)}, the encoder takes "
                f"(B, 1, a multiple of {patch}, {mels})"
            )
        return features.shape[2] // patch, self.grid[1]


def _positions(config: SpectrogramViTConfig, grid: tuple[int, int]) -> Tensor:
    """(1, 1 + N, D) for tokens that run over (time, mel)."""
    return _table(config.dim, grid[::-1] if config.positions == "transposed" else grid).clone()


@lru_cache(maxsize=8)  # for clips of another length, batch after batch
def _table(dim: int, grid: tuple[int, int]) -> Tensor:
    return sincos_positions(dim, grid, prefix=PatchViT.num_prefix_tokens)


def keep_lines(
    batch_size: int, grid: tuple[int, int], hidden: tuple[float, float], device: torch.device
) -> Tensor:
    """Tokens that stay when whole time patches and whole mel patches are hidden (AudioMAE).

    Args:
        batch_size: B, each with its own choice.
        grid: (T, F).
        hidden: shares of T and of F.
        device: where they are wanted.

    Returns:
        (B, t * f) token indices in their order, t = int(T (1 - share)) and f likewise.
    """
    kept = [
        torch.rand(batch_size, count, device=device).argsort(dim=1)[:, : int(count * (1 - share))]
        for count, share in zip(grid, hidden, strict=True)
    ]
    times, mels = (lines.sort(dim=1).values for lines in kept)
    return (times[:, :, None] * grid[1] + mels[:, None, :]).flatten(1)
