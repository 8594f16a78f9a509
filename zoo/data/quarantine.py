"""Bad samples: named in quarantine.jsonl, counted, and an error when there are too many."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from zoo.data.shard.index import Event
from zoo.errors import DataError
from zoo.files import storage_errors, write_atomic

__all__ = ["Bad", "Found", "Quarantine"]

_FEW = 16  # bad samples that never stop a run
_LINES = 10_000  # of the file; beyond them samples are only counted


class Bad(NamedTuple):
    """A sample that was not used."""

    shard: str
    number: int  # in its shard
    id: int  # in the data set
    key: str
    code: str
    detail: str
    epoch: int
    position: int
    substituted_by: int  # id of the sample that took its place


class Found(NamedTuple):
    """What one process knows to be bad."""

    ids: frozenset[int]
    counts: Mapping[str, int]


class Quarantine:
    """What was bad so far; the processes of a run share the file, and each counts its own.

    Attributes:
        ids: of bad samples; they are not tried again.
        before: how many all processes had found when the run was resumed, by code.
        counts: how many this one has found since, by code.
    """

    def __init__(self, path: Path | None, *, most: float, processes: int = 1) -> None:
        """Keeps a list in a file, or only in memory.

        Args:
            path: quarantine.jsonl of a run.
            most: share of the samples read that may be bad.
            processes: that share the reading.
        """
        self.path, self.most, self.processes = path, most, processes
        self.ids: set[int] = set()
        self.before: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    @property
    def found(self) -> Found:
        """For the other processes."""
        return Found(frozenset(self.ids), dict(self.counts))

    def together(self, found: Iterable[Found]) -> dict[str, object]:
        """What `restore` takes, from what every process found, as JSON."""
        ids, counts = self.ids.copy(), self.before.copy()
        for one in found:
            ids |= one.ids
            counts.update(one.counts)
        return {"bad_ids": sorted(ids), "bad_counts": dict(counts)}

    def restore(self, ids: Iterable[int], counts: Mapping[str, int]) -> None:
        """Goes back to what was known at some position."""
        self.ids, self.before, self.counts = set(ids), Counter(counts), Counter()

    def trim(self, position: int) -> None:
        """Forgets the lines from a position on: they will be found again. One process does this."""
        if self.path is None or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # the process was killed while it wrote the last line
                continue
            if row.get("position") is None or row["position"] < position:
                kept.append(line + "\n")
        write_atomic(self.path, "".join(kept))

    def note(self, events: Mapping[str, tuple[Event, ...]]) -> None:
        """Lists damage of whole shards, once a run."""
        if self.path is None or self.path.exists():
            return
        rows = [
            {"shard": shard, "key": event.sample, "code": event.code, "count": event.count}
            | {"detail": event.detail, "position": None}
            for shard, several in events.items()
            for event in several
        ]
        if rows:
            write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def add(self, found: Iterable[Bad], read: int) -> None:
        """Takes note of bad samples.

        Args:
            found: those of a batch.
            read: samples that this process has read so far.

        Raises:
            DataError: they are more than 16 and more than the share `most` of what was read.
        """
        new = {bad.id: bad for bad in found if bad.id not in self.ids}
        if not new:
            return
        if self.path is not None and len(self.ids) < _LINES:
            lines = "".join(json.dumps(bad._asdict()) + "\n" for bad in new.values())
            with storage_errors(self.path), self.path.open("ab", buffering=0) as file:
                file.write(lines.encode())  # at once: other processes write lines too
        self.ids.update(new)
        self.counts.update(bad.code for bad in new.values())
        known = self.before + self.counts
        count = self.counts.total() + self.before.total() // self.processes
        if count > max(_FEW, self.most * read):
            last = list(new.values())[-1]
            said = ", ".join(f"{code} {number}" for code, number in known.most_common())
            where = f"; all are listed in {self.path}" if self.path else ""
            tried = max(read, count)  # substitutes were read besides
            raise DataError(
                f"{count} of {tried} samples read are bad ({said}), more than "
                f"{self.most:.1%}; the last is {last.shard}, sample {last.key!r}: {last.detail}"
                f"{where}; repair the data (zoo shards verify), or allow more with loader.max_bad",
                code=last.code,
            )
