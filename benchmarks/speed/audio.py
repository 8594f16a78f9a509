"""Log-mel features against upstream's way, and embedding of an hour of sound in bounded memory.

Upstream (DBD-research-group/Bird-MAE): torchaudio's Kaldi filter bank on one clip, then padding.
"""

import importlib
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from zoo.benchmarks.speed.timing import alternate, report
from zoo.modalities.audio.features import LogMel, LogMelConfig
from zoo.modalities.audio.windows import AudioEncoder
from zoo.registry.build import build_encoder, encoder_spec

kaldi = importlib.import_module("torchaudio.compliance.kaldi")  # both come without types
soundfile = importlib.import_module("soundfile")
ROUNDS, TOGETHER = 120, 8
SMALL = {"depth": 2, "dim": 64, "heads": 4}
MINUTES = {"small": (5, 60), "base": (1, 2)}
RATE, WINDOW = 32_000, 5.0


def upstream(waveform: Tensor, config: LogMelConfig) -> Tensor:
    """(1, T) -> (target_length, M)."""
    features: Tensor = kaldi.fbank(
        waveform - waveform.mean(),
        htk_compat=True,
        sample_frequency=config.sample_rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=config.num_mel_bins,
        dither=0.0,
        frame_shift=config.frame_shift,
    )
    missing = config.target_length - len(features)
    features = pad(features, (0, 0, 0, missing), value=features.min().item())
    return (features - config.mean) / (2 * config.std)


def _each(extract: Callable[[Tensor], Tensor], clips: Tensor) -> list[Tensor]:
    return [extract(clip[None]) for clip in clips]


def features() -> None:
    """Times both with one thread and with two, clip after clip and many together.

    Also a single clip between two calls of the other, so that neither finds its memory in a cache.
    """
    config = LogMelConfig()
    log_mel = LogMel(config)
    clips = 0.1 * torch.randn(TOGETHER, config.num_samples)
    difference = (log_mel(clips[:1])[0, 0] - upstream(clips[:1], config)).abs().max()
    print(f"features of 5 s at 32 kHz; largest difference {difference:.1e}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        theirs = partial(_each, partial(upstream, config=config))
        ours = partial(_each, log_mel)
        for name, some, work in (
            ("1_cold", clips[:1], ours),
            ("1", clips, ours),
            (f"{TOGETHER}", clips, log_mel),
        ):
            print(f"{threads} threads, {name} at once, {len(some)} clips")
            both = {"upstream": partial(theirs, some), "zoo": partial(work, some)}
            seconds = alternate(both, ROUNDS // len(some))
            report(f"audio_features_{threads}x{name}", seconds, base="upstream")


def embedding() -> None:
    """Times `embed` with windows, on all cores; memory after a short and after a long recording."""
    with tempfile.TemporaryDirectory() as folder:
        for name, minutes in MINUTES.items():
            spec = encoder_spec("bird-mae-base", SMALL if name == "small" else {})
            encoder = build_encoder(spec).eval()
            assert isinstance(encoder, AudioEncoder)
            for length in minutes:
                path = Path(folder) / f"{length}.flac"
                _record(path, length)
                began = time.perf_counter()
                found = encoder.embed([path], window=WINDOW, batch_size=8, progress=False)
                seconds = time.perf_counter() - began
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(
                    f"{name}: {length} min, {len(found.features)} windows in {seconds:.1f} s: "
                    f"x{60 * length / seconds:.0f} real time, peak {peak:.0f} MB"
                )


def _record(path: Path, minutes: int) -> None:
    """Noise with a chirp a second, written a minute at a time."""
    generator = np.random.default_rng(0)
    beat = np.arange(RATE) / RATE
    chirp = 0.3 * np.sin(2 * np.pi * (2000 + 2000 * beat) * beat)
    with soundfile.SoundFile(path, "w", RATE, 1, format="FLAC") as file:
        for _ in range(minutes):
            file.write(np.tile(chirp, 60) + generator.normal(0, 0.02, 60 * RATE))


def main() -> None:
    """Both parts."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    features()
    torch.set_num_threads(threads)
    embedding()


if __name__ == "__main__":
    main()
