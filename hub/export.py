"""The folder that holds an encoder: config, weights, card, and what preprocessing needs.

Written whole or not at all; every file's digest is in config.json and checked before use.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from zoo.hub.saving import LIMIT, save_weights
from zoo.hub.weights import INDEX, load_encoder
from zoo.modalities.contracts import Encoder
from zoo.registry.build import Spec
from zoo.registry.catalogue import card_file
from zoo.registry.schema import read

from zoo.errors import IntegrityError, StorageError, UnknownNameError, UsageError
from zoo.files import atomic_folder, sha256_of, sha256_once

__all__ = ["CONFIG", "HUB", "load_export", "save_export"]

HUB = "hf-hub:"  # before the name of a repository that holds one
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "card.toml"
VERSION = 1


def save_export(
    folder: Path,
    encoder: Encoder,
    spec: Spec,
    *,
    notes: Mapping[str, object] | None = None,
    limit: int = LIMIT,
) -> None:
    """Writes an encoder; `zoo.load(folder)` gives it back bit for bit.

    Args:
        folder: must not exist.
        encoder: the weights and the preprocessing's files.
        spec: how to build it again.
        notes: facts for people, such as which objective and data it was trained with.
        limit: bytes of a file of weights, above which there are several.

    Raises:
        UsageError: the folder exists.
        StorageError: it cannot be written.
    """
    if folder.exists():
        raise UsageError(f"{folder}: exists already; choose another folder or remove it")
    with atomic_folder(folder) as draft:
        save_weights(draft, encoder.state_dict(), limit=limit)
        with suppress(UnknownNameError):  # of a model that no catalogue has
            (draft / CARD).write_bytes(card_file(spec.name).read_bytes())
        for name, data in encoder.preprocess.assets().items():
            (draft / name).write_bytes(data)
        files = {
            file.name: {"sha256": sha256_of(file), "bytes": file.stat().st_size}
            for file in sorted(draft.iterdir())
        }
        config = {"zoo_format": VERSION, **asdict(spec), "notes": dict(notes or {}), "files": files}
        config["digest"] = _digest(config)
        (draft / CONFIG).write_text(json.dumps(config, indent=1) + "\n")


def load_export(folder: Path) -> Encoder:
    """The encoder of a folder, its files checked against their digests.

    Raises:
        UsageError: the folder holds no export.
        IntegrityError: a file is not what was written.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
        digest = config.pop("digest")
        damaged = digest != _digest(config)
        version, files = config.pop("zoo_format"), config.pop("files")
        config.pop("notes", None)
    except OSError:
        raise UsageError(f"{folder}: no {CONFIG} there, so this is no exported encoder") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError(f"{path}: not a config that zoo wrote") from None
    if damaged:
        raise IntegrityError(f"{path}: damaged or changed by hand; copy it again")
    if version != VERSION:
        raise UsageError(f"{path}: format {version}, this zoo reads {VERSION}; update zoo")
    spec = read(Spec, config, where=str(path))
    assets = {}
    for name, facts in files.items():
        file = folder / Path(name).name
        _verify(file, facts)
        if name != CARD and not name.endswith((".safetensors", INDEX)):
            assets[name] = file.read_bytes()
    weights = WEIGHTS if WEIGHTS in files else f"model{INDEX}"
    encoder = load_encoder(spec, folder / weights, layout="zoo", check_finite=False)
    encoder.preprocess.load_assets(assets)
    return encoder


def _digest(config: Mapping[str, object]) -> str:
    """Of the config itself: a flipped bit in it must not pass either."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _verify(file: Path, facts: Mapping[str, object]) -> None:
    try:
        size, digest = file.stat().st_size, sha256_once(file)
    except FileNotFoundError:
        raise IntegrityError(f"{file}: missing; copy the whole folder again") from None
    except OSError as error:
        raise StorageError(f"{file}: cannot read it ({error.strerror})") from None
    if size != facts["bytes"] or digest != facts["sha256"]:
        raise IntegrityError(
            f"{file}: damaged or changed: sha256 {digest[:12]}, {str(facts['sha256'])[:12]} "
            "was written; copy it again"
        )
