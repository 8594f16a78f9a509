"""Prototype activation over a spectrogram: the right patch, the right way up."""

import base64
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from zoo.errors import UsageError
from zoo.probes.frozen import token_map
from zoo.probes.heads import HeadRecipe, Linear, train_head
from zoo.probes.prototypical import Prototypical
from zoo.report.activation import activation_figure, locate, write_activations

soundfile = pytest.importorskip("soundfile")

RATE, SECONDS, TONES = 8000, 2.0, (400, 1200, 3000)
FEATURES = {
    **{"sample_rate": RATE, "seconds": SECONDS, "num_mel_bins": 64, "target_length": 208},
    **{"mean": -7.2, "std": 4.43},
}


def tiny(seed=0, positions="grid"):
    preprocess, small = {"features": FEATURES}, {"depth": 1, "dim": 64, "heads": 4}
    return zoo.create(
        "bird-mae-base", seed=seed, preprocess=preprocess, positions=positions, **small
    ).eval()


def tone(hertz, at, rng):
    time = np.arange(round(SECONDS * RATE)) / RATE
    on = (time >= at) & (time < at + 0.3)
    noise = 0.01 * rng.standard_normal(len(time))
    return (noise + 0.3 * on * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@torch.no_grad()
def tokens_of(encoder, clips):
    return token_map(encoder, encoder.preprocess.collate(list(map(encoder.preprocess, clips))))


@pytest.mark.parametrize("positions", ["grid", "transposed"])
def test_a_known_prototype_is_found_where_it_was_taken(positions):
    encoder = tiny(positions=positions)
    clip = np.random.default_rng(0).standard_normal(round(SECONDS * RATE)).astype(np.float32)
    tokens = tokens_of(encoder, [clip])
    head = Prototypical(64, 2, grid=tokens.grid, prefix=1, per_class=1)
    found = [(0, 0), (3, 1), (12, 3), (7, 2)]
    for time, mel in found:
        index = 1 + time * 4 + mel
        with torch.no_grad():
            head.prototype_vectors[1] = tokens.x[0, index] - tokens.x[0, 0]
        seen = locate(encoder, head, clip, label=1)
        assert seen.places.shape == (13, 4)
        assert np.unravel_index(seen.places.argmax(), (13, 4)) == (time, mel)
        assert 0.7 < seen.places.max() <= 1
    assert not encoder.training


def test_what_is_drawn_is_turned_the_right_way():
    encoder = tiny()
    config = encoder.preprocess.config.features
    clip = tone(TONES[1], 1.0, np.random.default_rng(0))
    head = Prototypical(64, 2, grid=(13, 4), prefix=1, per_class=1)
    found = locate(encoder, head, clip)
    assert found.spectrogram.shape == (198, 64)  # 2 s without the frames that fill it up
    places = np.zeros((13, 4), np.float32)
    places[5, 1] = 1
    figure = activation_figure(replace(found, places=places), config, title="a <b>", caption="c")
    assert "a &lt;b&gt;" in figure
    grey, heat = (
        np.asarray(Image.open(BytesIO(base64.b64decode(data))))
        for data in re.findall(r"base64,([^\"]+)", figure)
    )
    assert grey.shape == (64, 198)
    rows, columns = np.nonzero(heat[..., 3])
    assert (rows.min(), rows.max() + 1) == (64 - 32, 64 - 16)  # the second patch from below
    assert (columns.min(), columns.max() + 1) == (80, 96)
    row, column = np.unravel_index(grey.argmin(), grey.shape)
    assert 1.0 <= column / 100 <= 1.3
    # The tone's line lies between the ticks of 1 and 2 kHz, nearer to the first.
    ticks = {
        float(word): float(y)
        for y, word in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', figure)
    }
    height = 6 + (row + 0.5) / 64 * 218
    assert ticks[2] < (ticks[1] + ticks[2]) / 2 < height < ticks[1]


def test_a_trained_probe_looks_where_the_tone_is():
    """With random weights not always: more than half of the clips, where a quarter is luck."""
    rng, encoder = np.random.default_rng(0), tiny()
    labels = np.arange(48) % 3
    tokens = tokens_of(encoder, [tone(TONES[k], rng.uniform(0.1, 1.6), rng) for k in labels])
    head = Prototypical(64, 3, grid=tokens.grid, prefix=1)
    recipe = HeadRecipe(epochs=30, batch_size=16, lr=4e-3)
    model = train_head(head, tokens.x, torch.from_numpy(labels), recipe, seed=0)
    hits = []
    for k in labels[:24]:
        at = rng.uniform(0.1, 1.6)
        found = locate(encoder, model, tone(TONES[k], at, rng), label=int(k))
        time = (np.unravel_index(found.places.argmax(), (13, 4))[0] + 0.5) * 0.16
        hits.append(at - 0.1 <= time <= at + 0.4)
    assert np.mean(hits) > 0.5


def test_a_page_of_recordings(tmp_path):
    encoder = tiny()
    soundfile.write(tmp_path / "x.wav", tone(TONES[0], 0.5, np.random.default_rng(0)), RATE)
    head = Prototypical(64, 2, grid=(13, 4), prefix=1)
    model = nn.Sequential(nn.Identity(), head)
    clips = {"dawn": tmp_path / "x.wav", "dusk": tmp_path / "x.wav"}
    write_activations(tmp_path / "page.html", encoder, model, clips, classes=("wren", "robin"))
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure class=activation>") == 2
    assert re.search("<b>(wren|robin)</b>", page)
    with pytest.raises(UsageError, match="not SpectrogramViT and Linear"):
        locate(encoder, Linear(64, 2), tmp_path / "x.wav")
    with pytest.raises(UsageError, match="not ViT and Prototypical"):
        locate(zoo.create("digits-mae", seed=0), head, tmp_path / "x.wav")
