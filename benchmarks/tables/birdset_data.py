"""BirdSet (arXiv 2403.10380) as its authors publish it -> shards of labelled clips.

The Hub data set DBD-research-group/BirdSet, branch `data`, has a folder a task with
`HSN_metadata_train.parquet`, `HSN_train_shard_0001.tar.gz`, ... for whole recordings, and
`HSN_metadata_test_5s.parquet`, `HSN_test5s_shard_0001.tar.gz`, ... for segments of 5 s. A row and
an ogg file belong together by the last part of `filepath`. Its builder script needs an old version
of `datasets`, so the files are read as they are. What is done with them is what
DBD-research-group/BirdSet at 86a0777 and DBD-research-group/Bird-MAE at a514ef5 do.
"""

import json
import random
import shutil
import tarfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from zoo.modalities.audio.codec import AudioCodec
from zoo.modalities.audio.decode import Recording

import zoo
from zoo.data.building.sources import clean_key
from zoo.data.building.tables import open_table
from zoo.data.shard.write import MANIFEST
from zoo.errors import DataError, UsageError
from zoo.files import atomic_folder

__all__ = ["BirdSet", "Clip", "Row", "candidates", "download", "few_shot", "limited", "stretch"]

REPO, BRANCH = "DBD-research-group/BirdSet", "data"
CLASS_LIMIT, EVENT_LIMIT = 500, 5  # of the paper's training sets: events of a species, of a file
WIDTH = 6.0  # seconds around an event; training views are 5 s from anywhere in them
SHORT = 20.0  # seconds: recordings for few-shot learning are no longer
NOISE = -1  # a cluster of events without a bird

Event = tuple[float, float]  # seconds


@dataclass(frozen=True, slots=True)
class Row:
    """What the metadata say of a recording."""

    file: str
    code: str  # the species in the foreground
    labels: tuple[str, ...]
    background: bool  # there are other species
    events: tuple[Event, ...]  # candidates for clips, at least one


@dataclass(frozen=True, slots=True)
class Clip:
    """An event of a recording."""

    row: Row
    event: Event


def download(task: str) -> Path:
    """The folder of the data set with one task's files, from the Hub or its cache.

    Raises:
        UsageError: a package is missing.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UsageError("downloading needs huggingface_hub: pip install 'zoo[hub]'") from None
    names = (
        "metadata_train.parquet",
        "train_shard_*",
        "metadata_test_5s.parquet",
        "test5s_shard_*",
    )
    patterns = [f"{task}/{task}_{name}" for name in names]
    return Path(
        snapshot_download(REPO, repo_type="dataset", revision=BRANCH, allow_patterns=patterns)
    )


class BirdSet:
    """One task: its tables, and the shards that are made of it."""

    def __init__(self, source: Path, task: str, work: Path) -> None:
        """Reads the metadata.

        Args:
            source: holds a folder of the task's name with the files as they are published.
            task: HSN, POW, PER, NES, UHH, NBP, SSW or SNE.
            work: recordings are unpacked and shards are written here, once.

        Raises:
            UsageError: there are no such files.
            DataError: they cannot be read.
        """
        self.source, self.work, self.prefix = source / task, work / task, f"{task}_"
        if not self.source.is_dir():
            raise UsageError(f"{self.source}: no such folder; it holds a task's published files")
        columns = ("ebird_code", "ebird_code_secondary", "detected_events", "event_cluster")
        self.rows = [_row(raw) for raw in self._table("train", *columns)]
        self.segments = {_name(raw): _codes(raw) for raw in self._table("test_5s")}
        # The order of upstream's own list plays no role: metrics are means over classes.
        found = {code for labels in self.segments.values() for code in labels}
        self.classes = sorted(found.union(*(row.labels for row in self.rows)))

    def train(self) -> Path:
        """Shards of the paper's training set: few events of a recording, some of a species."""

        def clips() -> list[Clip]:
            return limited(self.rows, class_limit=CLASS_LIMIT, event_limit=EVENT_LIMIT, seed=0)

        return self._written("train", clips)

    def shots(self, count: int, *, seed: int) -> Path:
        """Shards of a few events of each species; another seed takes other ones."""

        def clips() -> list[Clip]:
            files = self._recordings("train")
            single = [row for row in self.rows if not row.background]
            short = [row for row in single if _seconds(files[row.file]) <= SHORT]
            return few_shot(short, count, seed=seed)

        return self._written(f"shots-{count}-{seed}", clips)

    def test(self) -> Path:
        """Shards of the segments, as published; those without any species stay in."""
        folder, files = self.work / "test", self._recordings("test5s")
        if missing := sorted(set(self.segments) ^ set(files)):
            raise DataError(
                f"{self.source}: {len(missing)} segments lack a row or a file: {missing[0]}"
            )
        if not (folder / MANIFEST).exists():
            samples = (
                (
                    _key(name),
                    {"ogg": files[name].read_bytes(), "json": self._json(labels)},
                )
                for name, labels in sorted(self.segments.items())
            )
            zoo.write_shards(samples, folder)
        return folder

    def _written(self, name: str, clips: Callable[[], list[Clip]]) -> Path:
        folder = self.work / name
        if not (folder / MANIFEST).exists():
            zoo.write_shards(self._cut(clips()), folder)
        return folder

    def _cut(self, clips: Sequence[Clip]) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Each clip as a recording of its own; 16 bits are more than ogg keeps."""
        files, codec = self._recordings("train"), AudioCodec()
        for number, clip in enumerate(clips):
            with Recording(files[clip.row.file]) as recording:
                start, end = stretch(clip.event, recording.seconds)
                rate = recording.rate
                samples = recording.read(round(start * rate), round((end - start) * rate))
            rounded = (samples * 32_767).round().clip(-32_768, 32_767).astype(np.int16)
            labels = [self.classes.index(code) for code in clip.row.labels]
            facts = {"labels": labels, "file": clip.row.file, "start": start}
            key = f"{number:06d}-{_key(clip.row.file)}"
            yield key, codec.encode({"audio": rounded, "rate": rate, "facts": facts})

    def _json(self, labels: Iterable[str]) -> bytes:
        return json.dumps({"labels": [self.classes.index(code) for code in labels]}).encode()

    def _table(self, split: str, *columns: str) -> Iterator[Mapping[str, object]]:
        path = self.source / f"{self.prefix}metadata_{split}.parquet"
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        for _, row in open_table(path).scan(("filepath", "ebird_code_multilabel", *columns)):
            if isinstance(row, DataError):
                raise row
            yield row

    def _recordings(self, split: str) -> dict[str, Path]:
        """Files of all archives by name, unpacked once."""
        folder = self.work / f"recordings-{split}"
        if not folder.exists():
            archives = sorted(self.source.glob(f"{self.prefix}{split}_shard_*.tar.gz"))
            if not archives:
                raise UsageError(f"{self.source}: no {self.prefix}{split}_shard_0001.tar.gz there")
            with atomic_folder(folder) as draft:
                for archive in archives:
                    _unpack(archive, draft)
        return {path.name: path for path in folder.iterdir()}


def limited(rows: Iterable[Row], *, class_limit: int, event_limit: int, seed: int) -> list[Clip]:
    """Some events of each recording, so that neither long recordings nor common species dominate.

    For each species the largest numbers of events a recording are lowered to the next lower number,
    until the largest is `event_limit` or 1, or the next step would leave fewer than `class_limit`
    events. Both are soft: a species may keep more, and a recording fewer. Upstream never ends where
    all recordings of a species have the same number, and it draws without a seed.
    """
    rng, species = random.Random(seed), defaultdict[str, list[Row]](list)
    for row in rows:
        species[row.code].append(row)
    clips = []
    for code in sorted(species):
        counts = [len(row.events) for row in species[code]]
        _lower(counts, class_limit, event_limit)
        for row, count in zip(species[code], counts, strict=True):
            clips += [Clip(row, event) for event in sorted(rng.sample(row.events, count))]
    return clips


def _lower(counts: list[int], class_limit: int, event_limit: int) -> None:
    """In place; the numbers of events that recordings of a species keep."""
    while (top := max(counts)) not in (event_limit, 1):
        lower = max((count for count in counts if count < top), default=top)
        loss = (top - lower) * counts.count(top)
        if not loss or sum(counts) - loss < class_limit:
            return
        counts[:] = [min(count, lower) for count in counts]


def few_shot(rows: Iterable[Row], count: int, *, seed: int) -> list[Clip]:
    """`count` events of each species, of as many recordings as there are; fewer where it has fewer.

    Upstream's "lenient" subsets, whose rows are short recordings without a second species.
    """
    rng = random.Random(seed)
    first, rest = defaultdict[str, list[Clip]](list), defaultdict[str, list[Clip]](list)
    for row in rows:
        events = [e for e in row.events if not any(o[0] < e[0] and e[1] < o[1] for o in row.events)]
        rng.shuffle(events)
        first[row.code].append(Clip(row, events[0]))
        rest[row.code] += [Clip(row, event) for event in events[1:]]
    clips = []
    for code in sorted(first):
        for group in (first[code], rest[code]):
            rng.shuffle(group)
        clips += (first[code] + rest[code])[:count]
    return clips


def candidates(events: Sequence[Event], clusters: Sequence[int]) -> tuple[Event, ...]:
    """Events of the most frequent sound; the first 5 s where nothing was detected.

    Noise is left out, unless it is all there is and there is one event of it.
    """
    found = list(zip(events, clusters, strict=True))
    if len(found) > 1:
        found = [(event, cluster) for event, cluster in found if cluster != NOISE]
    if not found:
        return ((0.0, 5.0),)
    counts = Counter(cluster for _, cluster in found)
    most = min(counts, key=lambda cluster: (-counts[cluster], cluster))
    return tuple(event for event, cluster in found if cluster == most)


def stretch(event: Event, seconds: float) -> Event:
    """What is cut out of a recording of so many seconds for an event: 6 s around it, or all of it.

    It is shifted where the recording begins or ends.
    """
    start, end = event
    if end - start >= WIDTH:
        return start, min(end, seconds)
    begin = max(0.0, min((start + end - WIDTH) / 2, seconds - WIDTH))
    return begin, min(begin + WIDTH, seconds)


def _row(raw: Mapping[str, object]) -> Row:
    events = [(float(start), float(end)) for start, end in _list(raw["detected_events"])]
    clusters = [int(cluster) for cluster in _list(raw["event_cluster"])]
    code = str(raw["ebird_code"])
    return Row(
        file=_name(raw),
        code=code,
        labels=_codes(raw) or (code,),
        background=bool(_list(raw["ebird_code_secondary"])),
        events=candidates(events, clusters),
    )


def _name(raw: Mapping[str, object]) -> str:
    return PurePosixPath(str(raw["filepath"])).name


def _key(file: str) -> str:
    return clean_key(PurePosixPath(file).stem)


def _codes(raw: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(map(str, _list(raw["ebird_code_multilabel"])))


def _list(value: object) -> list[Any]:
    """A cell that holds a list, or nothing."""
    return value if isinstance(value, list) else []


def _seconds(path: Path) -> float:
    with Recording(path) as recording:
        return recording.seconds


def _unpack(archive: Path, folder: Path) -> None:
    """The ogg files of an archive, whatever folders it puts them in."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                stream = tar.extractfile(member)
                if stream is not None and name.endswith(".ogg"):
                    with stream, (folder / name).open("wb") as file:
                        shutil.copyfileobj(stream, file)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: damaged, download it again ({error})") from None
