"""`zoo.pretrain`: a card's recipe, shards, and a folder -> a run; the same call continues it."""

import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor

import zoo
from zoo.data.compose import open_data
from zoo.data.loader import Batch, Loader, Samples
from zoo.data.mixture import Mixture
from zoo.data.quarantine import Quarantine
from zoo.errors import DataError, UsageError
from zoo.files import storage_errors, sweep_temporary, write_atomic
from zoo.lock import locked
from zoo.modalities.contracts import Codec, Encoder, Preprocess, Sample
from zoo.objectives.contract import Objective
from zoo.registry.build import (
    Spec,
    build_codec,
    build_encoder,
    build_objective,
    resolve_recipe,
)
from zoo.registry.recipe import Recipe
from zoo.registry.schema import to_table, to_toml
from zoo.restoring import blank, restore, save_result
from zoo.runs import ASSETS, CHECKPOINTS, CONFIG, EXPORT, Run, spec_of
from zoo.starting import start_from
from zoo.training.loggers import check_loggers
from zoo.training.loop import Trainer
from zoo.training.schedule_free import evaluated
from zoo.training.world import World, joined

__all__ = ["LOCK", "pretrain", "restore_objective", "untrained"]

LOCK, QUARANTINE = "run.lock", "quarantine.jsonl"
_FIT_SAMPLES = 100_000  # a tokenizer needs no more
_READ = 256  # samples that are read together

Data = tuple[Samples, Mixture | None]


@dataclass(frozen=True)
class _Prepare:
    """What a worker does with a decoded sample."""

    preprocess: Preprocess
    objective: Objective

    def __call__(self, sample: Sample, generator: torch.Generator) -> Batch:
        batch = self.objective.prepare(sample, self.preprocess, generator)
        others = [name for name, value in batch.items() if not isinstance(value, torch.Tensor)]
        if others:
            what = f"{type(self.objective).__name__}.views"
            raise UsageError(f"{what} must give tensors, which {', '.join(others)} is not")
        return batch


def pretrain(
    model: str,
    data: str | Path | None,
    out: str | Path,
    options: Iterable[str] | Mapping[str, object] = (),
    *,
    seed: int | None = None,
    device: str | None = None,
    progress: bool = True,
    profile: bool = False,
) -> Run:
    """Pretrains a model of the catalogue by its card's recipe.

    Args:
        model: a name such as "mae-base", or the config.toml of a run to repeat.
        data: shards: a folder, a brace list, a glob, one tar, or a TOML file that mixes several;
            None takes those of the config.toml.
        out: the run's folder; where it holds this very run, it continues.
        options: overrides of the recipe, "train.lr=3e-4" words or a mapping of dotted keys.
        seed: of weights, order and masks; by default 0, or that of the config.toml.
        device: "cuda" where there is one, else "cpu".
        progress: show the run's progress on stderr.
        profile: write where the time of ten steps goes into `out/profile`.

    Returns:
        The finished run; `run.load()` is the encoder, `out/export` the folder to share.

    Raises:
        UsageError: unknown names or options, no data, or `out` is something else.
        DataError, StorageError, NonFiniteError, Preempted, BusyError: see `zoo.errors`.
    """
    words = map(_word, options.items()) if isinstance(options, Mapping) else options
    recipe = resolve_recipe(model, None if data is None else str(data), words, seed=seed)
    with joined(device, timeout=recipe.train.timeout) as world:
        _train(recipe, Path(out), world, progress=progress, profile=profile)
    return Run(Path(out))


def _word(option: tuple[str, object]) -> str:
    """An option as it would be typed."""
    key, value = option
    if value is None:
        return f"{key}=none"
    return f"{key}={value if isinstance(value, str | Path) else json.dumps(value)}"


def _train(recipe: Recipe, folder: Path, world: World, *, progress: bool, profile: bool) -> None:
    """One process's part of a run; what is done once is done by the main one."""
    check_loggers(recipe.train.loggers)
    run = world.on_main(lambda: _existing(folder, recipe))
    if run is not None and run.finished:
        return
    world.on_main(lambda: len(_open(recipe)[0]))  # makes indexes, and says what is wrong, once
    opened = _open(recipe)
    with ExitStack() as stack:

        def begin() -> bool:
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / LOCK, "writing this run"))
            run = _existing(folder, recipe)  # another process may have been faster
            sweep_temporary(folder)
            if run is None:
                _describe(recipe, opened[0], folder)
            return run is not None and run.finished

        if world.on_main(begin):
            return
        trainer = _trainer(recipe, opened, folder, world)
        if world.is_main:
            trainer.loader.quarantine.note(opened[0].events)
        trainer.train(progress=progress, profile=profile)
        with evaluated(trainer.optimizers):
            result = _whole(trainer.result, spec_of(recipe), world)
            world.on_main(lambda: save_result(folder / EXPORT, result, recipe, trainer.step))


def _describe(recipe: Recipe, samples: Samples, folder: Path) -> None:
    facts = {**_facts(), "samples": len(samples), "data": samples.fingerprint}
    write_atomic(folder / "run.json", json.dumps(facts, indent=1) + "\n")
    write_atomic(folder / CONFIG, to_toml(to_table(recipe)) + "\n")


def _whole(encoder: Encoder, spec: Spec, world: World) -> Encoder:
    """The encoder in one piece, in the main process, where its parameters are divided."""
    if not any(isinstance(p, DTensor) for p in encoder.parameters()):
        return encoder
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(encoder, options=options)
    if not world.is_main:
        return encoder
    whole = build_encoder(spec)
    whole.preprocess.load_assets(encoder.preprocess.assets())
    whole.load_state_dict(weights)
    return whole


def restore_objective(run: Run) -> tuple[Encoder, Objective]:
    """Encoder and objective of a run's newest checkpoint, in eval mode; it may be in progress.

    Raises:
        UsageError: there is no checkpoint yet.
        IntegrityError: it is damaged.
    """
    encoder, objective = blank(run)
    restore(run, encoder, objective)
    return encoder, objective


def untrained(run: Run) -> Encoder:
    """The encoder as the run began: the baseline that pretraining has to beat."""
    torch.manual_seed(run.recipe.seed)
    return build_encoder(spec_of(run.recipe))


def _open(recipe: Recipe) -> Data:
    train = recipe.train
    samples, mixture = open_data(
        recipe.data, recipe.loader, seed=recipe.seed, batch_size=train.batch_size
    )
    wanted = train.total_steps(len(samples)) * train.batch_size
    if mixture is not None and mixture.length is not None and mixture.length < wanted:
        raise UsageError(
            f"{recipe.data}: the mixture ends after {mixture.length} samples, the recipe wants "
            f"{wanted}: set train.steps={mixture.length // train.batch_size}, or raise max_epochs"
        )
    return samples, mixture


def _trainer(recipe: Recipe, data: Data, folder: Path, world: World) -> Trainer:
    samples, order = data
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(spec_of(recipe))
    objective = build_objective(recipe.objective, encoder)
    if not any((folder / CHECKPOINTS).glob("step-*")):
        start_from(recipe.train.init, encoder, objective)
    objective.start(encoder)
    codec = build_codec(recipe.modality)
    world.on_main(lambda: _fit(encoder.preprocess, samples, codec, folder / ASSETS))
    _fit(encoder.preprocess, samples, codec, folder / ASSETS)  # the others take what it learned
    loader = Loader(
        shards=samples,
        decode=codec.decode,
        prepare=_Prepare(encoder.preprocess, objective),
        collate=encoder.preprocess.collate,
        batch_size=recipe.train.batch_size,
        recipe=recipe.loader,
        seed=recipe.seed,
        accumulate=recipe.train.accumulate,
        rank=world.rank,
        world=world.size,
        length=encoder.preprocess.length,
        given_order=order,
        quarantine=Quarantine(
            folder / QUARANTINE, most=recipe.loader.max_bad, processes=world.size
        ),
    )
    return Trainer(encoder, objective, loader, recipe.train, folder, world=world)


def _fit(preprocess: Preprocess, data: Samples, codec: Codec, folder: Path) -> None:
    """A tokenizer is part of the run: learned from the shards once, unless it was brought along."""
    if folder.exists():
        preprocess.load_assets({file.name: file.read_bytes() for file in folder.iterdir()})
    if not preprocess.ready:
        preprocess.fit(_decoded(data, codec))
    for name, content in preprocess.assets().items():
        if not (folder / name).exists():
            write_atomic(folder / name, content)


def _decoded(data: Samples, codec: Codec) -> Iterator[Sample]:
    """The first samples."""
    count = min(len(data), _FIT_SAMPLES)
    for start in range(0, count, _READ):
        for _, members in data.read_many(np.arange(start, min(start + _READ, count))):
            if isinstance(members, DataError):
                continue
            with suppress(DataError):  # a bad sample is named and counted when it is its turn
                yield codec.decode(members)


def _existing(folder: Path, recipe: Recipe) -> Run | None:
    """The run that `folder` holds, if it is this very one."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / CONFIG).exists():
        names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else {folder.name}
        if all(name in (LOCK, "run.json") or name.startswith(".tmp-") for name in names):
            return None  # killed before the run had begun
        raise UsageError(f"{folder}: exists and holds no run; choose another folder")
    run = Run(folder)
    old, new = _flat(to_table(run.recipe)), _flat(to_table(recipe))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise UsageError(
                f"{folder}: holds another run: {key} is {old.get(key)!r} there and "
                f"{new.get(key)!r} now; choose another folder, or the same options to continue"
            )
    return run


def _flat(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        name = prefix + key
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _facts() -> dict[str, object]:
    """What a number may depend on."""
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "zoo": zoo.__version__,
        "commit": git.stdout.strip() or None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "command": sys.argv,
    }
