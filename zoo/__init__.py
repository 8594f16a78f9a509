"""zoo: pretrained encoders of many modalities, and the engine that pretrains them.

import zoo

zoo.list_models("mae*")                        # names; loads no torch
zoo.card("mae-base")                           # what there is to know about a model
encoder = zoo.create("mae-base", depth=2)      # random weights, any size
run = zoo.pretrain("digits-mae", data="shards/", out="runs/digits")
encoder = zoo.load("runs/digits")              # .preprocess, .embed(inputs), .load_report
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PLACES = {
    "card": "zoo.registry.catalogue",
    "create": "zoo.models",
    "export": "zoo.restoring",
    "fit_probe": "zoo.evaluation",
    "list_models": "zoo.registry.catalogue",
    "load": "zoo.models",
    "pretrain": "zoo.pretraining",
    "probe": "zoo.evaluation",
    "publish": "zoo.publishing",
    "write_shards": "zoo.data.building.build",
    "Encoder": "zoo.modalities.contracts",
    "ZooError": "zoo.errors",
}

if TYPE_CHECKING:
    from zoo.data.building.build import write_shards
    from zoo.errors import ZooError
    from zoo.evaluation import fit_probe, probe
    from zoo.modalities.contracts import Encoder
    from zoo.models import create, load
    from zoo.pretraining import pretrain
    from zoo.publishing import publish
    from zoo.registry.catalogue import card, list_models
    from zoo.restoring import export

__all__ = [
    "Encoder",
    "ZooError",
    "__version__",
    "card",
    "create",
    "export",
    "fit_probe",
    "list_models",
    "load",
    "pretrain",
    "probe",
    "publish",
    "write_shards",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
