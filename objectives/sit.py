"""SiT: repair corrupted blocks, and find one's other view by a slow teacher (arXiv 2104.03602).

L = L_contrast + lambda L_repair, as the authors' released code has it: L_contrast = 2 tau sum_i
CE(s_i . t_{1-i} / tau) of the student's corrupted and the teacher's clean views, L_repair the mean
absolute error of corrupted pixels. Blocks are set to the mean colour, or with probability 1/2 to
another image's pixels.

The paper's first version also has the student tell by how many quarters its view was turned, and
learns the weights: L = sum_k exp(-s_k) L_k + s_k over contrast, repair and rotation.

DEVIATION: the last layer of the repair has a bias for each pixel of a patch, not for each channel;
the other image is the sample before in the batch of this process. In the first version all heads
share the class token, where the paper has two; corruption and teacher are those of the released
code, and the form of the learned weights, which the paper does not print, is the usual one.

Notation: B samples of this process, C channels, S side, N patches, D width, P = patch_size**2 * C.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample
from zoo.modalities.image_patches import ImagePatchEncoder, ImagePreprocess
from zoo.modalities.patch_vit import patchify
from zoo.objectives.batch_norm import BatchNorm
from zoo.objectives.block_masks import group_mask
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.contrastive_losses import one_sided_info_nce
from zoo.objectives.gather import GlobalBatch
from zoo.objectives.teacher import Teacher, TeacherConfig
from zoo.objectives.views import Colours, stacked_views

__all__ = ["SiT", "SiTConfig", "turned"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiTConfig(TeacherConfig):
    """The corruption, the heads, the teacher and the views."""

    version: Literal["released", "paper"] = "released"  # paper: with rotation and learned weights
    drop_share: tuple[float, float] = (0.5, 0.5)  # of pixels that become the mean colour
    replace_share: tuple[float, float] = (0.3, 0.3)  # of pixels that become another image's
    replace_probability: float = 0.5
    largest_block: float = 0.3  # share of the image's side
    temperature: float = 0.2
    repair_weight: float = 1.0  # lambda, of released; 5 for small data in its code
    hidden_dim: int = 4096
    output_dim: int = 256
    colours: Colours = field(default_factory=Colours)

    def __post_init__(self) -> None:
        self.check()
        shares = (*self.drop_share, *self.replace_share, self.replace_probability)
        if not all(0.0 <= share <= 1.0 for share in shares) or not 0 < self.largest_block <= 1:
            raise ValueError("shares and largest_block must lie between 0 and 1")


class SiT(Objective):
    """Batches hold two views: `image` (B, 2, C, S, S), `hidden` (B, 2, S, S), `replaced` (B, 2).

    In the paper's version also `turns` (B, 2), quarters of a full turn.
    """

    requires: ClassVar[type[Encoder]] = ImagePatchEncoder
    config_class = SiTConfig
    compares_samples = True

    def __init__(self, config: SiTConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, ImagePatchEncoder)
        self.config, self.patch = config, encoder.patch_size
        dim, hidden = encoder.dim, config.hidden_dim
        self.head = nn.Sequential(
            nn.Linear(encoder.embed_dim, hidden),
            BatchNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            BatchNorm(hidden),
            nn.GELU(),
            nn.Linear(hidden, config.output_dim),
            BatchNorm(config.output_dim, affine=False),
        )
        layers = [layer for _ in range(3) for layer in (nn.Linear(dim, dim), nn.GELU())]
        self.repair = nn.Sequential(*layers, nn.Linear(dim, encoder.target_dim))
        self.teacher = Teacher(encoder, self.head, config=config)
        if config.version == "paper":
            self.rotation = nn.Linear(encoder.embed_dim, 4)
            self.log_variances = nn.Parameter(torch.zeros(3))  # s

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Two augmentations, and which of their pixels are corrupted and how."""
        assert isinstance(preprocess, ImagePreprocess)
        config, side = self.config, preprocess.img_size
        views = stacked_views(sample, preprocess, generator, colours=config.colours)
        replaced = torch.rand(2, generator=generator) < config.replace_probability
        shares = (config.replace_share if flag else config.drop_share for flag in replaced)
        masks = [
            group_mask(side, self.patch, share, config.largest_block, generator) for share in shares
        ]
        batch = views | {"hidden": torch.stack(masks), "replaced": replaced}
        if config.version == "paper":
            batch["turns"] = torch.randint(4, (2,), generator=generator)
        return batch

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The weighted sum; parts `contrast`, `repair` and perhaps `rotation` without weights."""
        assert isinstance(encoder, ImagePatchEncoder)
        clean = batch["image"]
        if clean.dtype == torch.uint8:
            clean = (clean.float() / 255 - encoder.mean) / encoder.std
        hidden, replaced = batch["hidden"].unsqueeze(2), batch["replaced"]
        filling = torch.where(replaced[..., None, None, None], clean.roll(1, 0), 0.0)
        corrupted = torch.where(hidden, filling, clean)
        turns = batch.get("turns")
        return self.losses(encoder, clean, corrupted, hidden.expand_as(clean), turns)

    def losses(
        self,
        encoder: ImagePatchEncoder,
        clean: Tensor,
        corrupted: Tensor,
        hidden: Tensor,
        turns: Tensor | None = None,
    ) -> Losses:
        """Of normalised pixels (B, 2, C, S, S), `hidden` True at corrupted ones; `turns` (B, 2)."""
        config, upright = self.config, clean
        if turns is not None:
            clean, corrupted, hidden = (turned(x, turns) for x in (clean, corrupted, hidden))
        tokens = encoder.encode(encoder.tokenize({"image": corrupted.flatten(0, 1)}))
        pooled = encoder.pool(tokens)
        student = self.head(pooled)
        repaired = self.repair(tokens.x[:, tokens.prefix :]).float()
        slow_encoder, slow_head = self.teacher.towers
        with torch.no_grad():
            teacher = slow_head(slow_encoder({"image": upright.flatten(0, 1)}).pooled)
        s, t = (normalize(x.float(), dim=1).unflatten(0, (-1, 2)) for x in (student, teacher))
        scale = torch.tensor(1 / config.temperature, device=s.device)
        sides = [one_sided_info_nce(s[:, i], t[:, 1 - i], scale) for i in range(2)]
        contrast = 2 * config.temperature * torch.stack(sides).sum()
        patches, mask = (patchify(x.flatten(0, 1), self.patch) for x in (clean, hidden.float()))
        errors = ((repaired - patches).abs() * mask).sum()
        # A mean over the corrupted pixels of all processes, of which each weighs its part by n / N.
        batch = GlobalBatch.of(clean)
        weight = sum(batch.sizes) / len(clean) / batch.sum(mask.sum()).clamp(min=1)
        parts = {"contrast": contrast, "repair": errors * weight}
        if turns is None:
            total = contrast + config.repair_weight * parts["repair"]
            return Losses(total=total, parts=parts)
        parts["rotation"] = cross_entropy(self.rotation(pooled).float(), turns.flatten())
        weighed = (-self.log_variances).exp() * torch.stack([*parts.values()])
        return Losses(total=(weighed + self.log_variances).sum(), parts=parts)

    def start(self, encoder: Encoder) -> None:
        """The teacher begins with the same weights."""
        self.teacher.start(encoder, self.head)

    def after_step(self, encoder: Encoder) -> None:
        """Moves the teacher."""
        self.teacher.update(encoder, self.head)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Images (B, 2, C, S, S), each by its number (B, 2) of quarters of a full turn."""
    result = x
    for quarters in (1, 2, 3):
        chosen = (turns == quarters)[..., None, None, None]
        result = torch.where(chosen, x.rot90(quarters, (-2, -1)), result)
    return result
