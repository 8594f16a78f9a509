"""The vision transformer (arXiv 2010.11929) over patches of anything that lies on a 2-D grid.

State dict and numerics are those of facebookresearch/mae (arXiv 2111.06377), which timm's
VisionTransformer shares. The patch projection is stored as a convolution and computed as the matrix
product that it is, because the patches are needed anyway: they are what an MAE reconstructs.
What the pixels are, what is normed and what is pooled is a matter of the modality.

Notation: B samples, C channels, N tokens, n of them, D width, P = patch_size**2 * C.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from zoo.modalities.attention import attention
from zoo.modalities.blocks import Block
from zoo.modalities.contracts import GridEncoder, Tokens

__all__ = ["PatchViT", "PatchViTConfig", "blocks_of", "patchify", "unpatchify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchViTConfig:
    """What shapes the trunk."""

    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    drop_path: float = 0.0  # of the last block; a line from 0 at the first


def blocks_of(config: PatchViTConfig) -> nn.ModuleList:
    """The blocks of a trunk, each dropped more often than the one before."""
    return nn.ModuleList(
        Block(
            config.dim,
            config.heads,
            int(config.dim * config.mlp_ratio),
            norm_eps=config.norm_eps,
            drop_path=config.drop_path * i / max(1, config.depth - 1),
        )
        for i in range(config.depth)
    )


class PatchViT(GridEncoder):
    """Patches, positions, one class token in front, pre-norm blocks; no norm at the end."""

    num_prefix_tokens = 1
    config: PatchViTConfig

    def __init__(self, config: PatchViTConfig, *, in_chans: int, positions: Tensor) -> None:
        """Builds everything up to the last block.

        Args:
            config: the trunk.
            in_chans: C.
            positions: (1, 1 + N, D), frozen.
        """
        super().__init__()
        self.config, self.dim = config, config.dim
        patch = config.patch_size
        self.target_dim = patch * patch * in_chans
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(positions, requires_grad=False)
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(in_chans, config.dim, patch, stride=patch)}
        )
        self.blocks = blocks_of(config)
        if not self.cls_token.is_meta:  # drawing on meta imports torch's compiler, for seconds
            self.init_weights()

    def init_weights(self) -> None:
        """MAE's initialisation: xavier-uniform matrices, zero biases, normal(0.02) class token."""
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.xavier_uniform_(self._projection.weight.view(self.dim, -1))
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Which parameters form a layer, in timm's notation: for layer-wise learning rates."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": r"^blocks\.(\d+)",  # the final norm falls together with the head, as in MAE
        }

    def _tokens(self, pixels: Tensor, positions: Tensor) -> Tokens:
        """(B, C, H, W), (1, 1 + N, D) -> `x` (B, N, D), `targets` (B, N, P), `coords` (N, 2)."""
        patch, projection = self.config.patch_size, self._projection
        patches = patchify(pixels, patch)
        weight = projection.weight.permute(0, 2, 3, 1).flatten(1)  # (D, P) in patchify's order
        x = linear(patches.to(weight.dtype), weight, projection.bias)
        x = x + positions[:, self.num_prefix_tokens :].to(x.dtype)
        rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
        places = torch.arange(rows * columns, device=x.device)
        coords = torch.stack([places // columns, places % columns], dim=1)
        return Tokens(x=x, coords=coords, targets=patches)

    def _run(self, x: Tensor) -> Tensor:
        """Class token in front, then the blocks: (B, n, D) -> (B, 1 + n, D) for any n >= 0."""
        cls = (self.cls_token + self.pos_embed[:, :1]).to(x.dtype)
        x = torch.cat([cls.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x, attention)
        return x

    @property
    def _projection(self) -> nn.Conv2d:
        projection = self.patch_embed["proj"]
        assert isinstance(projection, nn.Conv2d)
        return projection


def patchify(image: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, N, patch * patch * C): row-major grid, channel fastest inside."""
    b, c, h, w = image.shape
    image = image.reshape(b, c, h // patch, patch, w // patch, patch)
    return image.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, patch * patch * c)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """The inverse of `patchify`: (B, N, P) -> (B, C, H, W)."""
    rows, columns = grid
    image = patches.reshape(len(patches), rows, columns, patch, patch, -1)
    return image.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, rows * patch, columns * patch)
