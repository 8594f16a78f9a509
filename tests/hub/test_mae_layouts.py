"""The six layouts that MAE's weights are found in: every tensor has its place, decoder included."""

import re

import pytest
import torch
from golden_checks.vision import transformers_5_in_memory, transformers_5_on_disk
from safetensors.torch import save_file
from zoo.hub.convert import BACK
from zoo.registry.build import build_objective

import zoo
from zoo.errors import WeightsError
from zoo.starting import start_from

TINY = {"dim": 16, "depth": 2, "heads": 2, "img_size": 32}
HEADS = {"name": "mae", "decoder_dim": 8, "decoder_depth": 2, "decoder_heads": 2}
IMAGES = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)


def official(encoder, decoder):
    return encoder | decoder


def fine_tuned(encoder, decoder):
    renamed = {re.sub(r"^norm\.", "fc_norm.", name): value for name, value in encoder.items()}
    return renamed | {"head.weight": torch.ones(3, 16), "head.bias": torch.ones(3)}


def timm(encoder, decoder):
    return dict(encoder)


def transformers_4(encoder, decoder):
    return BACK["transformers-vit-mae"](encoder, decoder)


def transformers_5(encoder, decoder):
    return _renamed(transformers_5_in_memory, encoder, decoder)


def transformers_5_saved(encoder, decoder):
    return _renamed(transformers_5_on_disk, encoder, decoder)


def _renamed(rename, encoder, decoder):
    file = BACK["transformers-vit-mae"](encoder, decoder)
    return {rename(name): value for name, value in file.items()}


WHOLE = [official, transformers_4, transformers_5, transformers_5_saved]


def pair(seed, **changes):
    torch.manual_seed(seed)
    encoder = zoo.create("mae-base", seed=seed, **TINY, **changes)
    return encoder, build_objective(HEADS, encoder)


def written(layout, tmp_path, drop=()):
    encoder, objective = pair(1)
    file = layout(encoder.state_dict(), objective.state_dict())
    path = tmp_path / "w.safetensors"
    save_file({name: value.clone() for name, value in file.items() if name not in drop}, path)
    return encoder, objective, path


@pytest.mark.parametrize("layout", [*WHOLE, fine_tuned, timm])
def test_the_encoder_of_every_layout(layout, tmp_path):
    encoder, _, path = written(layout, tmp_path)
    pool = {"pool": "mean_norm"} if layout is fine_tuned else {}
    found = zoo.load("mae-base", weights=path, **TINY, **pool)
    report, tokens = found.load_report, found.eval()({"image": IMAGES})
    assert set(report.loaded) == set(found.state_dict())
    assert not report.resized
    wanted = encoder.eval()({"image": IMAGES})
    if layout is fine_tuned:
        mean = encoder._run(encoder.tokenize({"image": IMAGES}).x)[:, 1:].mean(1)
        torch.testing.assert_close(tokens.pooled, encoder.norm(mean))
    else:
        torch.testing.assert_close(tokens.pooled, wanted.pooled)


@pytest.mark.parametrize("layout", WHOLE)
def test_the_decoder_comes_along_whole_or_not_at_all(layout, tmp_path):
    encoder, objective, path = written(layout, tmp_path)
    other, heads = pair(2)
    start_from(str(path), other, heads)
    for ours, theirs in ((encoder, other), (objective, heads)):
        found = theirs.state_dict()
        assert all(torch.equal(value, found[name]) for name, value in ours.state_dict().items())
    mask = "mask_token" if layout is official else "decoder.mask_token"
    written(layout, tmp_path, drop=[mask])
    with pytest.raises(WeightsError, match="heads do not fit: missing \\['mask_token'\\]"):
        start_from(str(path), other, heads)
