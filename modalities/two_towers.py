"""Any encoder beside an encoder of texts: CLIP (arXiv 2103.00020) for whatever a modality holds.

Each side keeps its own preprocessing and gets a projection without bias to the width that both
share. Names of scale and bias are open_clip's.

Notation: B samples or texts, D width of a side's pooled features, E width that both share.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize as unit
from zoo.modalities.contracts import (
    Batch,
    Encoder,
    Features,
    Preprocess,
    Raw,
    Sample,
    to_device,
)
from zoo.modalities.towers import TwoTowerEncoder, TwoTowerPreprocess

__all__ = ["TwoTowers", "TwoTowersConfig", "TwoTowersPreprocess", "TwoTowersPreprocessConfig"]

_TEXT, _FILE = "text_", "text-"  # what fields of a batch, and names of files, begin with


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoTowersConfig:
    """Both towers, each a table of its own with the architecture's `name`, and what joins them."""

    tower: dict[str, object]
    text: dict[str, object]
    embed_dim: int = 512  # E
    init_logit_scale: float = math.log(1 / 0.07)
    init_logit_bias: float | None = None  # a number, as SigLIP's -10, for its loss

    def __post_init__(self) -> None:
        for side in ("tower", "text"):
            if "name" not in getattr(self, side):
                raise ValueError(f"{side}.name is missing: which architecture is it?")


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoTowersPreprocessConfig:
    """The constants of each side."""

    tower: dict[str, object] = field(default_factory=dict)
    text: dict[str, object] = field(default_factory=dict)


class TwoTowersPreprocess(TwoTowerPreprocess):
    """The tower's own, and a caption read as the encoder of texts reads it."""

    def __init__(self, tower: Preprocess, text: Preprocess) -> None:
        self.tower, self.text = tower, text

    def __call__(self, raw: Raw) -> Batch:
        """As the tower's."""
        return self.tower(raw)

    def augment(self, sample: Sample, generator: torch.Generator) -> Batch:
        """As the tower's."""
        return self.tower.augment(sample, generator)

    def caption(self, text: str) -> Batch:
        """The fields of the text, renamed."""
        return {_TEXT + name: value for name, value in self.text({"text": text}).items()}

    def length(self, sample: Batch) -> int:
        """Tokens of both sides."""
        texts = texts_of(sample)
        return self.tower.length(sample) + (self.text.length(texts) if texts else 0)

    def collate(self, samples: Sequence[Batch]) -> Batch:
        """Each side's fields as its own preprocessing collates them."""
        texts = [texts_of(sample) for sample in samples]
        others = [
            {name: value for name, value in sample.items() if not name.startswith(_TEXT)}
            for sample in samples
        ]
        batch = self.tower.collate(others) if others[0] else {}
        if texts[0]:
            batch |= {_TEXT + name: v for name, v in self.text.collate(texts).items()}
        return batch

    @property
    def bound(self) -> Mapping[str, object]:
        """The tower's: a tokenizer travels with the weights anyway."""
        return self.tower.bound

    @property
    def ready(self) -> bool:
        """Whether both sides are."""
        return self.tower.ready and self.text.ready

    def fit(self, samples: Iterable[Sample]) -> None:
        """Each side learns what it misses, the encoder of texts from the samples' texts."""
        texts, seen = list[Sample](), iter(samples)

        def noted() -> Iterator[Sample]:
            for sample in seen:
                if isinstance(sample.get("text"), str):
                    texts.append({"text": sample["text"]})
                yield sample

        if not self.tower.ready:
            self.tower.fit(noted())
        for _ in noted():
            pass
        if not self.text.ready:
            self.text.fit(texts)

    def assets(self) -> dict[str, bytes]:
        """Files of both; those of texts have names of their own."""
        return self.tower.assets() | {_FILE + n: data for n, data in self.text.assets().items()}

    def load_assets(self, assets: Mapping[str, bytes]) -> None:
        """Hands each side its files."""
        own = {name: data for name, data in assets.items() if not name.startswith(_FILE)}
        texts = {n.removeprefix(_FILE): data for n, data in assets.items() if n not in own}
        self.tower.load_assets(own)
        self.text.load_assets(texts)


class TwoTowers(TwoTowerEncoder):
    """Tokens are the tower's, pooled features are projected to (B, E), not yet of unit length.

    A batch holds the tower's fields and those of the texts, renamed to `text_...`.
    """

    config_class = TwoTowersConfig
    preprocess_class = TwoTowersPreprocessConfig
    parts = ("tower", "text")
    preprocess: TwoTowersPreprocess
    tower: Encoder
    text: Encoder

    def __init__(
        self,
        config: TwoTowersConfig,
        preprocess: TwoTowersPreprocessConfig,
        *,
        tower: Encoder,
        text: Encoder,
    ) -> None:
        """`preprocess` is what both encoders were built with."""
        super().__init__()
        if text.modality != "code":
            raise ValueError(f"text.name={config.text['name']} is no encoder of texts")
        self.config, self.modality, self.dim = config, tower.modality, tower.dim
        self.tower, self.text = tower, text
        self.preprocess = TwoTowersPreprocess(tower.preprocess, text.preprocess)
        self.proj = nn.Linear(tower.embed_dim, config.embed_dim, bias=False)
        self.text_proj = nn.Linear(text.embed_dim, config.embed_dim, bias=False)
        # One axis, because FSDP divides parameters along their first one.
        self.scale = nn.Parameter(torch.full((1,), config.init_logit_scale))
        bias = config.init_logit_bias
        self.bias = None if bias is None else nn.Parameter(torch.full((1,), bias))

    @property
    def embed_dim(self) -> int:
        """E."""
        return self.config.embed_dim

    @property
    def logit_scale(self) -> nn.Parameter:
        """(1,), the logarithm of the inverse temperature."""
        return self.scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """(1,) of SigLIP's loss, or None."""
        return self.bias

    def init_buffers(self) -> None:
        """Of both towers."""
        self.tower.init_buffers()
        self.text.init_buffers()

    def forward(self, batch: Batch) -> Features:
        """The tower's features, pooled ones projected."""
        features: Features = self.tower(batch)
        return replace(features, pooled=self.proj(features.pooled))

    @torch.inference_mode()
    def embed(
        self, inputs: Sequence[Raw], *, batch_size: int = 64, progress: bool | None = None
    ) -> np.ndarray:
        """As the tower's, which knows what an item is (of a table each row), and projected."""
        features = self.tower.embed(inputs, batch_size=batch_size, progress=progress)
        weight = self.proj.weight
        vectors: Tensor = self.proj(torch.from_numpy(features).to(weight.device, weight.dtype))
        return vectors.float().cpu().numpy()

    def encode_text(self, texts: Batch | Sequence[str], *, normalize: bool = False) -> Tensor:
        """Texts, or a batch with their fields, -> (B, E), of unit length where `normalize`."""
        if not isinstance(texts, dict):
            texts = self.preprocess.collate([self.preprocess.caption(text) for text in texts])
            texts = to_device(texts, self.scale.device)
        vectors: Tensor = self.text_proj(self.text(texts_of(texts)).pooled)
        return unit(vectors, dim=-1) if normalize else vectors


def texts_of(batch: Batch) -> Batch:
    """The fields of texts, as the encoder of texts has them."""
    return {n.removeprefix(_TEXT): value for n, value in batch.items() if n.startswith(_TEXT)}
