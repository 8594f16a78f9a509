"""Vision transformer for images: pixels, norms and pooling around the trunk of `PatchViT`.

State dict and numerics are those of facebookresearch/mae (arXiv 2111.06377) and of timm.

Notation: B images, C channels, S side, G tokens along a side, N = G * G, D width,
P = patch_size**2 * C.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from zoo.modalities.contracts import Batch, Tokens
from zoo.modalities.image_patches import ImagePatchEncoder
from zoo.modalities.patch_vit import PatchViT, PatchViTConfig, unpatchify
from zoo.modalities.positions import resize_positions, sincos_positions
from zoo.modalities.vision.pixels import normalized, register_statistics
from zoo.modalities.vision.preprocess import VisionPreprocess, VisionPreprocessConfig

__all__ = ["ViT", "ViTConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViTConfig(PatchViTConfig):
    """Everything that shapes the encoder."""

    img_size: int = 224
    in_chans: int = 3
    pos_embed: Literal["sincos", "learned"] = "sincos"
    # cls: norm, then the class token. mean: norm, then the mean over patches. mean_norm: the mean
    # over patches, then fc_norm (MAE's fine-tuning, timm's "avg").
    pool: Literal["cls", "mean", "mean_norm"] = "cls"
    pos_antialias: bool = False  # of position tables made for other sizes: timm does, MAE does not

    def __post_init__(self) -> None:
        if self.img_size % self.patch_size:
            raise ValueError(
                f"img_size {self.img_size} must be a multiple of patch_size {self.patch_size}"
            )


class ViT(PatchViT, ImagePatchEncoder):
    """Patches -> pre-norm transformer -> norm; one class token in front.

    A batch holds `image` (B, C, S, S): uint8 is raw and gets normalised here, on the device;
    floating point is taken as already normalised.
    """

    modality = "vision"
    config_class = ViTConfig
    preprocess_class = VisionPreprocessConfig
    config: ViTConfig
    preprocess: VisionPreprocess
    mean: Tensor
    std: Tensor

    def __init__(self, config: ViTConfig, preprocess: VisionPreprocessConfig) -> None:
        side = config.img_size // config.patch_size
        table = sincos_positions(config.dim, (side, side), prefix=self.num_prefix_tokens)
        super().__init__(config, in_chans=config.in_chans, positions=table)
        self._grid = (side, side)
        self.img_size, self.patch_size = config.img_size, config.patch_size
        self.preprocess = VisionPreprocess(
            preprocess, img_size=config.img_size, in_chans=config.in_chans
        )
        if config.pos_embed == "learned":
            self.pos_embed.requires_grad_()
            if not self.pos_embed.is_meta:
                nn.init.trunc_normal_(self.pos_embed, std=0.02)
        norm_first = config.pool != "mean_norm"
        norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.norm = norm if norm_first else nn.Identity()
        self.fc_norm = nn.Identity() if norm_first else norm
        self.init_buffers()

    @property
    def grid(self) -> tuple[int, int]:
        """(G, G)."""
        return self._grid

    def init_buffers(self) -> None:
        """Pixel statistics."""
        register_statistics(self, self.preprocess.config, self.cls_token.device)

    def tokenize(self, batch: Batch) -> Tokens:
        """`x` (B, N, D) with positions, `targets` (B, N, P) normalised pixels, `coords` (N, 2)."""
        size = self.config.img_size
        pixels = normalized(batch["image"], self.mean, self.std, size=size)
        return self._tokens(pixels, self.pos_embed)

    def encode(self, tokens: Tokens) -> Tokens:
        """Class token in front, blocks, norm: (B, n, D) -> (B, 1 + n, D) for any n >= 0."""
        x = self.norm(self._run(tokens.x))
        return Tokens(x=x, coords=tokens.coords, targets=tokens.targets, prefix=1)

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
        """Resizes a position table made for another image size, and replaces the final norm.

        Weights without `fc_norm` get a new one, as when MAE's pretrained weights are fine-tuned.
        """
        changed = []
        table = state.get("pos_embed")
        if table is not None and table.shape != self.pos_embed.shape:
            state["pos_embed"] = resize_positions(
                table,
                self.grid,
                prefix=self.num_prefix_tokens,
                antialias=self.config.pos_antialias,
            )
            changed.append("pos_embed")
        if self.config.pool == "mean_norm" and "fc_norm.weight" not in state:
            for name, value in (("weight", 1.0), ("bias", 0.0)):
                if state.pop(f"norm.{name}", None) is not None:
                    state[f"fc_norm.{name}"] = torch.full((self.dim,), value)
                    changed.append(f"fc_norm.{name}")
        return tuple(changed)
