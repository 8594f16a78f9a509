"""Vision transformer (arXiv 2010.11929) that can run on any subset of its patches.

State dict and numerics are those of facebookresearch/mae (arXiv 2111.06377), which timm's
VisionTransformer shares; the patch projection is stored as a convolution and computed as the matrix
product that it is, because the patches are needed anyway: they are what an MAE reconstructs.

Notation: B images, C channels, G tokens along a side, N = G * G, D width, P = patch_size**2 * C.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from zoo.modalities.attention import attention
from zoo.modalities.blocks import Block
from zoo.modalities.contracts import Batch, GridEncoder, Tokens
from zoo.modalities.positions import resize_positions, sincos_positions
from zoo.modalities.vision.preprocess import VisionPreprocess, VisionPreprocessConfig

__all__ = ["ViT", "ViTConfig", "patchify", "unpatchify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViTConfig:
    """Everything that shapes the encoder."""

    img_size: int = 224
    patch_size: int = 16
    in_chans: int = 3
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    pos_embed: Literal["sincos", "learned"] = "sincos"
    # cls: norm, then the class token. mean: norm, then the mean over patches. mean_norm: the mean
    # over patches, then fc_norm (MAE's fine-tuning, timm's "avg").
    pool: Literal["cls", "mean", "mean_norm"] = "cls"
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if self.img_size % self.patch_size:
            raise ValueError(
                f"img_size {self.img_size} must be a multiple of patch_size {self.patch_size}"
            )


class ViT(GridEncoder):
    """Patches -> pre-norm transformer -> norm; one class token in front.

    A batch holds `image` (B, C, H, W): uint8 is raw and gets normalised here, on the device;
    floating point is taken as already normalised.
    """

    modality = "vision"
    config_class = ViTConfig
    preprocess_class = VisionPreprocessConfig
    num_prefix_tokens = 1
    preprocess: VisionPreprocess
    mean: Tensor
    std: Tensor

    def __init__(self, config: ViTConfig, preprocess: VisionPreprocessConfig) -> None:
        super().__init__()
        self.config, self.dim = config, config.dim
        self.preprocess = VisionPreprocess(
            preprocess, img_size=config.img_size, in_chans=config.in_chans
        )
        patch = config.patch_size
        self.target_dim = patch * patch * config.in_chans
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        table = sincos_positions(config.dim, self.grid, prefix=self.num_prefix_tokens)
        self.pos_embed = nn.Parameter(table, requires_grad=config.pos_embed == "learned")
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(config.in_chans, config.dim, patch, stride=patch)}
        )
        self.blocks = nn.ModuleList(
            Block(
                config.dim,
                config.heads,
                int(config.dim * config.mlp_ratio),
                norm_eps=config.norm_eps,
                drop_path=config.drop_path * i / max(1, config.depth - 1),
            )
            for i in range(config.depth)
        )
        norm_first = config.pool != "mean_norm"
        norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.norm = norm if norm_first else nn.Identity()
        self.fc_norm = nn.Identity() if norm_first else norm
        if not self.cls_token.is_meta:  # drawing on meta imports torch's compiler, for seconds
            self.init_weights()
        self.init_buffers()

    @property
    def grid(self) -> tuple[int, int]:
        """(G, G)."""
        side = self.config.img_size // self.config.patch_size
        return side, side

    def init_weights(self) -> None:
        """MAE's initialisation: xavier-uniform matrices, zero biases, normal(0.02) class token."""
        nn.init.normal_(self.cls_token, std=0.02)
        if self.config.pos_embed == "learned":
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.xavier_uniform_(self._projection.weight.view(self.dim, -1))
        init_linear(self.blocks)

    def init_buffers(self) -> None:
        """Pixel statistics as (C, 1, 1), in no file: they belong to the preprocessing."""
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.preprocess.config, name)).view(-1, 1, 1)
            device = self.cls_token.device
            self.register_buffer(name, values.to(device), persistent=False)

    def tokenize(self, batch: Batch) -> Tokens:
        """`x` (B, N, D) with positions, `targets` (B, N, P) normalised pixels, `coords` (N, 2)."""
        patches = patchify(self._pixels(batch["image"]), self.config.patch_size)
        projection = self._projection
        weight = projection.weight.permute(0, 2, 3, 1).flatten(1)  # (D, P) in patchify's order
        x = linear(patches.to(weight.dtype), weight, projection.bias)
        x = x + self.pos_embed[:, self.num_prefix_tokens :].to(x.dtype)
        rows, columns = self.grid
        coords = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(x.device)
        return Tokens(x=x, coords=coords, targets=patches)

    def encode(self, tokens: Tokens) -> Tokens:
        """Class token in front, blocks, norm: (B, n, D) -> (B, 1 + n, D) for any n >= 0."""
        x = tokens.x
        cls = (self.cls_token + self.pos_embed[:, :1]).to(x.dtype)
        x = torch.cat([cls.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x, attention)
        return Tokens(x=self.norm(x), coords=tokens.coords, targets=tokens.targets, prefix=1)

    def pool(self, tokens: Tokens) -> Tensor:
        """(B, D) as `config.pool` says."""
        if self.config.pool == "cls":
            return tokens.x[:, 0]
        return self.fc_norm(tokens.x[:, tokens.prefix :].mean(dim=1))

    def draw(self, values: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, N, P) -> uint8 (B, H, W, 1 or 3): pixels of one or of the first three channels."""
        pixels = unpatchify(values, self.grid, self.config.patch_size) * self.std + self.mean
        if hidden is not None:
            grey = hidden.unsqueeze(-1).expand_as(values)
            pixels[unpatchify(grey, self.grid, self.config.patch_size)] = 0.5
        channels = 3 if pixels.shape[1] >= 3 else 1
        return (pixels[:, :channels] * 255).round().clamp(0, 255).byte().movedim(1, -1)

    def adapt(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """Resizes the position table of a file that was made for another image size."""
        table = state.get("pos_embed")
        if table is None or table.shape == self.pos_embed.shape:
            return ()
        state["pos_embed"] = resize_positions(table, self.grid, prefix=self.num_prefix_tokens)
        return ("pos_embed",)

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Which parameters form a layer, in timm's notation: for layer-wise learning rates."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": r"^blocks\.(\d+)",  # the final norm falls together with the head, as in MAE
        }

    @property
    def _projection(self) -> nn.Conv2d:
        projection = self.patch_embed["proj"]
        assert isinstance(projection, nn.Conv2d)
        return projection

    def _pixels(self, image: Tensor) -> Tensor:
        size = self.config.img_size
        if image.shape[1:] != (self.config.in_chans, size, size):
            raise ValueError(
                f"image is {tuple(image.shape)}, the encoder takes "
                f"(B, {self.config.in_chans}, {size}, {size})"
            )
        if image.dtype == torch.uint8:
            return (image.float() / 255 - self.mean) / self.std
        return image


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


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear layer inside."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
