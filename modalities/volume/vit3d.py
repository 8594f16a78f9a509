"""Vision transformer for volumes of one or several MRI sequences, any subset of them present.

State dict and numerics are those of BM-MAE (arXiv 2505.00568) in zoo's names: each sequence has its
own patch projection, all share the frozen sin-cos positions and the blocks, and nothing else tells
sequences apart. With one sequence it is the plain ViT on a volume.

Notation: B volumes, S sequences, X, Y, Z voxels, V = X * Y * Z / patch_size**3 tokens of a
sequence, N = S * V, n of them, D width, P = patch_size**3.
"""

from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from zoo.modalities.attention import attention
from zoo.modalities.blocks import Attend
from zoo.modalities.contracts import Batch, Features, Tokens
from zoo.modalities.patch_vit import PatchViTConfig, blocks_of
from zoo.modalities.volume.preprocess import VolumePreprocess, VolumePreprocessConfig
from zoo.modalities.volumes import SequenceEncoder, volume_positions

from zoo.errors import UsageError

__all__ = ["Grid", "SequenceEmbedding", "ViT3D", "ViT3DConfig", "patchify", "unpatchify"]


Grid = tuple[int, int, int]

_DRAWN = {"window": (0.0, 1.0), "z-score": (-2.5, 2.5)}  # black and white


@dataclass(frozen=True, slots=True, kw_only=True)
class ViT3DConfig(PatchViTConfig):
    """What shapes the trunk; sequences and the size of a volume belong to `preprocess`."""

    # cls: the class token; mean: the mean over patches; both behind the final norm.
    pool: Literal["cls", "mean"] = "cls"


class SequenceEmbedding(nn.ModuleDict):
    """A patch projection for each sequence, and frozen positions that all share.

    The projections are stored as convolutions and computed as the matrix products that they are.
    """

    positions: Tensor

    def __init__(self, dim: int, patch: int, sequences: Several[str], grid: Grid) -> None:
        super().__init__({name: nn.Conv3d(1, dim, patch, stride=patch) for name in sequences})
        self.dim, self.grid = dim, grid
        self.init_buffers()

    def init_buffers(self) -> None:
        """Positions (1, V, D), in no file."""
        positions = volume_positions(self.dim, self.grid).to(next(self.parameters()).device)
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, S, V, P) -> (B, S, V, D)."""
        found = []
        for part, one in zip(patches.unbind(dim=1), self.values(), strict=True):
            assert isinstance(one, nn.Conv3d)
            found.append(linear(part.to(one.weight.dtype), one.weight.flatten(1), one.bias))
        x = torch.stack(found, dim=1)
        return x + self.positions.to(x.dtype)


class ViT3D(SequenceEncoder):
    """A batch holds `volume` (B, S, X, Y, Z) and, where some are missing, `present` (B, S).

    The channel of a missing sequence holds zeros.
    """

    modality = "volume"
    num_prefix_tokens = 1
    config_class = ViT3DConfig
    preprocess_class = VolumePreprocessConfig
    preprocess: VolumePreprocess

    def __init__(self, config: ViT3DConfig, preprocess: VolumePreprocessConfig) -> None:
        super().__init__()
        self.config, self.dim = config, config.dim
        self.preprocess = VolumePreprocess(preprocess)
        patch = config.patch_size
        self.target_dim = patch**3
        self.sequences, self.img_size = preprocess.sequences, preprocess.size
        if any(size % patch for size in self.img_size):
            raise ValueError(f"size {self.img_size} must be multiples of patch_size {patch}")
        x, y, z = (size // patch for size in self.img_size)
        self.volume_grid = (x, y, z)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.patch_embed = SequenceEmbedding(config.dim, patch, self.sequences, self.volume_grid)
        self.blocks = blocks_of(config)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        if not self.cls_token.is_meta:  # drawing on meta imports torch's compiler, for seconds
            self.init_weights()

    @property
    def grid(self) -> tuple[int, ...]:
        """Tokens along X, Y, Z; in front the sequences, where there are several."""
        several = len(self.sequences) > 1
        return (len(self.sequences), *self.volume_grid) if several else self.volume_grid

    def init_buffers(self) -> None:
        """The frozen positions."""
        self.patch_embed.init_buffers()

    def init_weights(self) -> None:
        """MAE's: xavier-uniform matrices, zero biases; the class token normal(0.02)."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for part in self.modules():
            if isinstance(part, nn.Conv3d):
                nn.init.xavier_uniform_(part.weight.view(self.dim, -1))
            elif isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def tokenize(self, batch: Batch) -> Tokens:
        """`x` (B, N, D) with positions, `targets` (B, N, P) voxels, `coords` (N, 3 or 4).

        `valid` (B, N) where a volume of the batch lacks a sequence.
        """
        patches = patchify(self._checked(batch["volume"]), self.config.patch_size)
        x = self.patch_embed(patches)
        coords = torch.stack([axis.flatten() for axis in _places(self.grid, x.device)], dim=1)
        present, valid = batch.get("present"), None
        if present is not None and len(self.sequences) > 1 and not present.all():
            valid = present.repeat_interleave(patches.shape[2], dim=1)
        return Tokens(x=x.flatten(1, 2), coords=coords, targets=patches.flatten(1, 2), valid=valid)

    def encode(self, tokens: Tokens) -> Tokens:
        """Class token in front, blocks, norm: (B, n, D) -> (B, 1 + n, D) for any n >= 0."""
        cls = self.cls_token.to(tokens.x.dtype).expand(len(tokens.x), -1, -1)
        x = torch.cat([cls, tokens.x], dim=1)
        attend: Attend = attention
        if tokens.valid is not None:
            attend = partial(attention, valid=pad(tokens.valid, (1, 0), value=True))
        for block in self.blocks:
            x = block(x, attend)
        return replace(tokens, x=self.norm(x), prefix=1)

    def pool(self, tokens: Tokens) -> Tensor:
        """(B, D) as `config.pool` says; missing sequences have no part in it."""
        if self.config.pool == "cls":
            return tokens.x[:, 0]
        x = tokens.x[:, tokens.prefix :]
        if tokens.valid is None:
            return x.mean(dim=1)
        share = tokens.valid / tokens.valid.sum(dim=1, keepdim=True)
        return (x * share.to(x.dtype).unsqueeze(-1)).sum(dim=1)

    def forward(self, batch: Batch) -> Features:
        """The tokens of what is present through the trunk.

        Returns:
            Features; `grid` is None where a sequence is missing. Volumes with fewer sequences than
            others have zeros at the end of their tokens.
        """
        tokens = self.encode(_compact(self.tokenize(batch)))
        x = tokens.x[:, tokens.prefix :]
        if tokens.valid is not None:
            x = x * tokens.valid.unsqueeze(-1)
        whole = x.shape[1] == prod(self.grid)
        return Features(tokens=x, pooled=self.pool(tokens), grid=self.grid if whole else None)

    @torch.inference_mode()
    def reconstruct(self, batch: Batch, *, missing: str) -> Tensor:
        """A sequence as all tokens of the others tell it; its own channel is never looked at.

        Args:
            batch: `volume` and perhaps `present`, as `preprocess.collate` gives them.
            missing: the name of the sequence.

        Returns:
            (B, X, Y, Z), normalised as `volume` is.

        Raises:
            UsageError: these weights came without a decoder, or with one of another objective.
            UnknownNameError: there is no such sequence.
        """
        if self.decoder is None:
            raise UsageError(
                "these weights came without a decoder: load a run of objective 'bm_mae', or a file "
                "of BM-MAE that holds one"
            )
        values = self.decoder(self, batch, missing)
        return unpatchify(values, self.volume_grid, self.config.patch_size)[:, 0]

    def segmenter(self, out_channels: int) -> nn.Module:
        """MONAI's UNETR (arXiv 2103.10504) around a copy of these weights; its decoder is new.

        It takes volumes of `preprocess.size` with all sequences: whole scans go through MONAI's
        sliding window. As in BM-MAE the class token is left out and the decoder sees the mean over
        sequences.

        Args:
            out_channels: classes, the background among them.
        """
        from zoo.modalities.volume.segmenter import vit_unetr

        network = vit_unetr(self.config, self.preprocess.config, out_channels)
        trunk = {name: value for name, value in self.state_dict().items() if name != "cls_token"}
        network.get_submodule("vit").load_state_dict(trunk)
        return network.to(self.cls_token)

    def draw(self, values: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, N, P) -> uint8 (B, Y, S * X, 1): the middle slice of each sequence, side by side.

        As radiologists look at it: from below, the patient's right on the left.
        """
        low, high = _DRAWN[self.preprocess.config.intensity]
        grid, patch = self.volume_grid, self.config.patch_size
        levels = (unpatchify(values, grid, patch) - low) / (high - low)
        if hidden is not None:
            levels[unpatchify(hidden.unsqueeze(-1).expand_as(values), grid, patch)] = 0.5
        middle = levels[..., levels.shape[-1] // 2].flip(2, 3).transpose(2, 3)  # (B, S, Y, X)
        picture = torch.cat(middle.unbind(dim=1), dim=2).unsqueeze(-1)
        return (picture * 255).round().clamp(0, 255).byte()

    def adapt(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """Drops the projections of sequences that this encoder is built without."""
        for name in [name for name in state if name.startswith("patch_embed.")]:
            if name.split(".")[1] not in self.patch_embed:
                del state[name]
        return ()

    def _checked(self, volume: Tensor) -> Tensor:
        wanted = (len(self.sequences), *self.img_size)
        if volume.shape[1:] != wanted:
            raise ValueError(
                f"volume is {tuple(volume.shape)}, the encoder takes "
                f"(B, {', '.join(map(str, wanted))})"
            )
        return volume


def patchify(volume: Tensor, patch: int) -> Tensor:
    """(B, S, X, Y, Z) -> (B, S, V, P): the last axis is the fastest, among patches and inside."""
    b, s, *sizes = volume.shape
    x, y, z = (size // patch for size in sizes)
    volume = volume.reshape(b, s, x, patch, y, patch, z, patch)
    return volume.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(b, s, x * y * z, patch**3)


def unpatchify(patches: Tensor, grid: tuple[int, ...], patch: int) -> Tensor:
    """The inverse of `patchify`, sequences again apart: (B, N, P) -> (B, S, X, Y, Z).

    Args:
        patches: values of tokens.
        grid: tokens along X, Y, Z.
        patch: voxels along each axis of a token.
    """
    x, y, z = grid
    volume = patches.reshape(len(patches), -1, x, y, z, patch, patch, patch)
    volume = volume.permute(0, 1, 2, 5, 3, 6, 4, 7)
    return volume.reshape(len(patches), -1, x * patch, y * patch, z * patch)


def _places(grid: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
    return torch.meshgrid(*[torch.arange(size, device=device) for size in grid], indexing="ij")


def _compact(tokens: Tokens) -> Tokens:
    """Without the tokens that are no real ones in any sample; padded where samples differ."""
    if tokens.valid is None:
        return tokens
    longest = int(tokens.valid.sum(dim=1).max())
    order = tokens.valid.byte().argsort(dim=1, descending=True, stable=True)
    tokens = tokens.select(order[:, :longest])
    assert tokens.valid is not None
    return replace(tokens, valid=None) if tokens.valid.all() else tokens
