"""Source text in shards: a `txt` (or `py`, ...) member, with `json` facts and a `cls` label."""

import json
from collections.abc import Mapping

from zoo.modalities.contracts import Buffer, Codec, Sample
from zoo.modalities.members import decode_member, find_member

from zoo.errors import DataError

__all__ = ["CodeCodec"]

EXTENSIONS = ("txt", "py", "c", "cpp", "go", "java", "js", "php", "rb", "rs", "ts")
MAX_BYTES = 4 << 20


class CodeCodec(Codec):
    """{"text": str, "label": int, "facts": dict} <-> txt, cls and json."""

    def encode(self, raw: Sample) -> dict[str, bytes]:
        """UTF-8 text; facts as JSON with sorted keys, so that equal samples give equal bytes."""
        members = {"txt": str(raw["text"]).encode()}
        if "label" in raw:
            members["cls"] = str(raw["label"]).encode()
        if "facts" in raw:
            members["json"] = json.dumps(raw["facts"], sort_keys=True).encode()
        return members

    def decode(self, members: Mapping[str, Buffer]) -> Sample:
        """{"text": str}, and "facts" and "label" where there are json and cls members."""
        _, text = find_member(members, EXTENSIONS, what="text")
        if len(text) > MAX_BYTES:
            what = f"text of {len(text)} bytes, more than the limit of {MAX_BYTES}"
            raise DataError(what, code="TOO_LARGE")
        sample: Sample = {"text": decode_member("txt", text)}
        if "json" in members:
            sample["facts"] = decode_member("json", members["json"])
        if "cls" in members:
            sample["label"] = decode_member("cls", members["cls"])
        return sample

    def measure(self, sample: Sample) -> dict[str, float]:
        """Bytes in UTF-8, and lines."""
        text = str(sample["text"])
        lines = text.count("\n") + bool(text and not text.endswith("\n"))
        return {"bytes": len(text.encode()), "lines": lines}
