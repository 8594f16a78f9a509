"""iBOT: DINO, and hidden patches find the prototypes of what the teacher sees (arXiv 2111.07832).

L = L_DINO + L_patch; L_patch is the cross-entropy of each hidden patch, averaged over those of an
image and then over images. Class token and patches share a head and have a centre each.

A hidden patch is the embedding of a blank one and a learned vector, with its position.

Notation: B samples of this process, N patches, D width, K prototypes.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample
from zoo.modalities.image_patches import ImagePatchEncoder
from zoo.objectives.block_masks import block_mask
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.crops import CropsConfig, crop_features
from zoo.objectives.dino import DINO, DINOConfig, view_cross_entropy
from zoo.objectives.prototypes import Centre

__all__ = ["IBOT", "IBOTConfig", "patch_cross_entropy"]


def _crops() -> CropsConfig:
    return CropsConfig(count=10, scale=(0.05, 0.25))


@dataclass(frozen=True, slots=True, kw_only=True)
class IBOTConfig(DINOConfig):
    """DINO's options, and what is hidden."""

    crops: CropsConfig = field(default_factory=_crops)
    output_dim: int = 8192
    mask_ratio: tuple[float, float] = (0.1, 0.5)  # share of a view's patches, between
    mask_probability: float = 0.5  # that any patch of a view is hidden
    patch_weight: float = 1.0

    def __post_init__(self) -> None:
        DINOConfig.__post_init__(self)
        low, high = self.mask_ratio
        if not 0.0 < low <= high < 1.0 or not 0.0 <= self.mask_probability <= 1.0:
            raise ValueError("mask_ratio and mask_probability must lie between 0 and 1")


class IBOT(Objective):
    """Batches are DINO's with `hidden` (B, 2, N), True at patches the student does not see."""

    requires: ClassVar[type[Encoder]] = ImagePatchEncoder
    config_class = IBOTConfig
    compares_samples = True

    def __init__(self, config: IBOTConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, ImagePatchEncoder)
        self.config, self.grid = config, encoder.grid
        self.dino = DINO(config, encoder)
        self.patch_centre = Centre(config.output_dim, config.center_momentum)
        self.mask_token = nn.Parameter(torch.zeros(encoder.dim))

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Two global crops with what is hidden of them, and the small ones."""
        low, high = self.config.mask_ratio
        masks = []
        for _ in range(2):
            chance, where = torch.rand(2, generator=generator).tolist()
            share = low + where * (high - low) if chance < self.config.mask_probability else 0.0
            masks.append(block_mask(self.grid, share, generator).flatten())
        return self.dino.prepare(sample, preprocess, generator) | {"hidden": torch.stack(masks)}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The weighted sum; parts `view` and `patch` without weights."""
        assert isinstance(encoder, ImagePatchEncoder)
        images, hidden = batch["image"].flatten(0, 1), batch["hidden"].flatten(0, 1)
        pooled, patches = self._hide(encoder, images, hidden)
        features = pooled.unflatten(0, (-1, 2))
        if "local" in batch:
            crops = crop_features(encoder, batch["local"].flatten(0, 1))
            features = torch.cat([features, crops.unflatten(0, (len(features), -1))], dim=1)
        learns = (self.dino.teacher.updates >= self.config.freeze_last_layer).float()
        student = self.dino.head(features, learns).transpose(0, 1)
        found = self.dino.head(patches[hidden], learns)
        slow_encoder, slow_head = self.dino.teacher.towers
        with torch.no_grad():
            seen = slow_encoder({"image": images})
            outputs = slow_head(seen.pooled).unflatten(0, (-1, 2)).transpose(0, 1)
            wanted = slow_head(seen.tokens[hidden])
        temperature = self.dino.temperature()
        shares = self.dino.centre.shares(outputs, temperature)
        view = view_cross_entropy(shares, student / self.config.student_temp)
        wanted = self.patch_centre.shares(wanted, temperature)
        patch = patch_cross_entropy(wanted, found / self.config.student_temp, hidden)
        parts = {"view": view, "patch": patch, **self.dino.apart(features)}
        total = view + self.config.patch_weight * patch
        total += self.config.koleo_weight * parts.get("koleo", 0.0)
        return Losses(total=total, parts=parts)

    def start(self, encoder: Encoder) -> None:
        """The teacher begins with the same weights."""
        self.dino.start(encoder)

    def after_step(self, encoder: Encoder) -> None:
        """Moves the teacher and the centres."""
        self.dino.after_step(encoder)
        self.patch_centre.update()

    def _hide(
        self, encoder: ImagePatchEncoder, images: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pooled (M, D) and patches (M, N, D) of images (M, C, S, S)."""
        tokens = encoder.tokenize({"image": images})
        blank = encoder.tokenize({"image": torch.zeros_like(images[:1], dtype=torch.float32)}).x
        x = torch.where(
            hidden.unsqueeze(-1), (blank + self.mask_token).to(tokens.x.dtype), tokens.x
        )
        encoded = encoder.encode(replace(tokens, x=x))
        return encoder.pool(encoded), encoded.x[:, encoded.prefix :]


def patch_cross_entropy(shares: Tensor, logits: Tensor, hidden: Tensor) -> Tensor:
    """The mean over images of the mean over their hidden patches; 0 where none is hidden.

    Args:
        shares: (m, K) of the teacher at the hidden patches of all images, in order.
        logits: (m, K) of the student there.
        hidden: (M, N), True at m places.
    """
    each = -(shares * logits.float().log_softmax(-1)).sum(-1)
    weights = 1 / hidden.sum(1, keepdim=True).clamp(min=1).expand_as(hidden)[hidden]
    return (each * weights).sum() / len(hidden)
