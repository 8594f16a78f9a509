"""Where in a recording a prototypical probe finds its class: its activation over the spectrogram.

Notation: R frames, M mel bins, T time and F mel patches of P frames and bins, J prototypes.
"""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn.functional import max_pool2d

from zoo.errors import UsageError
from zoo.files import write_atomic
from zoo.modalities.audio.encoder import SpectrogramViT
from zoo.modalities.audio.features import LogMelConfig
from zoo.modalities.contracts import Encoder, Raw, to_device
from zoo.probes.frozen import token_map
from zoo.probes.prototypical import Prototypical
from zoo.report.page import page

__all__ = ["Activation", "activation_figure", "locate", "write_activations"]

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720.0, 250.0, 44.0, 6.0, 96.0, 26.0  # SVG units
_HEAT = (217, 72, 15)
_OPAQUE = 190  # alpha of the largest activation, of 255
_SHOWN = (30, 99.9)  # percentiles of the spectrogram that are white and black
_KILOHERTZ = (0.25, 0.5, 1, 2, 4, 8, 16)

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """What a class's prototypes see of a clip.

    Attributes:
        places: (T, F) between 0 and 1: how alike each patch is to the prototypes of the class, a
            mean with the weights that they have in its logit.
        spectrogram: (R, M) as the encoder sees it, without the frames that fill it up.
        label: the class.
        logit: of the class.
    """

    places: Values
    spectrogram: Values
    label: int
    logit: float


@torch.inference_mode()
def locate(encoder: Encoder, model: nn.Module, raw: Raw, *, label: int | None = None) -> Activation:
    """Looks at a clip through a trained prototypical probe.

    Args:
        encoder: of spectrograms, as the probe was trained with.
        model: what `zoo.probes.heads.train_head` made of a `Prototypical` head.
        raw: the clip.
        label: a class; by default the one with the largest logit.

    Raises:
        UsageError: the encoder or the probe is of another kind.
        DataError: the clip cannot be read; names it.
    """
    scaling, head = model if isinstance(model, nn.Sequential) else (nn.Identity(), model)
    if not isinstance(encoder, SpectrogramViT) or not isinstance(head, Prototypical):
        kinds = f"{type(encoder).__name__} and {type(head).__name__}"
        raise UsageError(f"needs a spectrogram encoder and a prototypical probe, not {kinds}")
    was_training, preprocess = encoder.training, encoder.preprocess
    encoder.eval()
    try:
        batch = preprocess.collate([preprocess(raw)])
        waveform = to_device(batch, next(encoder.parameters()).device)["waveform"]
        features = preprocess.features(waveform)
        tokens = scaling(token_map(encoder, {"features": features}).x.float())
    finally:
        encoder.train(was_training)
    logits = head(tokens)[0]
    label = int(logits.argmax()) if label is None else label
    weights = head.weight[label].relu()
    mine = head.similarity(tokens)[0].unflatten(0, head.weight.shape)[label]  # (J, *finer)
    # Each patch's own part of the finer map. That map's rows need not be those of the spectrogram
    # (see `token_map`), but the order of the tokens is.
    own = max_pool2d(mine, head.upsample).flatten(1)
    total = (weights @ own) / weights.sum().clamp(min=1e-6)
    return Activation(
        places=total.unflatten(0, encoder.grid).cpu().numpy(),
        spectrogram=features[0, 0, : _frames(preprocess.config.features)].cpu().numpy(),
        label=label,
        logit=float(logits[label]),
    )


def activation_figure(found: Activation, config: LogMelConfig, *, title: str, caption: str) -> str:
    """A figure: time to the right, low frequencies at the bottom, the activation in colour.

    Args:
        found: what `locate` gave.
        config: of the spectrogram.
        title: above it, plain text.
        caption: below it, plain text.
    """
    frames, bins = found.spectrogram.shape
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    low, high = float(found.places.min()), float(found.places.max())
    quiet, loud = np.percentile(found.spectrogram, _SHOWN)
    level = np.clip((found.spectrogram - quiet) / max(loud - quiet, 1e-6), 0, 1)
    grey = 255 - (230 * level).astype(np.uint8)
    patch = bins // found.places.shape[1]
    heat = (found.places - low) / max(high - low, 1e-12)
    fine = heat.repeat(patch, axis=0).repeat(patch, axis=1)[:frames]
    colour = np.empty((frames, bins, 4), np.uint8)
    colour[..., :3], colour[..., 3] = _HEAT, fine**2 * _OPAQUE
    seconds = frames * config.shift_samples / config.sample_rate
    place = f'x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}"'
    layers = [
        f'<image {place} preserveAspectRatio="none" href="{_png(x)}"/>' for x in (grey, colour)
    ]
    down = _TOP + height
    layers += [
        _text(_LEFT + tick / seconds * width, down + 18, f"{tick:g} s", "middle")
        for tick in _ticks(seconds)
    ]
    for tick in _KILOHERTZ:
        share = _share(config, 1000 * tick)
        if 0 < share < 1:
            layers.append(_text(_LEFT - 8, down - share * height + 4, f"{tick:g}", "end"))
    layers += [_text(4, _TOP + 10, "kHz"), *_legend(low, high)]
    return (
        f"<figure class=activation><div class=said><b>{html.escape(title)}</b></div>"
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" '
        f'aria-label="{html.escape(title)}: activation over a spectrogram">{"".join(layers)}</svg>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def write_activations(
    path: Path,
    encoder: Encoder,
    model: nn.Module,
    clips: Mapping[str, Raw],
    *,
    classes: Sequence[str] = (),
) -> None:
    """An HTML page with a picture of each clip, for the class that the probe finds in it.

    Args:
        path: of the page.
        encoder: see `locate`.
        model: see `locate`.
        clips: recordings, by the names to write below them.
        classes: names of the classes.

    Raises:
        UsageError: the encoder or the probe is of another kind.
        DataError: a recording cannot be read; names it.
        StorageError: the page cannot be written.
    """
    figures = []
    for title, clip in clips.items():
        found = locate(encoder, model, clip)
        assert isinstance(encoder, SpectrogramViT)
        name = classes[found.label] if classes else f"class {found.label}"
        config, caption = encoder.preprocess.config.features, f"{title}, logit {found.logit:.2f}"
        figures.append(activation_figure(found, config, title=name, caption=caption))
    lead = "Activation of the prototypes of the class that the probe finds, over the spectrogram"
    write_atomic(path, page("Where it is", lead, figures))


def _frames(config: LogMelConfig) -> int:
    """Frames of a clip; what follows only fills up the spectrogram."""
    frames = 1 + (config.num_samples - config.frame_samples) // config.shift_samples
    return min(frames, config.target_length)


def _share(config: LogMelConfig, hertz: float) -> float:
    """How high a frequency is in the picture, from 0 to 1: filters are evenly spaced in mel."""
    low, high, mel = (
        1127 * math.log(1 + f / 700) for f in (config.low_freq, config.top_freq, hertz)
    )
    step = (high - low) / (config.num_mel_bins + 1)
    return ((mel - low) / step - 0.5) / config.num_mel_bins


def _ticks(seconds: float) -> list[float]:
    step = next((step for step in (0.1, 0.2, 0.5, 1, 2, 5) if seconds / step <= 8), 10)
    return [step * number for number in range(int(seconds / step + 1e-9) + 1)]


def _png(image: NDArray[np.uint8]) -> str:
    """(time, mel) or (time, mel, channels), turned, as a data URL."""
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(image.swapaxes(0, 1)[::-1])).save(buffer, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _legend(low: float, high: float) -> list[str]:
    """A bar from the smallest activation to the largest."""
    steps, left = 32, _WIDTH - _RIGHT + 16
    red, green, blue = _HEAT
    bars = [
        f'<rect x="{left}" y="{_TOP + 24 + 4 * (steps - 1 - step)}" width="12" height="4" '
        f'fill="rgb({red} {green} {blue} / {(step / (steps - 1)) ** 2 * _OPAQUE / 255:.3f})"/>'
        for step in range(steps)
    ]
    words = [("activation", 0.0, 12.0), (f"{high:.2f}", 20.0, 34.0), (f"{low:.2f}", 20.0, 152.0)]
    return bars + [_text(left + across, _TOP + down, word) for word, across, down in words]


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'
