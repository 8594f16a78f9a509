"""Recordings in shards: a file as it is (wav, flac, ogg, ...); beside it `cls`, `json` and `txt`.

A decoded sample holds an open recording, so that training decodes the seconds that it uses.
"""

import struct
from collections.abc import Mapping

import numpy as np
from torch import Tensor
from zoo.modalities.audio.decode import EXTENSIONS, Recording, check_length
from zoo.modalities.beside import decode_beside, encode_beside
from zoo.modalities.bounds import MAX_COMPRESSED, check_size
from zoo.modalities.contracts import Buffer, Codec, Sample
from zoo.modalities.members import Audio, find_member

__all__ = ["AudioCodec"]

_PCM, _FLOAT = 1, 3  # formats of a wav


class AudioCodec(Codec):
    """{"audio": `Recording`, "label": int, "facts": dict, "text": str} <-> wav, cls, json, txt."""

    def encode(self, raw: Sample) -> dict[str, bytes]:
        """A lossless wav, and facts as JSON with sorted keys: equal samples give equal bytes.

        "audio" is `Audio`, or an int16 or float array (T,) or (C, T) with its "rate" in Hz.
        """
        audio = raw["audio"]
        samples, rate = audio if isinstance(audio, Audio) else (audio, int(str(raw["rate"])))
        values = samples.numpy() if isinstance(samples, Tensor) else np.asarray(samples)
        return {"wav": _wav(np.atleast_2d(values), rate), **encode_beside(raw)}

    def decode(self, members: Mapping[str, Buffer]) -> Sample:
        """{"audio": open `Recording`}, and what else there is: "facts", "label", "text"."""
        extension, data = find_member(members, EXTENSIONS, what="audio")
        if extension != "wav":
            check_size(f"{extension} member", len(data), MAX_COMPRESSED)
        recording = Recording(data, name=extension)
        check_length(extension, recording.frames, recording.rate, recording.channels)
        return {"audio": recording, **decode_beside(members)}

    def measure(self, sample: Sample) -> dict[str, float]:
        """Seconds, samples a second, channels and root mean square; decodes all of it."""
        recording = sample["audio"]
        assert isinstance(recording, Recording)
        samples = recording.read()
        return {
            "seconds": samples.shape[1] / recording.rate,
            "rate": recording.rate,
            "channels": recording.channels,
            "rms": float(np.sqrt(np.square(samples, dtype=np.float64).mean())),
        }


def _wav(samples: np.ndarray, rate: int) -> bytes:
    """(C, T): int16 as it is, anything else as float32. libsndfile would write the time of day."""
    dtype, code = ("<i2", _PCM) if samples.dtype == np.int16 else ("<f4", _FLOAT)
    body = np.ascontiguousarray(samples.T, dtype=dtype).tobytes()
    width = np.dtype(dtype).itemsize
    block = width * len(samples)
    form = struct.pack("<HHIIHH", code, len(samples), rate, rate * block, block, 8 * width)
    chunks = b"WAVE" + b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks
