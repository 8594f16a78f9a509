"""Checker of the kind `voco_preprocess`: a CT through every step, alone and all together."""

import numpy as np
import torch
from zoo.modalities.volume.preprocess import VolumePreprocess, VolumePreprocessConfig
from zoo.modalities.volume.read import open_volume
from zoo.modalities.volume.resample import resample
from zoo.modalities.volume.transforms import foreground_box, orient, pad_to, resize, window


def voco_preprocess(fixture):
    config = fixture.config
    raw = {
        "volume": fixture.tensors["input_int16"].numpy(),
        "affine": fixture.tensors["affine"].numpy(),
        "modality": "ct",
    }
    volume = orient(open_volume(raw))
    stages = {"1_orientation_RAS": torch.from_numpy(volume.read())}
    affines = {"1_orientation_RAS": volume.affine}
    volume = resample(volume, config["spacing"])
    stages["2_spacing"] = torch.from_numpy(volume.read())
    affines["2_spacing"] = affines["3_window"] = volume.affine
    stages["3_window"] = window(stages["2_spacing"], *config["window"])
    box = foreground_box(volume, config["window"][0])
    stages["4_crop_foreground"] = stages["3_window"][(slice(None), *box)]
    stages["5_pad"] = pad_to(stages["4_crop_foreground"], config["pad_to"])
    stages["6_resize"] = resize(stages["5_pad"], config["resize_to"])
    for name, shape in config["steps"]:
        assert list(stages[name].shape) == shape
        _close(fixture, stages[name], name)
    for name, affine in affines.items():
        np.testing.assert_allclose(affine, fixture.tensors[f"{name}.affine"], atol=1e-9)

    constants = {"spacing": config["spacing"], "window": config["window"], "fit": "resize"}
    sizes = {"min_size": config["pad_to"], "size": config["resize_to"]}
    preprocess = VolumePreprocess(VolumePreprocessConfig(**constants, **sizes))
    _close(fixture, preprocess(raw)["volume"], "6_resize")


def _close(fixture, got, name):
    # Padding changes no value, and has no tolerance of its own.
    step = "4_crop_foreground" if name == "5_pad" else name
    atol = fixture.sidecar["tolerance"][step]["atol"]
    torch.testing.assert_close(got, fixture.tensors[name], atol=atol, rtol=0)


CHECKS = {"voco_preprocess": voco_preprocess}
