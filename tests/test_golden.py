"""Numbers of the reference implementations, for whatever fixtures are there."""

import os

import pytest
from golden_checks import CHECKS, discover

FIXTURES = list(discover())


@pytest.mark.parametrize("fixture", FIXTURES, ids=[f"golden-{f.part}-{f.name}" for f in FIXTURES])
def test_fixture(fixture):
    if fixture.kind not in CHECKS:
        pytest.skip(f"golden kind {fixture.kind!r} of {fixture.part} is not built yet")
    CHECKS[fixture.kind](fixture)


@pytest.mark.skipif("ZOO_GOLDEN" in os.environ, reason="another set of fixtures is in use")
def test_every_checker_has_a_golden_fixture():
    assert {fixture.kind for fixture in FIXTURES} == set(CHECKS)
