"""CLIP as open_clip has it: its towers, its tokenizer, its preprocessing, and its numerics.

Notation: B images or texts, S side, L tokens of a text, E width that both towers share.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize
from zoo.modalities.contracts import Batch, Features
from zoo.modalities.towers import TwoTowerEncoder, TwoTowerPreprocess
from zoo.modalities.vision.buffers import fill_buffers
from zoo.modalities.vision.clip_texts import FILES, FileTokenizer, TokenizerOptions
from zoo.modalities.vision.pixels import normalized, register_statistics
from zoo.modalities.vision.preprocess import VisionPreprocess, VisionPreprocessConfig

from zoo.errors import UsageError

__all__ = ["OpenCLIP", "OpenCLIPConfig", "OpenCLIPPreprocess", "open_clip"]

_IMAGE, _TEXT = "vision_cfg", "text_cfg"
# Our options that replace a number of open_clip's configuration, and where it is.
_PLACES = {
    "img_size": (_IMAGE, "image_size"),
    "patch_size": (_IMAGE, "patch_size"),
    "width": (_IMAGE, "width"),
    "depth": (_IMAGE, "layers"),
    "head_width": (_IMAGE, "head_width"),
    "context_length": (_TEXT, "context_length"),
    "text_width": (_TEXT, "width"),
    "text_depth": (_TEXT, "layers"),
    "text_heads": (_TEXT, "heads"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCLIPConfig:
    """Everything that shapes both towers; what is None is as open_clip's configuration says."""

    model: str  # open_clip's name of the configuration
    quick_gelu: bool = False  # weights of OpenAI and some others have this approximation
    embed_dim: int | None = None  # E
    img_size: int | None = None  # S
    patch_size: int | None = None
    width: int | None = None
    depth: int | None = None
    head_width: int | None = None
    context_length: int | None = None  # L
    text_width: int | None = None
    text_depth: int | None = None
    text_heads: int | None = None


class OpenCLIPPreprocess(VisionPreprocess, TwoTowerPreprocess):
    """Images as for other encoders, and texts -> ids of CLIP's own tokenizer."""

    def __init__(
        self, config: VisionPreprocessConfig, *, img_size: int, context_length: int
    ) -> None:
        super().__init__(config, img_size=img_size, in_chans=3)
        self.context_length = context_length
        self._tokenizer: Callable[[list[str]], Tensor] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Without the tokenizer, which a worker process makes again."""
        return self.__dict__ | {"_tokenizer": None}

    def caption(self, text: str) -> Batch:
        """`text_ids` (L,)."""
        return {"text_ids": self.ids([text])[0]}

    def ids(self, texts: Sequence[str]) -> Tensor:
        """(B, L) int64 with start and end; what is longer is cut, what is shorter filled up."""
        if self._tokenizer is None:
            self._tokenizer = self.tokenizer()
        return self._tokenizer(list(texts))

    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """A new one."""
        made: Callable[[list[str]], Tensor] = import_module("open_clip.tokenizer").SimpleTokenizer(
            context_length=self.context_length
        )
        return made


class FilePreprocess(OpenCLIPPreprocess):
    """Texts -> ids of a tokenizer that was published in files, as SigLIP's was."""

    asset_names = FILES

    def __init__(
        self,
        config: VisionPreprocessConfig,
        *,
        img_size: int,
        context_length: int,
        options: TokenizerOptions,
    ) -> None:
        super().__init__(config, img_size=img_size, context_length=context_length)
        self.options = options
        self._files: dict[str, bytes] = {}

    @property
    def ready(self) -> bool:
        """False until the files were given."""
        return bool(self._files)

    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """A new one.

        Raises:
            UsageError: nobody has given its files.
        """
        if not self._files:
            raise UsageError(
                f"this model reads texts by the tokenizer of {self.options.repo}: zoo.load brings "
                f"it with published weights; else put {' and '.join(FILES)} beside the weights"
            )
        return FileTokenizer(self._files, self.options, self.context_length)

    def assets(self) -> dict[str, bytes]:
        """The files, once they are there."""
        return dict(self._files)

    def load_assets(self, assets: Mapping[str, bytes]) -> None:
        """Takes the files.

        Raises:
            DataError: they hold no tokenizer.
        """
        if FILES[0] in assets:
            files = {name: assets[name] for name in FILES if name in assets}
            self._tokenizer = FileTokenizer(files, self.options, self.context_length)
            self._files = files


class OpenCLIP(TwoTowerEncoder):
    """Pooled features are those of images, not yet of unit length.

    A batch holds `image` (B, 3, S, S): uint8 is raw, floating point is already normalised.
    """

    modality = "vision"
    config_class = OpenCLIPConfig
    preprocess_class = VisionPreprocessConfig
    layout = "open_clip"
    preprocess: OpenCLIPPreprocess
    mean: Tensor
    std: Tensor

    def __init__(self, config: OpenCLIPConfig, preprocess: VisionPreprocessConfig) -> None:
        super().__init__()
        self.config = config
        facts = _facts(config)
        self.dim = facts["embed_dim"]
        self.preprocess = _preprocess(preprocess, facts)
        self.model = _built(config)
        register_statistics(self, preprocess, self.logit_scale.device)

    @property
    def logit_scale(self) -> nn.Parameter:
        """(1,), the logarithm of the inverse temperature."""
        scale = self.model.logit_scale
        assert isinstance(scale, nn.Parameter)
        return scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """(1,) of SigLIP's loss, or None."""
        bias = self.model.logit_bias
        return bias if isinstance(bias, nn.Parameter) else None

    def init_buffers(self) -> None:
        """Pixel statistics, and what open_clip computes and keeps in no file."""
        device = self.logit_scale.device
        register_statistics(self, self.preprocess.config, device)
        fill_buffers(self.model, partial(_built, self.config), device)

    def forward(self, batch: Batch) -> Features:
        """The image's vector is its one token, too: towers differ in what else they have."""
        pooled = self.encode_image(batch["image"])
        return Features(tokens=pooled.unsqueeze(1), pooled=pooled)

    def encode_image(self, image: Tensor, *, normalize: bool = False) -> Tensor:
        """(B, 3, S, S) -> (B, E), of unit length where `normalize`."""
        size = self.preprocess.img_size
        pixels = normalized(image, self.mean, self.std, size=size)
        vectors: Tensor = self.model.get_submodule("visual")(pixels)
        return _unit(vectors, normalize)

    def encode_text(self, texts: Batch | Sequence[str], *, normalize: bool = False) -> Tensor:
        """Texts, or `text_ids` (B, L), -> (B, E), of unit length where `normalize`."""
        ids = texts["text_ids"] if isinstance(texts, dict) else self.preprocess.ids(texts)
        encode: Callable[[Tensor], Tensor] = getattr(self.model, "encode_text")  # noqa: B009 - untyped
        return _unit(encode(ids.to(self.logit_scale.device)), normalize)

    def adapt(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """Gives scale and bias an axis; zoo's have one, because FSDP divides along it."""
        for name in ("model.logit_scale", "model.logit_bias"):
            if name in state:
                state[name] = state[name].reshape(1)
        return ()


def open_clip() -> Any:  # noqa: ANN401 - comes without types
    """The package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module("open_clip")
    except ImportError:
        raise UsageError("CLIP needs open_clip: pip install 'zoo[contrastive]'") from None


def _unit(vectors: Tensor, wanted: bool) -> Tensor:
    return normalize(vectors, dim=-1) if wanted else vectors


def _facts(config: OpenCLIPConfig) -> dict[str, Any]:
    """open_clip's configuration with our changes."""
    found = open_clip().get_model_config(config.model)
    if found is None:
        raise ValueError(f"open_clip has no configuration {config.model!r}")
    facts: dict[str, Any] = copy.deepcopy(found)
    if "multimodal_cfg" in facts or "hf_model_name" in facts[_TEXT]:
        raise ValueError(f"{config.model}: neither CoCa nor text towers of transformers are here")
    for name, (part, key) in _PLACES.items():
        value = getattr(config, name)
        if value is not None:
            facts[part][key] = value
    if config.embed_dim is not None:
        facts["embed_dim"] = config.embed_dim
    facts["quick_gelu"] = config.quick_gelu
    return facts


def _preprocess(constants: VisionPreprocessConfig, facts: Mapping[str, Any]) -> OpenCLIPPreprocess:
    text, size = facts[_TEXT], facts[_IMAGE].get("image_size", 224)
    length, repo = text.get("context_length", 77), text.get("hf_tokenizer_name")
    if not repo:
        return OpenCLIPPreprocess(constants, img_size=size, context_length=length)
    options = TokenizerOptions(repo=repo, **text.get("tokenizer_kwargs", {}))
    return FilePreprocess(constants, img_size=size, context_length=length, options=options)


def _built(config: OpenCLIPConfig) -> nn.Module:
    facts: Mapping[str, Any] = _facts(config)
    custom = facts.get("custom_text", False)
    options = {key: value for key, value in facts.items() if key != "custom_text"}
    cls = open_clip().CustomTextCLIP if custom else open_clip().CLIP
    try:
        model = cls(**options, nonscalar_logit_scale=True)
    except TypeError as error:
        raise ValueError(f"open_clip's {config.model}: {error}") from None
    assert isinstance(model, nn.Module)
    return model
