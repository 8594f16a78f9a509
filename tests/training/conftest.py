import numpy as np
import pytest
from training.tiny import TINY
from zoo.modalities.vision.codec import VisionCodec
from zoo.registry.build import resolve_recipe

import zoo
from zoo.data.shards import ShardSet
from zoo.pretraining import _trainer
from zoo.training.world import ALONE


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "train"
    rng = np.random.default_rng(0)
    codec = VisionCodec()
    zoo.write_shards(
        (
            (f"{i:03d}", codec.encode({"image": rng.integers(0, 256, (8, 8), dtype=np.uint8)}))
            for i in range(50)
        ),
        folder,
    )
    return folder


@pytest.fixture
def build(shards, tmp_path):
    """Makes the trainer of a tiny run; options are those of the recipe."""

    def build(*options, folder=tmp_path / "run"):
        recipe = resolve_recipe("digits-mae", str(shards), [*TINY, *options])
        return _trainer(recipe, (ShardSet(shards), None), folder, ALONE)

    return build
