"""wav2vec 2.0 (arXiv 2006.11477): a convolutional stem and a transformer on the waveform itself.

The parts are torchaudio's; here they get the names that the engine knows (`blocks`), padding that
changes no number, and layer drop that leaves every parameter in the graph, as several processes
need it. Checkpoints of transformers, torchaudio and fairseq: `zoo.hub.wav2vec2`.

Notation: B clips, S samples, N frames, P width of the stem, D width.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from zoo.modalities.audio.waveform import WaveformPreprocess, WaveformPreprocessConfig
from zoo.modalities.audio.windows import AudioEncoder
from zoo.modalities.contracts import Batch, Features, Tokens
from zoo.modalities.frames import FrameEncoder

from zoo.errors import UsageError

__all__ = ["Wav2Vec2", "Wav2Vec2Config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wav2Vec2Config:
    """Everything that shapes the encoder; the defaults are those of the base model."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: Literal["group", "layer"] = "group"  # group: after the first convolution only
    norm_first: bool = False
    pos_conv_kernel: int = 128
    pos_conv_groups: int = 16
    dropout: float = 0.0
    activation_dropout: float = 0.0  # between the two layers of each MLP
    layer_drop: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            raise ValueError("conv_dim, conv_kernel and conv_stride must be of the same length")
        if self.dim % self.heads or self.dim % self.pos_conv_groups:
            raise ValueError(
                f"dim {self.dim} must be a multiple of heads {self.heads} and of pos_conv_groups "
                f"{self.pos_conv_groups}"
            )


class Wav2Vec2(AudioEncoder, FrameEncoder):
    """Batches hold `waveform` (B, S), `lengths` (B,) and, if clips differ, `num_samples` (B,)."""

    config_class = Wav2Vec2Config
    preprocess_class = WaveformPreprocessConfig
    preprocess: WaveformPreprocess

    def __init__(self, config: Wav2Vec2Config, preprocess: WaveformPreprocessConfig) -> None:
        super().__init__()
        self.config, self.dim, self.stem_dim = config, config.dim, config.conv_dim[-1]
        convolutions = tuple(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.preprocess = WaveformPreprocess(preprocess, convolutions=convolutions)
        parts = _factory()(**_arguments(config))
        self.feature_extractor = parts.feature_extractor
        self.feature_projection = parts.encoder.feature_projection
        self.pos_conv_embed = parts.encoder.transformer.pos_conv_embed
        self.norm = parts.encoder.transformer.layer_norm
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = parts.encoder.transformer.layers
        if not self.norm.weight.is_meta:
            self.init_weights()

    def init_weights(self) -> None:
        """The paper's: normal(0.02) linears, He-normal stem, position kernel of unit gain."""
        for part in self.blocks.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        for part in self.feature_extractor.modules():
            if isinstance(part, nn.Conv1d):
                nn.init.kaiming_normal_(part.weight)
        conv = self.pos_conv_embed.conv
        with torch.no_grad():
            std = 2.0 / (self.config.pos_conv_kernel * self.dim) ** 0.5
            conv.weight = nn.init.normal_(torch.empty_like(conv.weight), std=std)
        nn.init.zeros_(conv.bias)

    def stem(self, batch: Batch) -> Tensor:
        """(B, N, P) of the waveform; a clip's own frames do not depend on the others' lengths."""
        waveform = batch["waveform"].to(self.norm.weight.dtype)
        if "num_samples" not in batch or self.config.conv_norm == "layer":
            return self.feature_extractor(waveform, None)[0]
        # Group norm takes its statistics over time: padding would be part of them.
        clips = zip(waveform, batch["num_samples"].tolist(), strict=True)
        frames = [self.feature_extractor(clip[None, :size], None)[0][0] for clip, size in clips]
        return pad_sequence(frames, batch_first=True)

    def tokenize(self, frames: Tensor, lengths: Tensor) -> Tokens:
        """`targets` (B, N, P) are the normalised frames, `x` (B, N, D) their projection."""
        projection = self.feature_projection
        targets = projection.layer_norm(frames)
        x = self.dropout(projection.projection(targets))
        valid = None
        if int(lengths.min()) < x.shape[1]:
            valid = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
            valid = valid.to(x.device, non_blocking=True)
        return Tokens(x=x, targets=targets, valid=valid)

    def encode(self, tokens: Tokens) -> Tokens:
        """Convolutional positions, blocks, norm: (B, N, D) -> (B, N, D)."""
        x, mask = tokens.x, None
        if tokens.valid is not None:
            b, n, _ = x.shape
            x = x * tokens.valid.unsqueeze(-1)  # as beyond the end of a clip that stands alone
            mask = tokens.valid[:, None, None, :].expand(b, 1, n, n)
        x = x + self.pos_conv_embed(x)
        x = self.dropout(x if self.config.norm_first else self.norm(x))
        for block in self.blocks:
            after, _ = block(x, mask)
            x = self._dropped(x, after)
        return Tokens(x=self.norm(x) if self.config.norm_first else x, valid=tokens.valid)

    def forward(self, batch: Batch) -> Features:
        """`tokens` (B, N, D), packed where clips differ; `pooled` is a clip's mean over frames."""
        lengths = batch["lengths"]
        tokens = self.encode(self.tokenize(self.stem(batch), lengths))
        if tokens.valid is None:
            return Features(tokens=tokens.x, pooled=tokens.x.mean(dim=1), grid=(tokens.x.shape[1],))
        real = tokens.valid.unsqueeze(-1)
        pooled = (tokens.x * real).sum(dim=1) / real.sum(dim=1)
        return Features(tokens=tokens.x[tokens.valid][None], pooled=pooled, lengths=lengths)

    def _dropped(self, before: Tensor, after: Tensor) -> Tensor:
        """What a block gave, or by chance what it got."""
        if not self.training or not self.config.layer_drop:
            return after
        keep = torch.rand((), device=after.device) >= self.config.layer_drop
        return torch.where(keep, after, before)


def _factory() -> Callable[..., Any]:
    """Torchaudio's builder.

    Raises:
        UsageError: torchaudio is missing.
    """
    try:
        models = importlib.import_module("torchaudio.models")
    except ImportError:
        raise UsageError("wav2vec 2.0 needs torchaudio: pip install 'zoo[audio]'") from None
    build: Callable[..., Any] = models.wav2vec2_model
    return build


def _arguments(config: Wav2Vec2Config) -> dict[str, object]:
    """The config in torchaudio's words."""
    return {
        "extractor_mode": f"{config.conv_norm}_norm",
        "extractor_conv_layer_config": list(
            zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
        ),
        "extractor_conv_bias": config.conv_bias,
        "encoder_embed_dim": config.dim,
        "encoder_projection_dropout": config.dropout,
        "encoder_pos_conv_kernel": config.pos_conv_kernel,
        "encoder_pos_conv_groups": config.pos_conv_groups,
        "encoder_num_layers": config.depth,
        "encoder_num_heads": config.heads,
        "encoder_attention_dropout": config.dropout,
        "encoder_ff_interm_features": config.mlp_dim,
        "encoder_ff_interm_dropout": config.activation_dropout,
        "encoder_dropout": config.dropout,
        "encoder_layer_norm_first": config.norm_first,
        "encoder_layer_drop": config.layer_drop,
        "aux_num_out": None,
    }
