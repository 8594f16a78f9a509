"""What to do when a loss or a gradient is no number: skip, go back, or stop."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["NonFinite", "Verdict"]

Verdict = Literal["go", "skip", "rollback", "stop"]
_IN_A_ROW, _AT_LEAST, _SHARE = 5, 5, 0.001  # skipped updates: in a row, and of all steps
_ROLLBACKS = 2  # of a run


@dataclass
class NonFinite:
    """Counts bad updates of a run and decides about the next.

    Up to 5 in a row and 0.1 % of all steps are skipped: the update is dropped on all processes and
    the optimiser's state stays. Then the run goes back to its last checkpoint and on behind the
    batches that did the harm, twice at most (as PaLM's training did, 2204.02311). Then it stops.
    """

    policy: Literal["skip", "stop"]
    skipped: int = 0
    in_a_row: int = 0
    rollbacks: int = 0

    def judge(self, step: int, *, is_finite: bool) -> Verdict:
        """What to do with the update of a 0-based step."""
        if is_finite:
            self.in_a_row = 0
            return "go"
        if self.policy == "stop":
            return "stop"
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row <= _IN_A_ROW and self.skipped <= max(_AT_LEAST, _SHARE * step):
            return "skip"
        if self.rollbacks == _ROLLBACKS:
            return "stop"
        self.rollbacks += 1
        self.skipped, self.in_a_row = 0, 0
        return "rollback"
