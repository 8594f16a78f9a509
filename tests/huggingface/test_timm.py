"""What timm makes of our ViTs: the same features."""

import pytest
import torch
from zoo.hub.timm import save_timm

import zoo
from zoo.errors import UsageError

SMALL = {"dim": 24, "depth": 2, "heads": 2}


def same_features(model, encoder):
    image = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        theirs, ours = model.eval()(image), encoder.eval()({"image": image}).pooled
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("pool", ["cls", "mean", "mean_norm"])
def test_timm_gives_equal_features(tmp_path, pool):
    timm = pytest.importorskip("timm")
    encoder = zoo.create("digits-mae", seed=1, pool=pool, pos_embed="learned", **SMALL)
    for norm in (m for m in encoder.modules() if isinstance(m, torch.nn.LayerNorm)):
        torch.nn.init.normal_(norm.weight)
    save_timm(tmp_path / "vit", encoder)
    model = timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True)
    same_features(model, encoder)
    assert [*timm.data.resolve_model_data_config(model)["mean"]] == [0.29]


def test_what_timm_does_not_have(tmp_path):
    with pytest.raises(UsageError, match="timm has only plain ViTs"):
        save_timm(tmp_path / "x", zoo.create("stdlib-mlm", dim=24, depth=1, heads=2))
    assert not (tmp_path / "x").exists()
