"""The pairing table: every accepted pair trains, every other one is refused with reasons."""

import math
from pathlib import Path

import pytest
from zoo.benchmarks.pairs import ENCODERS, STEPS, pairs, refusal, table, try_pair
from zoo.registry.build import ARCHITECTURES, OBJECTIVES

PAGE = Path(__file__).parents[2] / "docs" / "pairs.md"
# What these want moves: a teacher that begins as the student, a covariance that begins at nothing.
MOVING = {"dino", "ibot", "tico", "self_distillation"}
NEEDS = {"timm": "timm", "open_clip": "open_clip", "swin3d": "monai", "unitabe": "pyarrow"}


def cells():
    for architecture, objective in pairs():
        is_slow = (architecture, objective) == ("swin3d", "voco")
        yield pytest.param(architecture, objective, marks=[pytest.mark.slow] * is_slow)


@pytest.mark.parametrize(("architecture", "objective"), list(cells()))
def test_a_pair_trains_for_twenty_steps(architecture, objective):
    pytest.importorskip(NEEDS.get(architecture, "torch"))
    trial = try_pair(architecture, objective, steps=STEPS)
    assert math.isfinite(trial.last)
    assert trial.last < trial.first or objective in MOVING
    assert trial.moved > 0.3 * trial.trained  # the other tower, or the decoder, may have no part


def test_every_architecture_has_a_small_one():
    assert ENCODERS.keys() == ARCHITECTURES.keys()
    trained = {objective for _, objective in pairs()}
    assert trained == OBJECTIVES.keys(), "an objective that nothing can be trained by"


def test_refusals_say_what_is_needed_and_what_works():
    accepted = set(pairs())
    refused = 0
    for architecture in ARCHITECTURES:
        for objective in OBJECTIVES:
            if (architecture, objective) not in accepted:
                said = refusal(architecture, objective)
                assert f"objective {objective!r} needs" in said
                assert f"{architecture!r} does not have; it works with" in said
                refused += 1
    assert refused + len(accepted) == len(ARCHITECTURES) * len(OBJECTIVES)


def test_the_page_holds_the_table():
    assert table() in PAGE.read_text(), "run `python -m zoo.benchmarks.pairs --table`"
