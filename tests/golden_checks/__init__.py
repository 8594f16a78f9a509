"""Checkers of golden fixtures by `kind`; all sizes and tolerances come from the sidecar."""

from golden_checks import data, selection, training, vision
from golden_checks.fixture import Fixture, discover

CHECKS = {**vision.CHECKS, **data.CHECKS, **selection.CHECKS, **training.CHECKS}

__all__ = ["CHECKS", "Fixture", "discover"]
