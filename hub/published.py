"""Published weights as local files: those that a card lists, and folders that zoo exported."""

import json
from collections.abc import Sequence
from pathlib import Path

from zoo.hub.export import CONFIG
from zoo.hub.fetch import fetch, pinned
from zoo.hub.weights import INDEX, files_of_index
from zoo.registry.card import Weights

from zoo.errors import UsageError

__all__ = ["published_assets", "published_folder", "published_weights"]


def published_weights(entry: Weights) -> Path:
    """The file of weights that a card lists, fetched if need be; with an index also its parts.

    Raises:
        UsageError, IntegrityError, StorageError, ZooError: as `zoo.hub.fetch.fetch`.
    """
    source = pinned(entry.repo, entry.revision)
    digests = {entry.file: entry.sha256} if entry.sha256 else None
    path = fetch(source, [entry.file], digests) / entry.file
    if entry.file.endswith(INDEX):
        fetch(source, [_beside(entry, name) for name in files_of_index(path)])
    return path


def published_assets(entry: Weights, names: Sequence[str]) -> Path:
    """Fetches files that belong to published weights, as far as there are such.

    Returns:
        The folder that they are in.

    Raises:
        UsageError, IntegrityError, StorageError, ZooError: as `zoo.hub.fetch.fetch`.
    """
    if names and entry.tokenizer is not None:
        folder, source = Path(), pinned(entry.tokenizer)
    else:
        folder, source = Path(entry.file).parent, pinned(entry.repo, entry.revision)
    wanted = [(folder / name).as_posix() for name in names]
    return fetch(source, [name for name in wanted if name in source.files]) / folder


def _beside(entry: Weights, name: str) -> str:
    return (Path(entry.file).parent / name).as_posix()


def published_folder(name: str) -> Path:
    """The folder of an encoder that zoo exported and somebody published.

    Args:
        name: ORG/NAME, with @REVISION for a branch, tag or commit of one's choice.

    Raises:
        UsageError: there is no such thing, or zoo did not make it.
        IntegrityError, StorageError, ZooError: as `zoo.hub.fetch.fetch`.
    """
    repo, _, revision = name.partition("@")
    source = pinned(repo, revision or None)
    try:
        folder = fetch(source, [CONFIG] if CONFIG in source.files else [])
        config = json.loads((folder / CONFIG).read_text())
        files = list(config["files"]) if config["zoo_format"] else []
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{repo}: holds no encoder that zoo exported; for weights of others give a name of the "
            "catalogue, and weights=FILE"
        ) from None
    return fetch(source, files)
