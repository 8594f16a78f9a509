"""Checkers of golden fixtures by `kind`; each reads every size, option and tolerance from the sidecar."""

from golden_checks import data, vision
from golden_checks.fixture import Fixture, discover

CHECKS = {**vision.CHECKS, **data.CHECKS}

__all__ = ["CHECKS", "Fixture", "discover"]
