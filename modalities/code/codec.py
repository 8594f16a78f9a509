"""Source text in shards: a `txt` (or `py`, ...) member, with `json` facts and a `cls` label."""

import json
from collections.abc import Mapping

from zoo.modalities.contracts import Codec, Sample, decode_label

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

    def decode(self, members: Mapping[str, bytes]) -> Sample:
        """{"text": str}, and "facts" and "label" where there are json and cls members."""
        data = next((members[ext] for ext in EXTENSIONS if ext in members), None)
        if data is None:
            raise DataError(f"no text member ({', '.join(EXTENSIONS)}) among {sorted(members)}")
        if len(data) > MAX_BYTES:
            raise DataError(f"text of {len(data)} bytes, more than the limit of {MAX_BYTES}")
        try:
            sample: Sample = {"text": data.decode()}
            if "json" in members:
                sample["facts"] = json.loads(members["json"][:MAX_BYTES])
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"damaged text sample ({error})") from None
        if "cls" in members:
            sample["label"] = decode_label(members["cls"])
        return sample
