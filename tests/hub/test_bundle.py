import json

import pytest
import torch
from zoo.hub.bundle import save_bundle

import zoo
from zoo.errors import UsageError

MODELS = {
    "voco-base": ({"feature_size": 12}, {"size": [64, 32, 32]}, (1, 1, 64, 32, 32)),
    "bm-mae-base": (
        {"dim": 24, "depth": 2, "heads": 2},
        {"size": [32, 32, 32]},
        (1, 4, 32, 32, 32),
    ),
}
LABELS = ("background", "liver", "spleen")


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI's, of every machine
@pytest.mark.parametrize("model", MODELS)
def test_monai_builds_the_same_network_from_the_folder(model, tmp_path):
    from monai.bundle import ConfigParser

    changes, constants, shape = MODELS[model]
    encoder = zoo.create(model, seed=0, preprocess=constants, **changes)
    network = encoder.segmenter(len(LABELS)).eval()
    folder = tmp_path / "bundle"
    save_bundle(folder, network, encoder, model=model, labels=LABELS)

    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    parser.read_meta(folder / "configs" / "metadata.json")
    again = parser.get_parsed_content("network_def").eval()
    again.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    volume = torch.rand(shape)
    inferer = parser.get_parsed_content("inferer")
    with torch.no_grad():
        assert torch.equal(again(volume), network(volume))
        assert inferer(volume, again).shape == (1, len(LABELS), *shape[2:])
    for chain in ("preprocessing", "postprocessing"):
        assert len(parser.get_parsed_content(chain).transforms) >= 3
    data = json.loads((folder / "configs" / "metadata.json").read_text())["network_data_format"]
    assert data["inputs"]["image"]["num_channels"] == shape[1]
    assert data["outputs"]["pred"]["channel_def"] == dict(zip("012", LABELS, strict=True))
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found >= {"LICENSE", "docs/README.md", "docs/data_license.txt", "models/model.pt"}

    readme = (folder / "docs" / "README.md").read_text()
    assert all(name in readme for name in zoo.card(model).pretraining_overlap)

    with pytest.raises(UsageError, match="exists already"):
        save_bundle(folder, network, encoder, model=model, labels=LABELS)
    with pytest.raises(UsageError, match="3 output channels"):
        save_bundle(tmp_path / "other", network, encoder, model=model, labels=LABELS[:2])
