"""Everything that README.md tells a reader to type works, in the order in which it stands there."""

import re
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
from pages import Page
from PIL import Image
from zoo.registry.card import Card
from zoo.registry.schema import read

import zoo
from zoo.data.mixture_file import read_mixture

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_blocks_run(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("scan.png", "photo.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / name)
    for number in range(6):
        path = tmp_path / "photos" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    page = Page(ROOT / "README.md")
    del page.blocks[0]  # make demo, make test
    page.run(tmp_path)
    assert (tmp_path / "runs" / "mine" / "export" / "model.safetensors").exists()


@pytest.mark.tree
def test_make_knows_its_targets():
    shown = " ".join(blocks("bash")[0].split()) + TEXT
    targets = set(re.findall(r"make (\w+)", shown)) & {"demo", "test", "lint", "bench"}
    assert targets == {"demo", "test", "lint", "bench"}
    for target in targets:
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_card_builds():
    text = blocks("toml")[1]
    card = read(Card, tomllib.loads(text), where="README.md")
    assert card.names == ["tiny-mae-s"]
    assert card.recipe is not None


def test_the_mixture_is_one(tmp_path):
    (tmp_path / "mixture.toml").write_text(blocks("toml")[0])
    sources = read_mixture(tmp_path / "mixture.toml").mixture
    assert [source.weight for source in sources] == [0.7, 0.3]


def test_the_table_names_every_model():
    shown = set(re.findall(r"`([a-z0-9-]+)`", TEXT))
    assert set(zoo.list_models()) <= shown


@pytest.mark.tree
def test_links_point_at_folders_that_exist():
    for folder in re.findall(r"^\| `(\w+)/` \|", TEXT, flags=re.MULTILINE):
        assert (ROOT / folder).is_dir()
