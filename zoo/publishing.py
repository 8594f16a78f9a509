"""`zoo.publish`: a run or an export folder on the Hugging Face Hub, with a page about it.

Only somebody who may pass weights on publishes them: a run of one's own needs a licence, and what
started from published weights keeps theirs.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import UnknownNameError, UsageError
from zoo.files import sha256_of
from zoo.hub.export import CONFIG
from zoo.hub.model_card import About, model_card
from zoo.hub.publish import Parcel, Published, proved
from zoo.hub.publish import publish as send
from zoo.registry.build import Spec
from zoo.registry.card import Card, Weights, read_card
from zoo.registry.catalogue import card, own_card_files
from zoo.registry.recipe import Recipe
from zoo.report.chart import Curve, chart, drawing
from zoo.runs import CONFIG as RUN_CONFIG
from zoo.runs import EXPORT, Run

__all__ = ["prepare", "publish"]

RECORD, PAGE, PICTURE = "published.json", "README.md", "loss.svg"
_DEPTH = 20  # runs that started from runs


def publish(
    source: str | Path,
    repo: str,
    *,
    licence: str | None = None,
    tag: str = "v1",
    public: bool = False,
) -> Published:
    """Puts an encoder on the Hub so that `zoo.load("hf-hub:ORG/NAME")` gives it to others.

    Interrupted anywhere, the same call continues. What came of it stands in `published.json` in
    the folder.

    Args:
        source: folder of a finished run, or one that `zoo.export` wrote.
        repo: ORG/NAME; made, and private, where it does not exist.
        licence: SPDX name, such as Apache-2.0; may be left out where the run started from published
            weights, whose licence holds for it too.
        tag: the version's name.
        public: show it to everybody, in the end.

    Raises:
        UsageError: the run is not finished, the licence is missing or forbids it, the repository
            holds something else, or the Hub does not let this user in.
        WeightsError: a weight is NaN or infinite.
        IntegrityError: what came back from the Hub is not what was sent.
        ZooError: somebody else published meanwhile, or the Hub cannot be reached.
    """
    parcel = prepare(source, repo, licence=licence, tag=tag)
    return send(parcel, repo, tag=tag, public=public, record=Path(source) / RECORD)


def prepare(
    source: str | Path, repo: str, *, licence: str | None = None, tag: str = "v1"
) -> Parcel:
    """What `publish` would send; asks nobody.

    Raises:
        UsageError, WeightsError, IntegrityError: as `publish`.
    """
    found = _found(Path(source))
    origin = _origin(found)
    licence = _licence(found, origin, licence)
    proved(found.export)
    config = json.loads((found.export / CONFIG).read_text())
    spec = Spec(**{name: config[name] for name in ("name", "modality", "encoder", "preprocess")})
    rows = found.run.metrics if found.run else []
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    pages = {}
    if len(losses) > 1:
        curve = Curve("loss", [step for step, _ in losses], [loss for _, loss in losses])
        pages[PICTURE] = drawing(chart([curve], x="step", y="Loss")).encode()
    about = About(
        repo=repo,
        tag=tag,
        licence=licence,
        spec=spec,
        steps=config["notes"].get("steps"),
        card=_card(spec.name),
        recipe=found.recipe,
        origin=origin,
        metrics={"loss": losses[-1][1]} if losses else {},
        picture=PICTURE if pages else None,
    )
    return Parcel(folder=found.export, pages={PAGE: model_card(about).encode(), **pages})


@dataclass(frozen=True, slots=True)
class _Found:
    """What a folder turned out to hold."""

    folder: Path
    export: Path
    run: Run | None
    recipe: Recipe | None


def _found(folder: Path) -> _Found:
    if (folder / RUN_CONFIG).exists():
        run = Run(folder)
        if not run.finished:
            raise UsageError(
                f"{folder}: the run has not finished; the same zoo pretrain command continues it, "
                "or publish the folder that zoo export makes of a checkpoint"
            )
        return _Found(folder, folder / EXPORT, run, run.recipe)
    if not (folder / CONFIG).exists():
        raise UsageError(f"{folder}: holds neither a run nor an exported encoder")
    above = Run(folder.parent) if folder.name == EXPORT else None
    if above is not None and (above.folder / RUN_CONFIG).exists():
        return _Found(folder, folder, above, above.recipe)
    return _Found(folder, folder, None, None)


def _origin(found: _Found) -> Weights | None:
    """The published weights that training began with, however many runs ago.

    Raises:
        UsageError: that cannot be told.
    """
    for _ in range(_DEPTH):
        init = _init(found)
        if init is None:
            return None
        path = Path(init)
        if path.is_file():
            if (path.parent / CONFIG).exists():  # the file of an export
                path = path.parent
            else:
                return _published(path)
        if not path.is_dir():
            raise UsageError(
                f"{found.folder}: it started from {init}, which is gone, so nobody can tell whose "
                "weights these are; put it back"
            )
        found = _found(path)
    raise UsageError(f"{found.folder}: more than {_DEPTH} runs started from each other")


def _init(found: _Found) -> str | None:
    if found.recipe is not None:
        return found.recipe.train.init
    notes = json.loads((found.export / CONFIG).read_text()).get("notes", {})
    if "init" in notes:
        raise UsageError(
            f"{found.folder}: it started from {notes['init']}, and only the run's own folder says "
            "whose weights those are; publish that"
        )
    return None


def _published(path: Path) -> Weights:
    """The entry of the catalogue for a file of weights.

    Raises:
        UsageError: no card lists such a file.
    """
    digest = sha256_of(path)
    cached = {part.removeprefix("models--").replace("--", "/", 1) for part in path.parts}
    for file in own_card_files():
        for entry in read_card(file).weights:
            if entry.sha256 == digest or (
                entry.repo in cached and path.name == Path(entry.file).name
            ):
                return entry
    raise UsageError(
        f"{path}: no card lists this file that the run started from, so its licence is unknown; "
        "start from the Hub's cache or from an export folder"
    )


def _licence(found: _Found, origin: Weights | None, given: str | None) -> str:
    if origin is not None and not origin.may_be_shared:
        raise UsageError(
            f"{found.folder}: it started from {origin.repo}, whose authors state no licence: only "
            "they may pass these weights on; ask them"
        )
    if origin is not None and given not in (None, origin.licence):
        raise UsageError(
            f"{found.folder}: it started from {origin.repo}, which is {origin.licence}: it cannot "
            f"be {given}; leave --license out"
        )
    licence = given or (origin.licence if origin else None)
    if licence is None or licence == "NONE":
        raise UsageError(
            f"{found.folder}: under which licence may others use it? give one by its SPDX name, "
            "such as --license Apache-2.0"
        )
    return licence


def _card(name: str) -> Card | None:
    try:
        return card(name)
    except UnknownNameError:  # a model that no catalogue has
        return None
