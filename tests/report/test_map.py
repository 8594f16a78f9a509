"""Maps of embeddings: what is drawn where, in which colour, and what is refused."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from zoo.hub.export import save_export
from zoo.registry.build import encoder_spec

import zoo
from zoo.cli.embed import command
from zoo.errors import UsageError
from zoo.report.map import embedding_map, project, write_map


def clusters(count=20, classes=3, dim=16):
    rng = np.random.default_rng(0)
    centres = 6 * rng.standard_normal((classes, dim))
    labels = np.arange(count * classes) % classes
    points = centres[labels] + rng.standard_normal((len(labels), dim))
    return points.astype(np.float32), [f"bird-{label}" for label in labels]


def circles(svg):
    """Fill -> places of the points, which have titles; those of the legend have none."""
    found = {}
    for x, y, fill in re.findall(
        r'<circle cx="([\d.]+)" cy="([\d.]+)" r="[\d.]+" fill="(#\w+)" ', svg
    ):
        found.setdefault(fill, []).append((float(x), float(y)))
    return {fill: np.array(places) for fill, places in found.items()}


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_what_is_alike_is_near_and_of_one_colour(method):
    features, labels = clusters()
    svg = embedding_map(features, labels, labels, method=method)
    places = list(circles(svg).values())
    assert sorted(map(len, places)) == [20, 20, 20]
    middles = np.array([group.mean(axis=0) for group in places])
    widths = max(np.linalg.norm(g - g.mean(axis=0), axis=1).mean() for g in places)
    apart = min(np.linalg.norm(middles[i] - middles[i - 1]) for i in range(3))
    assert apart > 2 * widths
    every = np.concatenate(places)
    assert (every > (22, 2)).all()
    assert (every < (462, 442)).all()
    assert svg == embedding_map(features, labels, labels, method=method)
    ET.fromstring(svg)


def test_a_large_feature_does_not_hide_the_others():
    features, labels = clusters()
    features = np.concatenate([features, np.random.default_rng(1).normal(0, 4000, (60, 1))], axis=1)
    places, (first, _) = project(features)
    assert "% of the variance" in first
    codes = np.unique(labels, return_inverse=True)[1]
    middles = np.array([places[codes == c].mean(axis=0) for c in range(3)])
    spread = max(places[codes == c].std(axis=0).max() for c in range(3))
    assert min(np.linalg.norm(middles[i] - middles[i - 1]) for i in range(3)) > 3 * spread


def test_rare_classes_share_a_colour():
    names = [f"n{i:02d}" for i in range(12) for _ in range(12 - i)]
    svg = embedding_map(np.random.default_rng(0).standard_normal((78, 4)), names, names)
    assert len(circles(svg)) == 9
    assert [len(places) for fill, places in circles(svg).items() if fill == "#98a2b3"] == [10]
    assert "4 others" in svg
    assert "n00" in svg


def test_time_is_a_ramp():
    features = np.linspace(0, 1, 50)[:, None] * np.ones((1, 3))
    seconds = np.arange(50) * 5.0
    svg = embedding_map(features, ["x.wav"] * 50, seconds)
    across = {fill: places[0, 0] for fill, places in circles(svg).items()}
    assert len(across) > 40
    first, last = across["#3a368c"], across["#f4b436"]
    assert {first, last} == {min(across.values()), max(across.values())}
    assert ">245 s<" in svg


@pytest.mark.parametrize(
    "features", [np.ones((1, 8)), np.ones((5, 8)), np.ones((2, 1)), np.eye(2), np.zeros((3, 4))]
)
def test_few_or_equal_points(features):
    svg = embedding_map(features, ["a"] * len(features))
    assert len(np.concatenate(list(circles(svg).values()))) == len(features)
    assert "nan" not in svg


def test_no_points_and_too_few():
    with pytest.raises(UsageError, match="there are none"):
        embedding_map(np.zeros((0, 4)), [])
    with pytest.raises(UsageError, match="t-SNE of 4 embeddings: it needs 5"):
        embedding_map(np.zeros((4, 4)), ["a"] * 4, method="tsne")


def test_many_points_are_thinned_and_it_says_so():
    svg = embedding_map(np.random.default_rng(0).standard_normal((6000, 2)), ["a"] * 6000)
    assert sum(map(len, circles(svg).values())) == 5000
    assert "5,000 of 6,000 points" in svg


@pytest.mark.parametrize(
    ("names", "starts", "said"),
    [
        (["a/1.wav", "b/1.wav"], None, "coloured by folder"),
        (["a/1.wav", "a/2.wav"], [0.0, 0.0], "coloured by file"),
        (["a/1.wav", "a/1.wav"], [0.0, 5.0], "coloured by time"),
        (["a/1.wav", "a/2.wav"], None, None),
    ],
)
def test_what_colours_say(names, starts, said, tmp_path):
    starts = None if starts is None else np.array(starts)
    write_map(tmp_path / "map.html", np.eye(2, dtype=np.float32), names, starts)
    page = (tmp_path / "map.html").read_text()
    assert (said in page) if said else ("coloured" not in page)


def test_names_are_text_not_markup(tmp_path):
    name = 'x/<script>"&.wav'
    write_map(tmp_path / "map.svg", np.ones((1, 2), np.float32), [name])
    root = ET.parse(tmp_path / "map.svg").getroot()
    titles = [node.text for node in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == [name]
    with pytest.raises(UsageError, match=r"map.png: a map is one of .html, .svg"):
        write_map(tmp_path / "map.png", np.ones((1, 2), np.float32), [name])


def test_embed_plots(tmp_path):
    small = {"dim": 24, "depth": 1}
    save_export(
        tmp_path / "export",
        zoo.create("digits-mae", seed=0, **small),
        encoder_spec("digits-mae", small),
    )
    files = []
    for i in range(6):
        files.append(tmp_path / "ab"[i % 2] / f"{i}.png")
        files[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(files[-1])
    words = [tmp_path / "export", *files, "-o", tmp_path / "x.npy", "--plot", tmp_path / "x.html"]
    done = CliRunner().invoke(command, list(map(str, words)), catch_exceptions=False)
    assert done.output.count(": 6 x 24") == 2
    assert np.load(tmp_path / "x.npy").shape == (6, 24)
    page = (tmp_path / "x.html").read_text()
    assert "coloured by folder" in page
    assert len(circles(page)) == 2
    with pytest.raises(UsageError, match=r"one of .npy, .npz, .csv, .html, .svg"):
        CliRunner().invoke(command, [*map(str, words[:-1]), "x.pdf"], catch_exceptions=False)
