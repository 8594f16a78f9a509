"""Image and text find each other among all of the batch: CLIP (2103.00020), SigLIP (2303.15343).

Or sound, volume, table and text: whatever the encoder has a tower of texts beside.

Scale and bias are the encoder's: they belong to published weights. Pairs with the same caption are
no negatives of each other (CLIP's loss only). Captions may be drawn from several sources, as VeCLIP
(arXiv 2310.07699) mixes a page's text and a captioner's. With entities, to tell an image's class is
a second task beside this one (MOFI, arXiv 2306.07952).

Notation: B pairs of this process, E width that both towers share.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample
from zoo.modalities.towers import TwoTowerEncoder, TwoTowerPreprocess
from zoo.objectives.content import content_id
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.contrastive_losses import info_nce, sigmoid_loss
from zoo.objectives.entities import EntitiesConfig, EntityClassifier
from zoo.objectives.labels import label_of
from zoo.objectives.negatives import PLAIN, NegativesConfig

from zoo.errors import DataError

__all__ = ["ImageText", "ImageTextConfig"]

_MOST = math.log(100.0)  # CLIP's bound of the logarithm of the scale


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTextConfig:
    """The loss, where captions come from, and the second task."""

    loss: Literal["info_nce", "sigmoid"] = "info_nce"  # as CLIP or SigLIP has it
    captions: tuple[str, ...] = ("txt",)  # the txt member, or keys of the json member
    caption_shares: tuple[float, ...] = (1.0,)  # how often each is taken; the present ones share
    negatives: NegativesConfig = PLAIN  # of CLIP's loss
    entities: EntitiesConfig = field(default_factory=EntitiesConfig)

    def __post_init__(self) -> None:
        if len(self.captions) != len(self.caption_shares) or min(self.caption_shares) < 0:
            raise ValueError("captions and caption_shares must go together, shares be positive")
        if self.loss == "sigmoid" and self.negatives != PLAIN:
            raise ValueError("negatives are chosen for loss=info_nce only")


class ImageText(Objective):
    """Batches hold what the encoder takes, its texts as `text_...`, and `caption_ids` (B, 1).

    Where there are entities, also `label` (B, 1).
    """

    requires: ClassVar[type[Encoder]] = TwoTowerEncoder
    config_class = ImageTextConfig
    compares_samples = True

    def __init__(self, config: ImageTextConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, TwoTowerEncoder)
        if config.loss == "sigmoid" and encoder.logit_bias is None:
            raise ValueError("loss=sigmoid needs an encoder with a bias, as SigLIP's models have")
        self.config = config
        self.classifier: EntityClassifier | None = None
        if config.entities.count:
            self.classifier = EntityClassifier(encoder.embed_dim, config.entities)

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """One augmentation of the sample, and one caption.

        Raises:
            DataError: the sample has no caption, or no class where there are entities.
        """
        assert isinstance(preprocess, TwoTowerPreprocess)
        text = preprocess.caption(self._caption(sample, generator))
        same = torch.tensor([content_id(*text.values())])
        batch = preprocess.augment(sample, generator) | text | {"caption_ids": same}
        if self.classifier is not None:
            batch["label"] = self._entity(sample)
        return batch

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The loss over all processes' pairs; metrics `similarity` and `scale`.

        With entities the weighted sum of the parts `contrast` and `entities`, without weights.
        """
        assert isinstance(encoder, TwoTowerEncoder)
        vectors = encoder(batch).pooled, encoder.encode_text(batch)
        a, b = (torch.nn.functional.normalize(x.float(), dim=-1) for x in vectors)
        scale = encoder.logit_scale.exp()
        total = self._loss(a, b, scale, encoder.logit_bias, batch["caption_ids"].view(-1, 1))
        metrics = {"similarity": (a * b).sum(1).mean(), "scale": scale.squeeze()}
        if self.classifier is None:
            return Losses(total=total, metrics=metrics)
        parts = {"contrast": total, "entities": self.classifier(a, batch["label"].flatten())}
        total = total + self.config.entities.weight * parts["entities"]
        return Losses(total=total, parts=parts, metrics=metrics)

    def count(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch["caption_ids"])

    @torch.no_grad()
    def after_step(self, encoder: Encoder) -> None:
        """Keeps the scale between 1 and 100."""
        assert isinstance(encoder, TwoTowerEncoder)
        encoder.logit_scale.clamp_(0.0, _MOST)

    def _loss(
        self, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor | None, ids: Tensor
    ) -> Tensor:
        if self.config.loss == "sigmoid":
            assert bias is not None
            return sigmoid_loss(a, b, scale, bias)
        return info_nce(a, b, scale, ids, self.config.negatives)

    def _entity(self, sample: Sample) -> Tensor:
        label, count = label_of(sample), self.config.entities.count
        if label >= count:
            raise DataError(f"class {int(label)}: objective.entities.count is only {count}")
        return label

    def _caption(self, sample: Sample, generator: torch.Generator) -> str:
        facts = sample.get("facts")
        known = {"txt": sample.get("text"), **(facts if isinstance(facts, dict) else {})}
        pairs = zip(self.config.captions, self.config.caption_shares, strict=True)
        found = [(text, share) for name, share in pairs if isinstance(text := known.get(name), str)]
        if not found or not sum(share for _, share in found):
            raise DataError(f"no caption: neither of {', '.join(self.config.captions)} is there")
        shares = torch.tensor([share for _, share in found])
        return found[int(torch.multinomial(shares, 1, generator=generator))][0]
