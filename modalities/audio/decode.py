"""Recordings: any stretch of one, from a path or bytes, without decoding what lies before it.

libsndfile (the package soundfile) reads WAV, FLAC, Ogg Vorbis and Opus, MP3 and AIFF, and its
stretches are exact to the sample. Other formats are decoded whole by FFmpeg (the package
torchcodec), whose own stretches may be shifted: they count from the first time stamp.

Notation: C channels, T samples.
"""

import importlib
import io
import math
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from zoo.modalities.bounds import MAX_BYTES, MAX_COMPRESSED, MAX_SECONDS, check_size, decoding
from zoo.modalities.contracts import Buffer, Raw
from zoo.modalities.members import Audio

from zoo.errors import DataError, UsageError

__all__ = ["EXTENSIONS", "Recording", "check_length"]

EXTENSIONS = ("wav", "flac", "ogg", "opus", "mp3", "aif", "aiff", "m4a")
RATES = (1000, 1_000_000)  # Hz; a header that says anything else is damaged
MAX_CHANNELS = 64
MAX_LEVEL = 1e9  # full scale is 1; much louder, and a power spectrum is no number any more
_FFMPEG = ((4, b"ftyp"), (0, b"\x1aE\xdf\xa3"), (0, b"\x30\x26\xb2\x75"), (0, b"\xff\xf1"))
_SNDFILE = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM")
_CUT = ("(should be ", "lacks an end-of-stream bit")  # how libsndfile's log says it


class _Decoder(Protocol):
    rate: int
    channels: int
    frames: int

    def read(self, start: int, frames: int) -> NDArray[np.float32]:
        """(C, T), shorter where the recording ends."""
        ...

    def close(self) -> None: ...


class Recording:
    """Sound in a file or in memory, opened: its header is read and checked, no sample is yet.

    Attributes:
        name: for messages.
        rate: samples a second.
        channels: C.
        frames: T, as the header says.
    """

    def __init__(self, raw: Raw | Buffer | Audio, *, rate: int = 0, name: str = "audio") -> None:
        """Opens it.

        Args:
            raw: a path, a file's bytes, or sound: `Audio`, (T,) or (C, T), float or int16.
            rate: of sound that does not say its own, samples a second.
            name: in messages, of what is no file.

        Raises:
            DataError: not there, no sound, damaged, or larger than the limits; names it.
            UsageError: a package is missing that reads it.
        """
        self.name = str(raw) if isinstance(raw, str | Path) else name
        self._at, self._warned = 0, False
        if isinstance(raw, str | Path):
            self._decoder = _open_file(Path(raw))
        elif isinstance(raw, bytes | bytearray | memoryview):
            self._decoder = _open_bytes(raw, name)
        else:
            self._decoder = _Memory.of(raw, rate, name)
        self.rate, self.channels = self._decoder.rate, self._decoder.channels
        self.frames = self._decoder.frames
        low, high = RATES
        if not low <= self.rate <= high or not 1 <= self.channels <= MAX_CHANNELS:
            what = f"{self.rate} Hz, {self.channels} channels"
            raise DataError(f"{self.name}: no plausible recording ({what})", code="DECODE")
        if not self.frames:
            raise DataError(f"{self.name}: no samples", code="EMPTY_PART")

    @property
    def seconds(self) -> float:
        """How long it is, as the header says."""
        return self.frames / self.rate

    def read(self, start: int = 0, frames: int | None = None) -> NDArray[np.float32]:
        """A stretch of it; whole numbers are scaled to [-1, 1).

        Warns, once, where there is less than the header says.

        Args:
            start: the first sample.
            frames: how many; all that follow by default.

        Returns:
            (C, T), shorter where the recording ends.

        Raises:
            DataError: damaged, NaN or Inf, or more than the limits.
        """
        left = max(0, self.frames - start)
        frames = left if frames is None else frames
        check_length(self.name, frames, self.rate, self.channels)
        with decoding(f"{self.name}: damaged"):
            samples = self._decoder.read(start, frames)
        got = samples.shape[1]
        if got < min(frames, left) and not self._warned:
            self._warned = True
            found = f"{start + got} of {self.frames} samples"
            warnings.warn(f"{self.name}: only {found} could be decoded", stacklevel=2)
        if got and not max(samples.max(), -samples.min()) <= MAX_LEVEL:  # true of NaN too
            raise DataError(f"{self.name}: NaN, Inf or absurdly loud", code="NONFINITE")
        return samples

    def close(self) -> None:
        """Lets the file go."""
        self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_length(name: str, frames: int, rate: int, channels: int) -> None:
    """Refuses more than an hour, or a GiB of float32.

    Raises:
        DataError: TOO_LARGE.
    """
    if frames > MAX_SECONDS * rate:
        long = f"{frames / rate:.0f} seconds, the limit is {MAX_SECONDS}"
        raise DataError(f"{name}: {long}", code="TOO_LARGE")
    check_size(f"{name}: float32", 4 * frames * channels, MAX_BYTES)


def _open_file(path: Path) -> _Decoder:
    try:
        if path.is_dir():
            raise DataError(
                f"{path}: is a folder; name its recordings, or say a window: zoo embed takes all "
                "recordings of a folder with --window SECONDS",
                code="IO",
            )
        if not path.is_file():  # opening a pipe would wait for ever
            there = "is no file" if path.exists() else "no such file"
            raise DataError(f"{path}: {there}", code="IO")
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        message = f"{path}: cannot read the recording ({error.strerror})"
        raise DataError(message, code="IO") from None
    if _for_ffmpeg(start, str(path)):
        check_size(str(path), path.stat().st_size, MAX_COMPRESSED)
        return _ffmpeg(path.read_bytes(), str(path))
    return _SoundFile(path, str(path))


def _open_bytes(data: Buffer, name: str) -> _Decoder:
    check_size(name, len(data), MAX_BYTES)
    if _for_ffmpeg(bytes(data[:12]), name):
        return _ffmpeg(bytes(data), name)
    return _SoundFile(io.BytesIO(data), name)


def _for_ffmpeg(start: bytes, name: str) -> bool:
    """By content, because names lie; libsndfile would try every format that it knows."""
    if not start:
        raise DataError(f"{name}: no bytes", code="EMPTY_PART")
    if any(start[at:].startswith(magic) for at, magic in _FFMPEG):
        return True
    is_mp3 = start[0] == 0xFF and len(start) > 1 and start[1] >= 0xE0
    if not is_mp3 and not start.startswith(_SNDFILE):
        raise DataError(f"{name}: not audio that zoo reads ({', '.join(EXTENSIONS)})")
    return False


class _SoundFile:
    """What libsndfile reads."""

    def __init__(self, source: Path | io.BytesIO, name: str) -> None:
        try:
            soundfile = importlib.import_module("soundfile")
        except (ImportError, OSError):
            raise UsageError(
                "audio needs the package soundfile: pip install 'zoo[audio]'"
            ) from None
        try:
            file = soundfile.SoundFile(source)
        except soundfile.LibsndfileError as error:
            raise DataError(f"{name}: damaged ({error.error_string})") from None
        if any(sign in file.extra_info for sign in _CUT):
            warnings.warn(f"{name}: shorter than its header says", stacklevel=4)
        self._file: Any = file
        self._at = 0
        self.rate, self.channels, self.frames = file.samplerate, file.channels, file.frames

    def read(self, start: int, frames: int) -> NDArray[np.float32]:
        if start != self._at:  # seeking is dear in compressed files
            self._file.seek(0)  # from elsewhere libsndfile 1.2.2 misses the place in Ogg and MP3
            self._file.seek(min(start, self.frames))
        samples = self._file.read(frames, dtype="float32", always_2d=True)
        self._at = start + len(samples)
        return np.ascontiguousarray(samples.T)

    def close(self) -> None:
        self._file.close()


class _Memory:
    """Sound that is decoded already."""

    def __init__(self, samples: NDArray[np.float32], rate: int) -> None:
        self.rate, self._samples = rate, samples
        self.channels, self.frames = samples.shape

    @classmethod
    def of(cls, raw: object, rate: int, name: str) -> "_Memory":
        samples, rate = raw if isinstance(raw, Audio) else (raw, rate)
        samples = np.asarray(samples.detach().cpu() if isinstance(samples, Tensor) else samples)
        if samples.ndim not in (1, 2) or (samples.dtype != np.int16 and samples.dtype.kind != "f"):
            raise DataError(
                f"{name}: sound must be float or int16 (T,) or (C, T); got {samples.dtype} "
                f"{samples.shape}"
            )
        scale = 1 / 32_768 if samples.dtype == np.int16 else 1
        return cls(np.atleast_2d(samples).astype(np.float32) * np.float32(scale), rate)

    def read(self, start: int, frames: int) -> NDArray[np.float32]:
        return self._samples[:, start : start + frames]

    def close(self) -> None:
        pass


def _ffmpeg(data: bytes, name: str) -> _Memory:
    try:
        decoders = importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):
        raise DataError(
            f"{name}: this format needs FFmpeg and the package torchcodec, which are not here; "
            "install them, or convert the recording to FLAC"
        ) from None
    with decoding(f"{name}: damaged"):
        decoder = decoders.AudioDecoder(data)
        about = decoder.metadata
        seconds = about.duration_seconds_from_header or 0.0
        check_length(
            name, math.ceil(seconds * about.sample_rate), about.sample_rate, about.num_channels
        )
        samples = decoder.get_samples_played_in_range(0, MAX_SECONDS + 1)
        return _Memory(samples.data.numpy(), samples.sample_rate)
