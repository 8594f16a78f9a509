"""The README of a published encoder, from its config, its card and its run.

Its first lines are the metadata that the Hub reads (YAML, written by huggingface_hub).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zoo.hub.export import HUB
from zoo.registry.build import Spec
from zoo.registry.card import Card, Paper, Weights
from zoo.registry.recipe import Recipe
from zoo.registry.schema import to_table, to_toml

__all__ = ["About", "model_card"]

_TASKS = {"vision": "image-feature-extraction", "volume": "image-feature-extraction"}
_INPUTS = {
    "vision": '["photo.jpg"]',
    "volume": '["scan.nii.gz"]',
    "audio": '["dawn.wav"]',
    "code": '["main.py"]',
    "tabular": '"rows.csv"',
}
# Those that the Hub lists, in its spelling; others are `other` with a name.
_LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "gpl-3.0", "lgpl-3.0"),
    *("agpl-3.0", "mpl-2.0", "isc", "unlicense", "odc-by", "ecl-2.0", "artistic-2.0"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """All that the page says."""

    repo: str
    tag: str
    licence: str  # SPDX
    spec: Spec
    steps: int | None = None
    card: Card | None = None  # of the catalogue, where the model is there
    recipe: Recipe | None = None  # of the run
    origin: Weights | None = None  # published weights that it started from
    metrics: Mapping[str, float] = field(default_factory=dict)  # last values, by name
    picture: str | None = None  # file of the curves


def model_card(about: About) -> str:
    """The page, Markdown with front matter; the same facts give the same text."""
    name = about.repo.partition("/")[2]
    summary = about.card.summary if about.card else f"{about.spec.modality} encoder"
    return (
        "\n\n".join(
            [
                f"---\n{_front(about)}---",
                f"# {name}",
                f"{summary[0].upper()}{summary[1:]}. Made with zoo: model `{about.spec.name}`, "
                f"version `{about.tag}`.",
                *_usage(about),
                *_without_zoo(about),
                *_training(about),
                *_results(about),
                *_end(about),
            ]
        )
        + "\n"
    )


def _front(about: About) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    plain = about.licence.lower()
    is_listed = plain in _LICENCES
    results = [
        EvalResult(
            task_type="self-supervised-pretraining",
            dataset_type=_data(about),
            dataset_name=_data(about),
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in about.metrics.items()
    ]
    data = ModelCardData(
        license=plain if is_listed else "other",
        license_name=None if is_listed else plain,
        library_name="zoo",
        pipeline_tag=_TASKS.get(about.spec.modality, "feature-extraction"),
        tags=_tags(about),
        base_model=about.origin.repo if about.origin else None,
        model_name=about.repo.partition("/")[2] if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml()) + "\n"


def _tags(about: About) -> list[str]:
    objective = about.recipe.objective["name"] if about.recipe else None
    found = ["zoo", about.spec.modality, "self-supervised", str(about.spec.encoder["name"])]
    found += [str(objective)] if objective else []
    if about.card and about.card.paper and about.card.paper.arxiv:
        found.append(f"arxiv:{about.card.paper.arxiv}")
    return found


def _usage(about: About) -> list[str]:
    inputs = _INPUTS.get(about.spec.modality, '["input"]')
    return [
        "## Usage",
        "```python\n"
        "import zoo\n\n"
        f'encoder = zoo.load("{HUB}{about.repo}@{about.tag}")\n'
        f"features = encoder.embed({inputs})  # numpy, one row an input\n"
        "```",
    ]


def _without_zoo(about: About) -> list[str]:
    constants = {key: value for key, value in about.spec.preprocess.items() if value is not None}
    return [
        "## Without zoo",
        "`model.safetensors` (where it is large: its parts and `model.safetensors.index.json`) "
        "holds the encoder and nothing else; `config.json` holds its sizes, the constants of its "
        "preprocessing and the SHA-256 of every file.",
        "```python\n"
        "from safetensors.torch import load_file\n\n"
        'weights = load_file("model.safetensors")  # name -> tensor\n'
        "```",
        *_names(about.spec),
        "Architecture and preprocessing:",
        f"```toml\n{to_toml({'encoder': about.spec.encoder, 'preprocess': constants}).strip()}\n"
        "```",
    ]


def _names(spec: Spec) -> list[str]:
    if spec.encoder["name"] != "vit":
        return []
    pooled = "the class token" if spec.encoder.get("pool") == "cls" else "the mean over patches"
    return [
        "Names, shapes and numerics are those of timm's `VisionTransformer` with "
        f"`num_classes=0`; pooled features are {pooled}."
    ]


def _training(about: About) -> list[str]:
    parts = ["## Training data"]
    if about.recipe is None:
        return [*parts, "Not recorded with this export; ask whoever published it."]
    parts.append(
        f"`{_data(about)}`, as its owner named it. Whoever published this is responsible for the "
        "right to train on it."
    )
    parts.append("## Recipe")
    if about.origin:
        parts.append(f"Started from {about.origin.repo} (`{about.origin.file}`).")
    if about.steps is not None:
        parts.append(f"{about.steps:,} steps, seed {about.recipe.seed}.")
    table = to_table(about.recipe.train)
    table.pop("init", None)  # a path of somebody's machine
    shown = to_toml({"objective": about.recipe.objective, "train": table}).strip()
    return [*parts, f"```toml\n{shown}\n```"]


def _data(about: About) -> str:
    return Path(about.recipe.data).name if about.recipe else "unknown"


def _results(about: About) -> list[str]:
    parts = []
    if about.metrics:
        rows = [f"| {name} | {value:.6g} |" for name, value in about.metrics.items()]
        table = "\n".join(["| training metric | last value |", "|---|---|", *rows])
        parts += ["## Metrics", table]
    if about.picture:
        parts.append(f"![Loss over the steps of the run]({about.picture})")
    return parts


def _end(about: About) -> list[str]:
    parts = ["## Licence", f"Weights: {about.licence} (SPDX)."]
    if about.card and about.card.paper:
        parts += ["## Citation", "The method:", f"```bibtex\n{_bibtex(about.card.paper)}\n```"]
    return [
        *parts,
        "## Limitations",
        "An encoder without a task: what its features are good for has to be measured on your own "
        "data (`zoo probe`). It has the biases of its training data, was trained for inputs "
        "prepared as above, and gives features for any input, also where they mean nothing.",
    ]


def _bibtex(paper: Paper) -> str:
    key = paper.title.split()[0].lower().strip(":,") + str(paper.year)
    lines = [f"@misc{{{key},", f"  title = {{{paper.title}}},", f"  year = {{{paper.year}}},"]
    if paper.arxiv:
        lines += [f"  eprint = {{{paper.arxiv}}},", "  archivePrefix = {arXiv},"]
    elif paper.url:
        lines.append(f"  url = {{{paper.url}}},")
    return "\n".join([*lines, "}"])
