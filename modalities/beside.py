"""What stands beside a sample's data in any modality: `json` facts, a `txt` text, a `cls` label."""

import json
from collections.abc import Mapping

from zoo.modalities.contracts import Buffer, Sample
from zoo.modalities.members import decode_member

__all__ = ["decode_beside", "encode_beside"]

_MEMBERS = {"facts": "json", "text": "txt", "label": "cls"}


def decode_beside(members: Mapping[str, Buffer]) -> Sample:
    """{"facts": dict, "text": str, "label": int}, those that there are.

    Raises:
        DataError: a member is not what it claims.
    """
    return {
        name: decode_member(extension, members[extension])
        for name, extension in _MEMBERS.items()
        if extension in members
    }


def encode_beside(raw: Sample) -> dict[str, bytes]:
    """The members; JSON has sorted keys, so that equal samples give equal bytes."""
    members = {
        extension: str(raw[name]).encode()
        for name, extension in _MEMBERS.items()
        if name in raw and name != "facts"
    }
    if "facts" in raw:
        members["json"] = json.dumps(raw["facts"], sort_keys=True).encode()
    return members
