"""Which encoders train by which objectives: the table, and every cell of it tried in small.

    python -m zoo.benchmarks.pairs           # 20 optimiser steps of every pair, on made-up samples
    python -m zoo.benchmarks.pairs --table   # the table alone, as docs/pairs.md has it

A pair either trains, which is tried from a decoded sample to an update of the weights, or it is
refused when a recipe is read, in one line that says what the objective needs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import click
import numpy as np
import torch
from zoo.modalities.contracts import Batch, Encoder, Sample
from zoo.objectives.contract import Objective
from zoo.registry.build import (
    ARCHITECTURES,
    OBJECTIVES,
    build_codec,
    build_encoder,
    build_objective,
    check_pairing,
    encoder_spec,
)
from zoo.registry.schema import Value

from zoo.errors import UsageError
from zoo.text import columns

__all__ = ["Small", "Trial", "pairs", "refusal", "table", "try_pair"]

STEPS = 20
_SMALL = {"dim": 24, "depth": 1, "heads": 2}
_VIEWS = {"hidden_dim": 16, "output_dim": 8}
_PROTOTYPES = {**_VIEWS, "bottleneck_dim": 8, "crops": {"count": 2, "size": 4}}
_DECODER = {"decoder_dim": 24, "decoder_depth": 1, "decoder_heads": 2}
_WORDS = {"start_id": 1, "end_id": 2, "mask_id": 3, "ordinary_ids": None, "max_length": 48}
_T5 = {"head_dim": 8, "hidden": 32, "vocab_size": 340, "dropout": 0.0}
_TEXTS = ("def add(a, b):\n    return a + b\n", "for i in range(9):\n    print(i)\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """A model that stands for an architecture, as small as it gets."""

    model: str
    changes: Mapping[str, object] = field(default_factory=dict)
    preprocess: Mapping[str, object] = field(default_factory=dict)
    objective: Mapping[str, Value] = field(default_factory=dict)  # beside its own options
    samples: int = 6


ENCODERS = {
    "vit": Small(model="digits-mae", changes=_SMALL),
    "timm": Small(model="timm/test_vit", changes={"img_size": 32}),
    "open_clip": Small(
        model="open-clip/ViT-B-32",
        changes={
            **{"embed_dim": 16, "img_size": 32, "patch_size": 16, "width": 32, "depth": 1},
            **{"head_width": 16, "text_width": 16, "text_depth": 1, "text_heads": 2},
        },
    ),
    "spectrogram_vit": Small(model="birds-mae", changes=_SMALL),
    "wav2vec2": Small(
        model="wav2vec2-base",
        changes={
            **_SMALL,
            **{"mlp_dim": 32, "conv_dim": [16] * 7, "pos_conv_kernel": 8, "pos_conv_groups": 4},
        },
    ),
    "code": Small(
        model="stdlib-mlm", changes={**_SMALL, "hidden": 32, "vocab_size": 300}, preprocess=_WORDS
    ),
    "t5": Small(
        model="codet5p-220m",
        changes={**_SMALL, **_T5, "decoder_depth": 1},
        preprocess={**_WORDS, "sentinel_ids": [300, 340]},
    ),
    "t5_encoder": Small(
        model="codet5p-110m-embedding",
        changes={**_SMALL, **_T5, "embed_dim": 16},
        preprocess=_WORDS,
    ),
    "unitabe": Small(
        model="unitabe-small",
        changes={**_SMALL, "embed_dim": 16, "hidden": 32, "vocab_size": 256},
        preprocess={"rows": 4},
    ),
    "swin3d": Small(
        model="voco-base",
        changes={
            **{"feature_size": 2, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 4},
            "micro_batch": None,
        },
        preprocess={"size": [64, 32, 32], "min_size": [16, 16, 16]},
        samples=4,
    ),
    "vit3d": Small(
        model="bm-mae-base",
        changes={**_SMALL, "patch_size": 8},
        preprocess={"size": [16, 16, 16], "sequences": ["t1", "t2"]},
    ),
    "crop_vit3d": Small(
        model="torsos-mae-tiny",
        changes={**_SMALL, "patch_size": 8},
        preprocess={"size": [32, 16, 16]},
    ),
    "conv3d": Small(
        model="torsos-voco-tiny", changes={"widths": [8, 16]}, preprocess={"size": [32, 16, 16]}
    ),
}
OPTIONS: dict[str, Mapping[str, Value]] = {
    "mae": _DECODER,
    "self_distillation": {**_DECODER, "teacher": "."},
    "bm_mae": _DECODER,
    "dupmae": {"decoder_heads": 2},
    "biphasic": {"causal_steps": STEPS // 2},
    "contrastive": _VIEWS,
    "byol": _VIEWS,
    "vicreg": _VIEWS,
    "barlow_twins": _VIEWS,
    "tico": _VIEWS,
    "lejepa": {**_VIEWS, "directions": 16},
    "dino": _PROTOTYPES,
    "ibot": {**_PROTOTYPES, "mask_probability": 1.0},
    "sit": _VIEWS,
    "supervised_contrastive": _VIEWS,
    "look": {**_VIEWS, "neighbours": 3},
    "text_code_matching": {"match_id": 4, "write_text_id": 5, "write_code_id": 6},
    "voco": {**_VIEWS, "crop_size": 16},
    "wav2vec2": {"num_negatives": 4, "codes": 8, "code_dim": 8, "projection_dim": 8},
}
PAIRS = {  # that need something else
    ("unitabe", "unitabe"): replace(
        ENCODERS["unitabe"],
        changes={
            **ENCODERS["unitabe"].changes,
            "numbers": "digits",
            "pool": "cls",
            "tokens": "pieces",
        },
    ),
    ("swin3d", "voco"): replace(
        ENCODERS["swin3d"],
        preprocess={"size": [128, 64, 64], "min_size": [64, 64, 64]},
        objective={"crop_size": 64, "random_crops": 1, "variant": "code_v1"},
        samples=1,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What came of a pair: its loss at the first and the last step, and how many weights moved."""

    first: float
    last: float
    moved: int  # of the encoder's trainable tensors
    trained: int  # how many there are


def refusal(architecture: str, objective: str) -> str | None:
    """Why a pair is refused, in one line; None where it is not."""
    try:
        check_pairing({"name": architecture}, {"name": objective})
    except UsageError as error:
        return str(error)
    return None


def pairs() -> Iterator[tuple[str, str]]:
    """Architecture and objective of every pair that is accepted."""
    for architecture in ARCHITECTURES:
        for objective in OBJECTIVES:
            if refusal(architecture, objective) is None:
                yield architecture, objective


def table() -> str:
    """Markdown: a row an objective, a column an architecture, a dot where the pair trains."""
    rows = [["objective", *ARCHITECTURES], ["---", *[":-:"] * len(ARCHITECTURES)]]
    for objective in OBJECTIVES:
        cells = ["" if refusal(one, objective) else "●" for one in ARCHITECTURES]
        rows.append([f"`{objective}`", *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def try_pair(architecture: str, objective: str, *, steps: int = STEPS) -> Trial:
    """Trains a small pair on a batch of made-up samples, by AdamW."""
    torch.manual_seed(0)
    small = PAIRS.get((architecture, objective), ENCODERS[architecture])
    encoder = _encoder(small).train()
    options = {**OPTIONS.get(objective, {}), **small.objective}
    task = build_objective({"name": objective, **options}, encoder).train()
    task.start(encoder)
    batch = _batch(encoder, task, small.samples)
    weights = [p for p in encoder.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in weights]
    heads = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([*weights, *heads], lr=1e-3)
    curve = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = task(encoder, batch).total
        loss.backward()
        optimizer.step()
        task.after_step(encoder)
        curve.append(loss.item())
    moved = sum(not torch.equal(p, old) for p, old in zip(weights, before, strict=True))
    return Trial(first=curve[0], last=curve[-1], moved=moved, trained=len(weights))


def _encoder(small: Small) -> Encoder:
    """With a tokenizer of the samples' texts where it needs one."""
    encoder = build_encoder(encoder_spec(small.model, small.changes, small.preprocess))
    if not encoder.preprocess.ready:
        encoder.preprocess.fit(sample(encoder, number) for number in range(small.samples))
    return encoder


def _batch(encoder: Encoder, objective: Objective, count: int) -> Batch:
    """Samples as training has them: out of a shard's bytes, augmented, with views or masks."""
    codec, samples = build_codec(encoder.modality), []
    for number in range(count):
        decoded = codec.decode(codec.encode(sample(encoder, number)))
        generator = torch.Generator().manual_seed(number)
        samples.append(objective.prepare(decoded, encoder.preprocess, generator))
    return encoder.preprocess.collate(samples)


def sample(encoder: Encoder, number: int) -> Sample:
    """A made-up sample with everything that any objective asks for; two classes take turns."""
    rng, label = np.random.default_rng(number), number % 2
    made = _SAMPLES[encoder.modality](encoder, rng, label)
    return {"label": label, "text": _TEXTS[label], **made}


def _image(encoder: Encoder, rng: np.random.Generator, label: int) -> Sample:
    channels = getattr(encoder.preprocess, "in_chans", 3)
    image = rng.integers(0, 100, (36, 36, 3), dtype=np.uint8)
    image[:, 18 * label :] += 100
    return {"image": image if channels == 3 else image[..., 0]}


def _audio(encoder: Encoder, rng: np.random.Generator, label: int) -> Sample:
    tone = np.sin(np.arange(8000) * (0.1 + 0.2 * label)) + 0.1 * rng.standard_normal(8000)
    return {"audio": (0.5 * tone).astype(np.float32), "rate": 16_000}


def _volume(encoder: Encoder, rng: np.random.Generator, label: int) -> Sample:
    from zoo.modalities.volume.preprocess import VolumePreprocess
    from zoo.modalities.volume.volume import Sequence, Volume

    assert isinstance(encoder.preprocess, VolumePreprocess)
    config, found = encoder.preprocess.config, {}
    for name in config.sequences:
        values = rng.integers(-200, 100, config.size).astype(np.int16)
        values[config.size[0] // 2 * label :] += 100
        found[name] = Sequence(values)
    affine = np.diag([*config.spacing, 1.0])
    return {"volume": Volume(sequences=found, affine=affine, modality=config.modality)}


def _code(encoder: Encoder, rng: np.random.Generator, label: int) -> Sample:
    name = f"name{rng.integers(9)}"
    text = _TEXTS[label] + f"{name} = {rng.integers(99)}\n"
    return {"text": text, "facts": {"query": f"text about {name}", "language": "python"}}


def _table(encoder: Encoder, rng: np.random.Generator, label: int) -> Sample:
    from zoo.modalities.tabular.read import read_table

    colours = [("red", "blue")[i % 2] for i in range(4)]
    return {"table": read_table({"size": rng.random(4).tolist(), "colour": colours})}


_SAMPLES: Mapping[str, Callable[[Encoder, np.random.Generator, int], Sample]] = {
    "vision": _image,
    "audio": _audio,
    "volume": _volume,
    "code": _code,
    "tabular": _table,
}


@click.command()
@click.option("--table", "only_table", is_flag=True, help="The table alone, without training.")
@click.option("--steps", default=STEPS, show_default=True)
def main(only_table: bool, steps: int) -> None:
    """Tries every pair of an encoder and an objective."""
    if only_table:
        click.echo(table(), nl=False)
        return
    rows = []
    for architecture, objective in pairs():
        trial = try_pair(architecture, objective, steps=steps)
        numbers = f"{trial.first:.4f}", f"{trial.last:.4f}", f"{trial.moved} of {trial.trained}"
        rows.append([architecture, objective, *numbers])
    heads = ["encoder", "objective", "first loss", f"after {steps} steps", "tensors that moved"]
    click.echo(columns(heads, rows))
    refused = len(ARCHITECTURES) * len(OBJECTIVES) - len(rows)
    click.echo(f"{len(rows)} pairs train, {refused} are refused.")


if __name__ == "__main__":
    main()
