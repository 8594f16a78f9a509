"""A run's encoder and objective as they were at a checkpoint, and the folder to share of any step.

Only reads: the run may be in progress, finished, or somebody else's.
"""

from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.errors import UsageError
from zoo.hub.export import save_export
from zoo.hub.timm import save_timm
from zoo.modalities.contracts import Encoder
from zoo.objectives.contract import Objective
from zoo.registry.build import build_encoder, build_objective
from zoo.registry.recipe import Recipe
from zoo.runs import ASSETS, CHECKPOINTS, CONFIG, Run, spec_of
from zoo.training.optim import build_optimizers
from zoo.training.optim_state import restore_optimizers
from zoo.training.schedule_free import evaluated
from zoo.training.state import whole
from zoo.training.stored import read_only
from zoo.training.wrap import Step

__all__ = ["blank", "export", "restore", "save_result"]


def blank(run: Run) -> tuple[Encoder, Objective]:
    """What a run trains, with random weights and the run's own tokenizer."""
    encoder = build_encoder(spec_of(run.recipe))
    if (assets := run.folder / ASSETS).exists():
        encoder.preprocess.load_assets({f.name: f.read_bytes() for f in assets.iterdir()})
    return encoder, build_objective(run.recipe.objective, encoder)


def restore(run: Run, encoder: Encoder, objective: Objective, step: int | None = None) -> int:
    """Gives what `blank` made the weights of a checkpoint, and puts it into eval mode.

    Args:
        run: which may be in progress.
        encoder: gets the weights that were trained, not their average.
        objective: its heads too.
        step: of the checkpoint; the newest by default.

    Returns:
        The step.

    Raises:
        UsageError: there is no such checkpoint, or it is of another model.
        IntegrityError: it is damaged.
    """
    checkpoint = read_only(run.folder / CHECKPOINTS, step)
    _fill(Step(encoder, objective), whole(checkpoint, "model")["model"], run)
    encoder.eval()
    objective.eval()
    return checkpoint.step


def export(
    run: Run | str | Path,
    out: str | Path,
    step: int | None = None,
    *,
    format: Literal["zoo", "timm"] = "zoo",
) -> Path:
    """Writes the encoder of a checkpoint as a folder to share; `zoo.load(out)` gives it back.

    It is what the run itself exports when it ends at that step: the average where one is kept.

    Args:
        run: or its folder; it may be in progress.
        out: must not exist.
        step: of the checkpoint; the newest by default.
        format: for `zoo.load`, or a plain ViT for `timm.create_model("local-dir:OUT")`.

    Returns:
        `out`.

    Raises:
        UsageError: there is no such run or checkpoint, or `out` exists.
        IntegrityError: the checkpoint is damaged.
        StorageError: the folder cannot be written.
    """
    run, out = run if isinstance(run, Run) else Run(Path(run)), Path(out)
    if not (run.folder / CONFIG).exists():
        raise UsageError(
            f"{run.folder}: holds no run; give the folder that zoo pretrain --out named"
        )
    recipe, optimizers = run.recipe, list[Optimizer]()
    checkpoint = read_only(run.folder / CHECKPOINTS, step)
    encoder, objective = blank(run)
    if recipe.train.ema is not None:
        average = whole(checkpoint, "ema")["ema"].items()
        prefix = "module."
        weights = {n.removeprefix(prefix): t for n, t in average if n.startswith(prefix)}
        _fill(encoder, weights, run)
    else:
        pair, groups = Step(encoder, objective), whole(checkpoint, "model", "optim")
        _fill(pair, groups["model"], run)
        optimizers = build_optimizers(pair.named_parameters(), recipe.train)
        restore_optimizers(optimizers, pair.named_parameters(), groups["optim"])
    with evaluated(optimizers):
        if format == "timm":
            save_timm(out, encoder)
            return out
        save_result(out, encoder, recipe, checkpoint.step)
    return out


def save_result(folder: Path, encoder: Encoder, recipe: Recipe, steps: int) -> None:
    """The folder to share of an encoder that was trained for so many steps.

    Raises:
        UsageError: the folder exists.
        StorageError: it cannot be written.
    """
    notes = {"objective": recipe.objective, "seed": recipe.seed, "steps": steps}
    if recipe.train.init is not None:
        notes["init"] = Path(recipe.train.init).name  # its place is nobody's business
    save_export(folder, encoder, spec_of(recipe), notes=notes)


def _fill(module: nn.Module, weights: dict[str, Tensor], run: Run) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError:
        raise UsageError(
            f"{run.folder}: its checkpoint is not of the model that {CONFIG} describes"
        ) from None
