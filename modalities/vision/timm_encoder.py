"""Any image encoder of timm: its architecture and numerics, with its own weights' preprocessing.

Position tables that a file has for another size are resized by timm, with antialiasing.

Notation: B images, C channels, S side, H and W of the last feature map, N = H * W, D width.
"""

import sys
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn
from zoo.modalities.contracts import Batch, Features, UniformEncoder
from zoo.modalities.vision.buffers import fill_buffers
from zoo.modalities.vision.pixels import normalized, register_statistics
from zoo.modalities.vision.preprocess import VisionPreprocess, VisionPreprocessConfig

__all__ = ["TimmEncoder", "TimmEncoderConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimmEncoderConfig:
    """Everything that shapes the encoder."""

    model: str  # timm's name, without a tag
    img_size: int = 224
    in_chans: int = 3
    drop_path: float = 0.0


class TimmEncoder(UniformEncoder):
    """timm's model without its classifier; `pooled` is what the classifier would get.

    A batch holds `image` (B, C, S, S), as for `zoo.modalities.vision.vit.ViT`.
    """

    modality = "vision"
    config_class = TimmEncoderConfig
    preprocess_class = VisionPreprocessConfig
    layout = "timm"
    preprocess: VisionPreprocess
    mean: Tensor
    std: Tensor

    def __init__(self, config: TimmEncoderConfig, preprocess: VisionPreprocessConfig) -> None:
        super().__init__()
        self.config = config
        self.preprocess = VisionPreprocess(
            preprocess, img_size=config.img_size, in_chans=config.in_chans
        )
        self.model = _built(config)
        self.dim = self.model.head_hidden_size
        register_statistics(self, preprocess, next(self.parameters()).device)

    def init_buffers(self) -> None:
        """Pixel statistics, and what timm computes and keeps in no file."""
        device = next(self.parameters()).device
        register_statistics(self, self.preprocess.config, device)
        fill_buffers(self.model, partial(_built, self.config), device)

    def forward(self, batch: Batch) -> Features:
        """Tokens are the last feature map, or what a transformer gives for its patches."""
        size = self.config.img_size
        features = self.model.forward_features(
            normalized(batch["image"], self.mean, self.std, size=size)
        )
        tokens, grid = self._tokens(features)
        pooled: Tensor = self.model.forward_head(features, pre_logits=True)
        return Features(tokens=tokens, pooled=pooled, grid=grid)

    def adapt(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """Drops the classifier, and lets timm resize what was made for another size of images."""
        own = self.state_dict()
        heads = self.model.pretrained_cfg["classifier"] or ()
        for head in (heads,) if isinstance(heads, str) else heads:
            for name in [name for name in state if name.startswith(f"model.{head}.")]:
                if name not in own:
                    del state[name]
        shapes = {name: value.shape for name, value in state.items()}
        if shapes == {name: value.shape for name, value in own.items()}:
            return ()
        resize = getattr(sys.modules[type(self.model).__module__], "checkpoint_filter_fn", None)
        if resize is None:
            return ()
        named = {name.removeprefix("model."): value for name, value in state.items()}
        found = {f"model.{name}": value for name, value in resize(named, self.model).items()}
        state.clear()
        state.update(found)
        return tuple(name for name in found if found[name].shape != shapes.get(name))

    def _tokens(self, features: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """(B, N, D) and (H, W)."""
        if features.ndim == 3:
            tokens = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
            grid = getattr(getattr(self.model, "patch_embed", None), "grid_size", None)
            return tokens, grid or (tokens.shape[1],)
        if getattr(self.model, "output_fmt", "NCHW") != "NHWC":
            features = features.movedim(1, -1)
        return features.flatten(1, 2), tuple(features.shape[1:3])


def _built(config: TimmEncoderConfig) -> Any:  # noqa: ANN401 - timm comes without types
    timm = import_module("timm")
    options: dict[str, object] = {"in_chans": config.in_chans, "num_classes": 0}
    if timm.get_pretrained_cfg(config.model).fixed_input_size:
        options["img_size"] = config.img_size
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    try:
        model = timm.create_model(config.model, **options)
    except TypeError as error:
        raise ValueError(f"timm's {config.model}: {error}") from None
    assert isinstance(model, nn.Module)
    return model
