"""Shapes of schedules, and what recipes refuse; numbers of other libraries are golden fixtures."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.registry.recipe import TrainRecipe

from zoo.training.schedule import Phase, Schedule, build_schedule


def recipe(**options):
    return TrainRecipe(**{"batch_size": 4, "steps": 100, "lr": 2.0, "min_lr": 0.5} | options)


def rates(samples=1, **options):
    one = recipe(**options)
    return [build_schedule(one, samples)(step) for step in range(one.total_steps(samples))]


def test_shape_of_the_cosine():
    rate = build_schedule(recipe(warmup=10), samples=1)
    assert rate(0) == 0
    assert rate(5) == 1.0
    assert rate(10) == 2.0
    assert rate(55) == pytest.approx(1.25)
    assert rate(100) == rate(1000) == 0.5
    assert rates()[0] == 2.0


def test_epochs_become_steps():
    """Three epochs of 10 samples in batches of 4: the warm-up of one ends after 2.5 steps."""
    got = rates(samples=10, steps=None, epochs=3.0, warmup=1.0)
    assert len(got) == 8
    assert got == rates(steps=8, warmup=2.5)
    assert got[:3] == pytest.approx([0.0, 0.8, 1.6])


@pytest.mark.parametrize(
    ("options", "points"),
    [
        ({"schedule": "constant", "warmup": 4}, {2: 1.0, 4: 2.0, 99: 2.0}),
        ({"schedule": "linear", "warmup": 20}, {20: 2.0, 60: 1.25}),
        ({"schedule": "wsd", "warmup": 4, "anneal": 16}, {4: 2.0, 84: 2.0, 88: 1.25}),
        (
            {"schedule": "wsd", "anneal": 50, "anneal_shape": "exponential"},
            {50: 2.0, 75: 1.0},
        ),
        ({"schedule": "rsqrt", "warmup": 16}, {8: 1.0, 16: 2.0, 64: 1.0}),
        ({"schedule": "rsqrt", "warmup": 16, "anneal": 36, "anneal_shape": "linear"}, {64: 1.0}),
        (
            {"schedule": "infinite", "warmup": 4, "cooldown": 20, "constant_lr": 1.0},
            {4: 2.0, 14: 1.5, 24: 1.0, 99: 1.0},
        ),
        ({"warmup": 10, "restarts": (40.0,)}, {25: 1.25, 40: 0.0, 45: 1.0, 50: 2.0, 75: 1.25}),
    ],
)
def test_points_of_each_schedule(options, points):
    got = rates(**options)
    assert {step: got[step] for step in points} == pytest.approx(points)


def test_a_run_of_more_steps_repeats_what_was():
    """Infinite rates do not know the end, and restarts leave the past as it was."""
    infinite = {"schedule": "infinite", "warmup": 4, "cooldown": 20, "constant_lr": 1.0}
    assert rates(**infinite, steps=200)[:100] == rates(**infinite)
    assert rates(warmup=5, steps=200, restarts=(100.0,))[:100] == rates(warmup=5)


@settings(deadline=None, max_examples=50, database=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 50.0),
            st.floats(0.1, 10.0),
            st.sampled_from(["linear", "cosine", "1-sqrt", "rsqrt", "exponential", "exp"]),
        ),
        min_size=1,
        max_size=5,
    ),
    st.floats(0.0, 300.0),
)
def test_rates_stay_between_the_ends_of_their_phase(parts, time):
    phases, until = [Phase(1.0, 1.0)], 1.0
    for length, value, shape in parts:
        until += length
        phases.append(Phase(until, value, shape))
    schedule = Schedule(tuple(phases))
    before = [0.0, *(phase.value for phase in phases)]
    ends = next(
        (
            {start, phase.value}
            for start, phase in zip(before, phases, strict=False)
            if time < phase.until
        ),
        {phases[-1].value},
    )
    assert min(ends) - 1e-9 <= schedule(time) <= max(ends) + 1e-9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anneal": 5}, "'cosine' has no anneal; wsd, rsqrt and infinite"),
        ({"schedule": "wsd"}, "'wsd' needs anneal"),
        ({"schedule": "wsd", "warmup": 60, "anneal": 50}, "must fit into 100"),
        (
            {"schedule": "wsd", "anneal": 5, "anneal_shape": "exponential", "min_lr": 0.0},
            "give a min_lr above",
        ),
        ({"schedule": "infinite", "warmup": 5}, "needs constant_lr and cooldown"),
        ({"constant_lr": 0.1}, "'infinite', and no other"),
        ({"schedule": "rsqrt"}, "needs a warmup"),
        ({"restarts": (50.0, 20.0)}, "restarts ascend below 100"),
        ({"restarts": (100.0,)}, "restarts ascend below 100"),
        ({"restarts": (50.0,), "first_update": 1}, "restarts need first_update=0"),
        ({"betas": (0.9, 1.0)}, "betas must lie"),
        ({"layer_decay": 0.0}, "layer_decay must lie"),
        ({"ema": 1.0}, "ema must lie"),
        ({"ema_warmup": True}, "ema_warmup needs ema"),
        ({"projection_gap": -1}, "must be at least 1"),
    ],
)
def test_what_does_not_fit_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        recipe(**options)
