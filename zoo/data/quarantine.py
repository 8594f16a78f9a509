"""Bad samples: named in quarantine.jsonl, counted, and an error when there are too many."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from zoo.data.shard.index import Event
from zoo.errors import DataError
from zoo.files import storage_errors, write_atomic

__all__ = ["Bad", "Quarantine"]

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


class Quarantine:
    """What was bad so far.

    Attributes:
        ids: of bad samples; they are not tried again.
        counts: how many, by code.
    """

    def __init__(self, path: Path | None, *, most: float) -> None:
        """Keeps a list in a file, or only in memory.

        Args:
            path: quarantine.jsonl of a run.
            most: share of the samples read that may be bad.
        """
        self.path, self.most = path, most
        self.ids: set[int] = set()
        self.counts: Counter[str] = Counter()

    def restore(self, ids: Iterable[int], counts: Mapping[str, int], position: int) -> None:
        """Goes back to a position: what was found behind it will be found again."""
        self.ids, self.counts = set(ids), Counter(counts)
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
            read: samples that the run has read so far.

        Raises:
            DataError: they are more than 16 and more than the share `most` of what was read.
        """
        new = {bad.id: bad for bad in found if bad.id not in self.ids}
        if not new:
            return
        if self.path is not None and len(self.ids) < _LINES:
            with storage_errors(self.path), self.path.open("a") as file:
                file.writelines(json.dumps(bad._asdict()) + "\n" for bad in new.values())
        self.ids.update(new)
        self.counts.update(bad.code for bad in new.values())
        if len(self.ids) > max(_FEW, self.most * read):
            last = list(new.values())[-1]
            said = ", ".join(f"{code} {count}" for code, count in self.counts.most_common())
            where = f"; all are listed in {self.path}" if self.path else ""
            raise DataError(
                f"{len(self.ids)} of {read} samples read are bad ({said}), more than "
                f"{self.most:.1%}; the last is {last.shard}, sample {last.key!r}: {last.detail}"
                f"{where}; repair the data (zoo shards verify), or allow more with loader.max_bad",
                code=last.code,
            )
