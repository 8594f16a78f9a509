"""Weights that nobody publishes: trained by the card's recipe on first use, kept in the cache."""

import hashlib
import importlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import zoo
from zoo.data.shard.write import MANIFEST
from zoo.files import cache_folder, storage_errors
from zoo.lock import locked
from zoo.pretraining import pretrain
from zoo.registry.build import resolve_recipe
from zoo.registry.card import Trained
from zoo.registry.schema import to_table
from zoo.runs import Run

__all__ = ["trained_run"]

_log = logging.getLogger("zoo")
_OPTIONS = ("train.loggers=[]",)


def trained_run(name: str, entry: Trained) -> Run:
    """The finished run that the weights come from; what an interrupted call had done is kept.

    On the CPU, so that all machines train from the same numbers.

    Args:
        name: of the model.
        entry: of its card.

    Raises:
        BusyError: another process is training them.
        StorageError: the cache cannot take them.
    """
    folder = cache_folder() / "trained" / f"{name}.{entry.tag}-{_digest(name, entry)}"
    run = Run(folder / "run")
    if run.finished:
        return run
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "first-use.lock", f"training {name}.{entry.tag}"):
        _log.warning(
            "%s.%s: nobody publishes these weights; training them here, once, into %s",
            *(name, entry.tag, folder),
        )
        shards = folder / "shards"
        if not (shards / MANIFEST).exists():
            shutil.rmtree(shards, ignore_errors=True)
            module, _, function = entry.data.partition(":")
            write: Callable[[Path], None] = getattr(importlib.import_module(module), function)
            write(shards)
        return pretrain(name, shards, run.folder, _OPTIONS, seed=0, device="cpu")


def _digest(name: str, entry: Trained) -> str:
    """Of all that makes the weights: another recipe, or another zoo, makes others."""
    recipe = to_table(resolve_recipe(name, entry.data, _OPTIONS, seed=0))
    facts = json.dumps([zoo.__version__, recipe], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:12]
