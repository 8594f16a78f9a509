"""Checkers of the encoders of the part `volume`."""

import gzip
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from zoo.hub.convert import convert, detect
from zoo.modalities.volume.merging import MERGING
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.segmenter import UNETRTrunk
from zoo.modalities.volume.vit3d import ViT3D, ViT3DConfig
from zoo.registry.build import build_encoder, encoder_spec
from zoo.registry.catalogue import card

from golden_checks.volume import close
from zoo.errors import WeightsError


def swin_patch_merging(fixture):
    tensors = fixture.tensors
    for name, cls in MERGING.items():
        merging = cls(tensors["x"].shape[-1], nn.LayerNorm, spatial_dims=3)
        state = {key: tensors[key] for key in ("norm.weight", "norm.bias", "reduction.weight")}
        merging.load_state_dict(state)
        close(fixture, merging(tensors["x"]), name, "default")
    assert not torch.allclose(tensors["legacy"], tensors["v2"], atol=1e-2)


def listing(fixture):
    path = fixture.path.parent / fixture.sidecar["file"]
    return json.loads(gzip.decompress(path.read_bytes()))


def shapes(state):
    return {key: [list(value.shape), str(value.dtype).partition(".")[2]] for key, value in state}


def on_meta(keys):
    return {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for key, (shape, dtype) in keys.items()
    }


def voco_checkpoint_layout(fixture):
    """Each published file gives exactly the catalogue's encoder; nothing of it is lost."""
    files = listing(fixture)
    widths = {args["feature_size"]: size for size, args in card("voco").sizes.items()}
    checked = set()
    for facts in fixture.sidecar["entries"].values():
        checked |= {facts.get("feature_size")} & widths.keys()
    assert checked == widths.keys()

    encoders = {}
    for width, size in widths.items():
        with torch.device("meta"):
            encoder = build_encoder(encoder_spec(f"voco-{size}", {}))
        assert encoder.config.merging == "legacy"
        encoders[width] = shapes(encoder.state_dict().items())
    for name, facts in files.items():
        if "keys" not in facts:
            continue
        want = encoders[facts["feature_size"]]
        keys = facts["keys"]
        if isinstance(keys, list):  # a file of the encoder alone: shapes are those of the whole one
            assert set(keys) == want.keys()
            assert len(keys) == facts["tensors"]
            whole = next(
                other["keys"]
                for other in files.values()
                if isinstance(other.get("keys"), dict)
                and other["feature_size"] == facts["feature_size"]
            )
            keys = {key: whole[key] for key in keys}
        file = on_meta(keys)
        count = sum(value.numel() for key, value in file.items() if not key.endswith("_index"))
        assert count == facts["parameters"], name
        assert detect(file) == "voco"
        for prefix in ("", "module.", "backbone.", "module.backbone.", "student.backbone."):
            found = convert({prefix + key: value for key, value in file.items()})
            assert shapes(found.encoder.items()) == want
            assert len(found.extra) == len(file) - len(want)
            assert not found.objective
        old = convert({key.replace("swinViT", "swin_vit"): value for key, value in file.items()})
        assert old.encoder.keys() == want.keys()
    voco_training_checkpoints(fixture, files, encoders)


def voco_training_checkpoints(fixture, files, encoders):
    """Backbone and both projectors, under DDP or not."""
    for facts in files.values():
        if "keys_without_backbone" not in facts:
            continue
        same = facts["backbone_keys_equal_to"].split()[0]
        backbone = {f"backbone.{key}": ([1], "float32") for key in files[same]["keys"]}
        file = on_meta(backbone | facts["keys_without_backbone"])
        assert len(file) == facts["tensors"]
        for prefix in ("", "module."):
            found = convert({prefix + key: value for key, value in file.items()})
            assert found.encoder.keys() == encoders[files[same]["feature_size"]].keys()
            assert found.objective.keys() == facts["keys_without_backbone"].keys()
            assert not found.extra


def voco_nnunet_layout(fixture):
    with pytest.raises(WeightsError, match="nnU-Net"):
        convert(on_meta(listing(fixture)["keys"]))


def bmmae_layout(fixture):
    """The catalogue's encoder; every tensor of a file in one place, those of later MONAI too."""
    keys, summary = listing(fixture), fixture.sidecar["summary"]
    file = on_meta(keys)
    assert len(file) == summary["tensors"]
    assert sum(value.numel() for value in file.values()) == summary["elements"]
    with torch.device("meta"):
        encoder = build_encoder(encoder_spec("bm-mae", {}))
    assert detect(file) == "bm-mae"
    found = convert(file)
    assert shapes(found.encoder.items()) == shapes(encoder.state_dict().items())
    assert len(found.encoder) + len(found.objective) + len(found.extra) == len(file)
    assert all(key.endswith("position_embeddings") for key in found.extra)
    trained = [*found.encoder.values(), *found.objective.values()]
    assert sum(value.numel() for value in trained) == summary["trainable"]
    width = fixture.config["hidden_size"]
    later = {
        f"blocks.{i}.norm_cross_attn.{kind}": torch.empty(width, device="meta")
        for i in range(fixture.config["num_layers"])
        for kind in ("weight", "bias")
    }
    assert convert(file | later).encoder.keys() == found.encoder.keys()


def vit3d(config, sequences):
    args = ViT3DConfig(
        patch_size=config["patch_size"],
        dim=config["hidden_size"],
        depth=config["num_layers"],
        heads=config["num_heads"],
        mlp_ratio=config["mlp_dim"] / config["hidden_size"],
        norm_eps=1e-5,
    )
    size = (config["img_size"],) * 3
    return args, VolumePreprocessConfig(
        modality="mr", sequences=tuple(sequences), intensity="z-score", size=size
    )


def bmmae_subsets(fixture):
    """Any subset of sequences; tokens come in the order of the config, whoever listed them how."""
    source = fixture.path.parent / "bmmae_pretrain.json"
    config = json.loads(source.read_text())["config"]
    tensors = load_file(source.with_suffix(".safetensors"))
    names = config["modalities"]
    encoder = ViT3D(*vit3d(config, names)).eval()
    state = {key.removeprefix("w."): v for key, v in tensors.items() if key.startswith("w.")}
    encoder.load_state_dict(convert(state).encoder)
    volume = torch.cat([tensors[f"x.{name}"] for name in names], dim=1)
    for subset in fixture.config["subsets"]:
        present = torch.tensor([name in subset for name in names]).expand(len(volume), -1)
        features = encoder({"volume": volume, "present": present})
        ours = [name for name in names if name in subset]
        parts = dict(zip(ours, features.tokens.chunk(len(ours), dim=1), strict=True))
        found = [features.pooled.unsqueeze(1), *(parts[name] for name in subset)]
        close(fixture, torch.cat(found, dim=1), f"out.{'+'.join(subset)}", "default")


def bmmae_seg_features(fixture):
    """What the decoder of a UNETR sees: the mean over sequences, without a class token."""
    config = fixture.config
    trunk = UNETRTrunk(*vit3d(config, config["modalities"]))
    trunk.load_state_dict(convert(fixture.group("w")).encoder)
    volume = torch.stack([analytic(phase, config["img_size"]) for phase in config["phases"]])[None]
    features, spread = trunk(volume)
    close(fixture, features, "features", "default")
    states = [state.mean(dim=1) for state in trunk.states(volume)]
    wanted = fixture.group("hidden")
    assert len(wanted) == len(states)
    for name, want in wanted.items():
        close(fixture, states[int(name)], want, "default")
    assert len(spread) == 12


def analytic(phase, size):
    """The fixtures' `volume_recipe`."""
    x, y, z = np.meshgrid(*[np.arange(size, dtype=np.float64)] * 3, indexing="ij")
    turn = 2 * math.pi
    values = 0.5 + 0.30 * np.sin(turn * (x / 47 + phase)) * np.cos(turn * y / 61)
    values += 0.15 * np.sin(turn * (z / 29 + 0.5 * phase) + 0.002 * x * y / 8)
    values += 0.05 * np.cos(turn * (x + 2 * y + 3 * z) / 17)
    return torch.from_numpy(values.clip(0, 1).astype(np.float32))


CHECKS = {
    "swin_patch_merging": swin_patch_merging,
    "voco_checkpoint_layout": voco_checkpoint_layout,
    "voco_nnunet_layout": voco_nnunet_layout,
    "bmmae_layout": bmmae_layout,
    "bmmae_subsets": bmmae_subsets,
    "bmmae_seg_features": bmmae_seg_features,
}
