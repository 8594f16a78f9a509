"""A segmenter as a MONAI bundle: the folder that MONAI's tools, MONAI Label and Deploy load.

The network is named by zoo's own factory, because a bundle that names MONAI's class would get
another order of patch merging in another version of MONAI, without an error. Preprocessing is
MONAI's, with the constants that the weights were trained with.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.swin import Swin3D
from zoo.modalities.volume.vit3d import ViT3D
from zoo.registry.card import Card
from zoo.registry.catalogue import card
from zoo.registry.schema import to_table

from zoo.errors import UsageError
from zoo.files import atomic_folder

__all__ = ["save_bundle"]

_VOLUME = "zoo.modalities.volume"
_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
_OVERLAP = 0.75  # of the windows, as in VoCo's evaluations
_FORMATS = {"ct": "hounsfield", "mr": "magnitude", "pt": "magnitude"}


def save_bundle(
    folder: Path, network: nn.Module, encoder: Swin3D | ViT3D, *, model: str, labels: Sequence[str]
) -> None:
    """Writes a segmenter, usually a fine-tuned one.

    Args:
        folder: must not exist.
        network: what `encoder.segmenter` gave.
        encoder: the one that gave it.
        model: its name in the catalogue, for licence and paper.
        labels: what each output channel means, the background first.

    Raises:
        UsageError: the folder exists, or there is no label for each output channel.
        StorageError: it cannot be written.
    """
    state = network.state_dict()
    channels = len(state["out.conv.conv.bias"])
    if channels != len(labels):
        raise UsageError(f"{channels} output channels need as many labels, got {len(labels)}")
    if folder.exists():
        raise UsageError(f"{folder}: exists already; choose another folder or remove it")
    one, constants = card(model), encoder.preprocess.config
    configs = {
        "metadata": _metadata(one, constants, labels),
        "inference": _inference(encoder, constants, channels),
    }
    licence = one.licence.weights or "NONE"
    with atomic_folder(folder) as draft:
        for name in ("configs", "docs", "models"):
            (draft / name).mkdir()
        for name, content in configs.items():
            (draft / "configs" / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
        torch.save(
            {name: value.detach().cpu() for name, value in state.items()},
            draft / "models" / "model.pt",
        )
        (draft / "docs" / "README.md").write_text(_readme(one, model, labels))
        (draft / "docs" / "data_license.txt").write_text(
            "The data that the weights were trained with have licences of their own.\n"
        )
        (draft / "LICENSE").write_text(f"SPDX-License-Identifier: {licence}\n")


def _inference(
    encoder: Swin3D | ViT3D, constants: VolumePreprocessConfig, channels: int
) -> dict[str, object]:
    """`configs/inference.json`: ids as MONAI's own bundles have them."""
    kind, file = ("swin_unetr", "swin") if isinstance(encoder, Swin3D) else ("vit_unetr", "vit3d")
    config = type(encoder.config).__name__
    return {
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "imports": ["$import torch"],
        "network_def": {
            "_target_": f"{_VOLUME}.segmenter.{kind}",
            "config": {"_target_": f"{_VOLUME}.{file}.{config}", **to_table(encoder.config)},
            "preprocess": {
                "_target_": f"{_VOLUME}.preprocess.VolumePreprocessConfig",
                **to_table(constants),
            },
            "out_channels": channels,
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": _chain(_preprocessing(constants)),
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(constants.size),
            "sw_batch_size": 1,
            "overlap": _OVERLAP,
            "mode": "gaussian",
        },
        "postprocessing": _chain(
            [
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": True,
                },
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@bundle_root + '/eval'"},
            ]
        ),
    }


def _chain(transforms: Sequence[Mapping[str, object]]) -> dict[str, object]:
    return {"_target_": "Compose", "transforms": list(transforms)}


def _preprocessing(constants: VolumePreprocessConfig) -> list[Mapping[str, object]]:
    """What `VolumePreprocess` does before it takes a crop, in MONAI's transforms."""
    normalise: Mapping[str, object] = {
        "_target_": "NormalizeIntensityd",
        "keys": "image",
        "nonzero": True,
        "channel_wise": True,
    }
    if constants.intensity == "window":
        low, high = constants.window
        normalise = {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": low,
            "a_max": high,
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": True,
        }
    return [
        {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        {"_target_": "Spacingd", "keys": "image", "pixdim": list(constants.spacing)},
        normalise,
    ]


def _metadata(
    one: Card, constants: VolumePreprocessConfig, labels: Sequence[str]
) -> dict[str, object]:
    """`configs/metadata.json`."""
    shape = list(constants.size)
    return {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by zoo"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__,
        "numpy_version": version("numpy"),
        "required_packages_version": {name: version(name) for name in ("einops", "zoo")},
        "name": f"segmentation with {one.family}",
        "task": "segmentation of volumes",
        "description": one.summary,
        "authors": "see references",
        "copyright": one.licence.weights or "NONE",
        "intended_use": "research only; not for diagnosis",
        "references": [one.paper.title] if one.paper else [],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": _FORMATS.get(constants.modality, "magnitude"),
                    "modality": constants.modality.upper(),
                    "num_channels": len(constants.sequences),
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [0, 1] if constants.intensity == "window" else [-10, 10],
                    "is_patch_data": True,
                    "channel_def": _numbered(constants.sequences),
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(labels),
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": True,
                    "channel_def": _numbered(labels),
                }
            },
        },
    }


def _numbered(names: Sequence[str]) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(names)}


def _readme(one: Card, model: str, labels: Sequence[str]) -> str:
    paper = f"{one.paper.title} ({one.paper.year})" if one.paper else "no paper"
    lines = [
        f"# Segmentation with {model}",
        f"{one.summary}. {paper}.",
        f"Classes: {', '.join(labels)}.",
        "Needs zoo with its extra `volume`.",
    ]
    if seen := ", ".join(one.pretraining_overlap):
        lines.append(f"Published weights have seen scans of {seen}, some that others test on.")
    return "\n\n".join(lines) + "\n"
