"""Names -> objects: the only place where an architecture, an objective or a codec is looked up."""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from zoo.registry.catalogue import card, find
from zoo.registry.recipe import Recipe
from zoo.registry.schema import Value, override, read, read_toml, to_table

from zoo.errors import ConfigError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from zoo.modalities.contracts import Codec, Encoder
    from zoo.objectives.contract import Objective

__all__ = [
    "ARCHITECTURES",
    "OBJECTIVES",
    "Spec",
    "build_codec",
    "build_encoder",
    "build_objective",
    "check_pairing",
    "encoder_spec",
    "resolve_recipe",
]

ARCHITECTURES = {
    "vit": "zoo.modalities.vision.vit:ViT",
    "timm": "zoo.modalities.vision.timm_encoder:TimmEncoder",
    "open_clip": "zoo.modalities.vision.open_clip:OpenCLIP",
    "two_towers": "zoo.modalities.two_towers:TwoTowers",
    "spectrogram_vit": "zoo.modalities.audio.encoder:SpectrogramViT",
    "wav2vec2": "zoo.modalities.audio.wav2vec2:Wav2Vec2",
    "code": "zoo.modalities.code.encoder:CodeEncoder",
    "t5": "zoo.modalities.code.t5:T5",
    "t5_encoder": "zoo.modalities.code.t5:T5Encoder",
    "unitabe": "zoo.modalities.tabular.encoder:UniTabE",
    "ft_transformer": "zoo.modalities.tabular.ft_transformer:FTTransformer",
    "saint": "zoo.modalities.tabular.saint:Saint",
    "swin3d": "zoo.modalities.volume.swin:Swin3D",
    "vit3d": "zoo.modalities.volume.vit3d:ViT3D",
    "crop_vit3d": "zoo.modalities.volume.crop_vit:CropViT3D",
    "conv3d": "zoo.modalities.volume.conv:ConvNet3D",
}
OBJECTIVES = {
    "mae": "zoo.objectives.mae:MAE",
    "self_distillation": "zoo.objectives.self_distillation:SelfDistillation",
    "masked_lm": "zoo.objectives.masked_lm:MaskedLM",
    "replaced_token": "zoo.objectives.replaced_token:ReplacedToken",
    "causal_lm": "zoo.objectives.causal_lm:CausalLM",
    "biphasic": "zoo.objectives.biphasic:Biphasic",
    "dupmae": "zoo.objectives.dupmae:DupMAE",
    "span_denoising": "zoo.objectives.span_denoising:SpanDenoising",
    "ul2": "zoo.objectives.ul2:UL2",
    "contrastive": "zoo.objectives.contrastive:ViewContrastive",
    "byol": "zoo.objectives.byol:BYOL",
    "vicreg": "zoo.objectives.vicreg:VICReg",
    "barlow_twins": "zoo.objectives.barlow_twins:BarlowTwins",
    "tico": "zoo.objectives.tico:TiCo",
    "lejepa": "zoo.objectives.lejepa:LeJEPA",
    "dino": "zoo.objectives.dino:DINO",
    "ibot": "zoo.objectives.ibot:IBOT",
    "sit": "zoo.objectives.sit:SiT",
    "image_text": "zoo.objectives.image_text:ImageText",
    "text_code": "zoo.objectives.text_code:TextCode",
    "text_code_matching": "zoo.objectives.text_code_matching:TextCodeMatching",
    "supervised_contrastive": "zoo.objectives.supervised_contrastive:SupervisedContrastive",
    "look": "zoo.objectives.look:LOOK",
    "voco": "zoo.objectives.voco:VoCo",
    "bm_mae": "zoo.objectives.bm_mae:BMMAE",
    "wav2vec2": "zoo.objectives.wav2vec2:Wav2Vec2Objective",
    "unitabe": "zoo.objectives.unitabe:UniTabEObjective",
    "masked_cells": "zoo.objectives.masked_cells:MaskedCells",
    "scarf": "zoo.objectives.scarf:Scarf",
}
CODECS = {
    "vision": "zoo.modalities.vision.codec:VisionCodec",
    "audio": "zoo.modalities.audio.codec:AudioCodec",
    "volume": "zoo.modalities.volume.codec:VolumeCodec",
    "code": "zoo.modalities.code.codec:CodeCodec",
    "tabular": "zoo.modalities.tabular.codec:TabularCodec",
}


C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """All that is needed to build one encoder; stored with every set of weights."""

    name: str
    modality: str
    encoder: dict[str, Value]  # `name` of the architecture and every argument
    preprocess: dict[str, Value]


def encoder_spec(
    name: str, changes: Mapping[str, object], preprocess: Mapping[str, object] | None = None
) -> Spec:
    """The spec of a catalogue name with some arguments changed.

    Raises:
        UnknownNameError: no such model.
        ConfigError: no such argument, or a value of the wrong type.
    """
    row, _ = find(name)
    one = card(name)
    args = one.encoder_args(one.size_of(row.name)) | dict(changes)
    return _complete(
        Spec(
            name=row.name,
            modality=one.modality,
            encoder={"name": one.encoder["name"], **args},
            preprocess=dict(one.preprocess) | dict(preprocess or {}),
        ),
        where=row.name,
    )


def build_encoder(spec: Spec) -> "Encoder":
    """The encoder with random weights, or without any inside `torch.device("meta")`."""
    cls = _architecture(spec.encoder)
    config, constants = _configs(cls, spec, where=spec.name)
    parts = {name: build_encoder(part) for name, part in _parts(cls, spec).items()}
    try:
        return cls(config, constants, **parts)
    except ValueError as error:  # what only the two together can say
        raise ConfigError(f"{spec.name}: {error}") from None


def build_objective(options: Mapping[str, Value], encoder: "Encoder") -> "Objective":
    """The objective with heads that fit `encoder`."""
    cls = _objective(options)
    config = _task_config(options, where=f"objective {options['name']}")
    try:
        return cls(config, encoder)
    except ValueError as error:
        raise ConfigError(f"objective {options['name']}: {error}") from None


def build_codec(modality: str, **options: object) -> "Codec":
    """The codec of a modality, with what only some take (`spacing` of volumes)."""
    codec: type[Codec] = _load("modality", modality, CODECS)
    return codec(**options)


def check_pairing(encoder: Mapping[str, Value], objective: Mapping[str, Value]) -> None:
    """Refuses a pair that cannot work, before anything is built.

    Raises:
        UsageError: says what the objective needs and which objectives would work.
    """
    architecture, task = _architecture(encoder), _objective(objective)
    if not issubclass(architecture, task.requires):
        fitting = [
            name
            for name in OBJECTIVES
            if issubclass(architecture, _objective({"name": name}).requires)
        ]
        raise UsageError(
            f"objective {objective['name']!r} needs {task.requires.needs_words}, which "
            f"{encoder['name']!r} does not have; it works with {', '.join(fitting) or 'none'}"
        )


def resolve_recipe(
    name: str, data: str | None, words: Iterable[str] = (), *, seed: int | None = None
) -> Recipe:
    """A card's recipe with overrides, complete and checked.

    Args:
        name: a model of the catalogue, or the config.toml of a run to repeat.
        data: shards; None takes those of the config.toml.
        words: dotted overrides such as "train.lr=3e-4" or "encoder.depth=2".
        seed: of everything random; by default 0, or that of the config.toml.

    Raises:
        UsageError: unknown names or keys, wrong types, a pairing that cannot work.
    """
    given = {key: value for key, value in (("data", data), ("seed", seed)) if value is not None}
    if name.endswith(".toml"):
        table = override({**read_toml(Path(name)), **given}, words)
        if "family" in table:
            raise UsageError(
                f"{name}: a card, not the config.toml of a run: set ZOO_CARDS={name}, and train "
                f"{table['family']!r}"
            )
        return complete_recipe(read(Recipe, table, where=name))
    words, one, spec = list(words), card(name), encoder_spec(name, {})
    if one.recipe is None and not any(word.startswith("objective.name=") for word in words):
        raise UsageError(
            f"{spec.name} has no recipe: its card only describes published weights; give one, such "
            "as objective.name=contrastive train.batch_size=256 train.epochs=100 train.lr=1e-3"
        )
    if data is None:
        raise UsageError(f"{spec.name}: which data? give shards with --data")
    own = to_table(one.recipe) if one.recipe else {"objective": {}, "train": {}, "loader": {}}
    table = {
        "model": spec.name,
        "modality": spec.modality,
        "encoder": spec.encoder,
        "preprocess": spec.preprocess,
        **own,
        **given,
    }
    recipe = read(Recipe, override(table, words), where=f"recipe of {spec.name}")
    if one.recipe and recipe.objective["name"] != one.recipe.objective["name"]:
        table["objective"] = {}  # the card's options are those of another objective
        recipe = read(Recipe, override(table, words), where=f"recipe of {spec.name}")
    return complete_recipe(recipe)


def complete_recipe(recipe: Recipe) -> Recipe:
    """The same recipe with every default written out and the pairing checked."""
    spec = _complete(
        Spec(
            name=recipe.model,
            modality=recipe.modality,
            encoder=recipe.encoder,
            preprocess=recipe.preprocess,
        ),
        where=f"recipe of {recipe.model}",
    )
    check_pairing(spec.encoder, recipe.objective)
    _check_passes(recipe)
    config = _task_config(recipe.objective, where=f"recipe of {recipe.model}, objective")
    return Recipe(
        model=recipe.model,
        data=recipe.data,
        modality=recipe.modality,
        encoder=spec.encoder,
        preprocess=spec.preprocess,
        objective={"name": recipe.objective["name"], **to_table(config)},
        train=recipe.train,
        loader=recipe.loader,
        seed=recipe.seed,
    )


def _check_passes(recipe: Recipe) -> None:
    """Refuses micro-batches to an objective whose loss they would change."""
    is_split = recipe.train.accumulate > 1 or recipe.loader.tokens is not None
    if is_split and _objective(recipe.objective).compares_samples:
        raise UsageError(
            f"objective {recipe.objective['name']!r} compares all samples of a step, which "
            "micro-batches would part: leave out train.accumulate and loader.tokens; "
            "train.checkpoint_activations=true and more processes save memory too"
        )


def _complete(spec: Spec, *, where: str) -> Spec:
    """The same spec with every argument written out, so that later defaults cannot change it."""
    cls = _architecture(spec.encoder)
    config, constants = _configs(cls, spec, where=where)
    parts = {
        name: _complete(part, where=f"{where}, {name}") for name, part in _parts(cls, spec).items()
    }
    args = to_table(config) | {name: part.encoder for name, part in parts.items()}
    return Spec(
        name=spec.name,
        modality=spec.modality,
        encoder={"name": spec.encoder["name"], **args},
        preprocess=to_table(constants) | {name: p.preprocess for name, p in parts.items()},
    )


def _parts(cls: "type[Encoder]", spec: Spec) -> dict[str, Spec]:
    """The encoders that one is made of; what they are was checked with its own arguments."""
    return {
        name: Spec(
            name=spec.name,
            modality=spec.modality,
            encoder=cast("dict[str, Value]", spec.encoder[name]),
            preprocess=cast("dict[str, Value]", spec.preprocess.get(name, {})),
        )
        for name in cls.parts
    }


def _configs(cls: "type[Encoder]", spec: Spec, *, where: str) -> tuple[object, object]:
    """The architecture's arguments and the preprocessing's constants, typed and checked."""
    config: object = read(cls.config_class, _args(spec.encoder), where=f"{where}, encoder")
    constants: object = read(cls.preprocess_class, spec.preprocess, where=f"{where}, preprocess")
    return config, constants


def _task_config(options: Mapping[str, Value], *, where: str) -> object:
    config: object = read(_objective(options).config_class, _args(options), where=where)
    return config


def _args(options: Mapping[str, Value]) -> dict[str, Value]:
    return {key: value for key, value in options.items() if key != "name"}


def _architecture(options: Mapping[str, Value]) -> "type[Encoder]":
    from zoo.modalities.contracts import Encoder

    return _load_own("architecture", str(options["name"]), ARCHITECTURES, Encoder)


def _objective(options: Mapping[str, Value]) -> "type[Objective]":
    from zoo.objectives.contract import Objective

    return _load_own("objective", str(options["name"]), OBJECTIVES, Objective)


def _load_own(kind: str, name: str, known: Mapping[str, str], base: type[C]) -> type[C]:
    """As `_load`; a class of somebody's own has to have what `base` asks for.

    Raises:
        UsageError: says what it lacks.
    """
    found, contract = _load(kind, name, known), f"{base.__module__}.{base.__name__}"
    if name in known:
        return found
    if not isinstance(found, type) or not issubclass(found, base):
        raise UsageError(f"{kind} {name!r} is no subclass of {contract}")
    configs = [key for key in base.__annotations__ if key.endswith("_class")]
    lacking = [
        *sorted(getattr(found, "__abstractmethods__", ())),
        *(f"{key} (a dataclass)" for key in configs if not is_dataclass(getattr(found, key, None))),
    ]
    if lacking:
        raise UsageError(f"{kind} {name!r} lacks {', '.join(lacking)}: see {contract}")
    return found


def _load(kind: str, name: str, known: Mapping[str, str]) -> type:
    """The class behind a name; `module:Class` means one of anybody's own."""
    if name not in known and ":" not in name:
        raise UnknownNameError(kind, name, known, "one of your own is named MODULE:CLASS")
    module, _, attribute = known.get(name, name).partition(":")
    try:
        found: type = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{kind} {name!r} cannot be imported ({error}): install its package, or set PYTHONPATH "
            "to the folder it lies in"
        ) from None
    except Exception as error:  # whatever a module of somebody else's does
        raise UsageError(
            f"{kind} {name!r} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    return found
