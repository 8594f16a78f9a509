"""Checkers of data selection and mixing: the numbers of the upstream functions."""

import numpy as np

from zoo.data.selecting.curriculum import ability, hardest
from zoo.data.selecting.selection import TopK, loss_difference, perturbed, taylor_softmax, top
from zoo.data.selecting.skill_it import SkillIt

SKILL_IT = {  # what upstream calls it -> what we call it
    "eta": "eta",
    "mw_window": "evaluations",
    "eta_schedule": "eta_schedule",
    "normalize_loss": "normalize_loss",
    "dynamic_lambda": "dampen",
}


def same_ranking(got, want, scores):
    """Equal but for the order of ties, which the reference's sort leaves open."""
    assert len(got) == len(want) == len(set(want))
    np.testing.assert_allclose(scores[got], scores[want], rtol=0, atol=1e-6)


def qurating(part):
    inputs = {name: np.array(values) for name, values in part["inputs"].items()}
    for case in part["cases"]:
        args = case["args"]
        noise = np.random.RandomState(args["seed"]).gumbel(size=len(inputs["score"]))
        scores = perturbed(
            inputs["score"],
            temperature=args["temp"] if args["sample"] else 0.0,
            noise=noise,
            normalize=args["norm"],
        )
        scores = -scores if args.get("bottom") else scores
        groups = inputs[args["domains"]] if "domains" in args else None
        sizes = inputs["tokens"]
        got = top(scores, sizes=sizes, groups=groups, budget=args["budget"])
        same_ranking(got, case["selected_in_rank_order"], scores)
        assert sizes[got].sum() == case["tokens_selected"]


def color_filter(part):
    inputs = {name: np.array(values) for name, values in part["inputs"].items()}
    scores = loss_difference(inputs["prior_loss"], inputs["conditional_loss"])
    place = {sample: i for i, sample in enumerate(inputs["index"].tolist())}
    for case in part["cases"]:
        assert case["k"] == len(scores) // case["tau"]
        want = [place[sample] for sample in case["selected_ascending_by_score"]]
        same_ranking(top(scores, budget=case["k"])[::-1], want, scores)


def miniplm(part):
    scores = loss_difference(np.array(part["reference_nll"]), np.array(part["teacher_nll"]))
    for case in part["cases"]:
        kept = TopK().select(scores, budget=int(case["ratio"] * len(scores))).ids
        best_first = [
            np.array(sorted(ids, key=lambda i: -scores[i]), dtype=int)
            for ids in (kept.tolist(), case["kept_in_corpus_order"])
        ]
        same_ranking(*best_first, scores)


def taylor(part):
    for case in part["cases"]:
        got = taylor_softmax(np.array(part["gains"]), case["temperature"])
        np.testing.assert_allclose(got, case["probs"], rtol=0, atol=1e-9)


def rasch(cases):
    for case in cases:  # the reference stops within 1e-4, and the file holds 4 digits
        got = ability(np.array(case["difficulties"]), np.array(case["responses"]) > 0)
        np.testing.assert_allclose(got, case["theta"], atol=2e-4)
        for name, want in case.items():
            if name.startswith("threshold_p"):
                digits = name.removeprefix("threshold_p")
                success = int(digits) / 10 ** (len(digits) - 1)
                np.testing.assert_allclose(hardest(got, success), want, atol=2e-4)


def skill_it(part):
    for run in part["runs"].values():
        evaluations, want = run["eval_losses_used"], np.array(run["proportions_per_round"])
        count = len(evaluations[0][1])
        steps = evaluations[-1][0] // len(want)  # of a round; the last evaluation ends the run
        policy = make_skill_it(run["args"], count, windows=steps)
        for step, losses in evaluations:
            policy.observe(step, dict(zip(policy.metrics, losses, strict=True)))
        got = np.array([policy.weights(i * steps) for i in range(len(want))])
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)


def make_skill_it(args, count, *, windows):
    args = dict(args)
    graph = np.array(args.pop("graph", np.eye(count)), dtype=float).reshape(count, count)
    graph[(graph == 1) & ~np.eye(count, dtype=bool)] = 0.5  # upstream's edges
    mask, first = args.pop("target_mask", None), args.pop("mw_init", None)
    return SkillIt(
        graph=graph,
        metrics=tuple(f"loss{i}" for i in range(count)),
        windows=windows,
        targets=None if mask is None else tuple(np.flatnonzero(mask).tolist()),
        first=None if first is None else tuple(first),
        **{SKILL_IT[name]: value for name, value in args.items()},
    )


PARTS = {
    "qurating": qurating,
    "color_filter": color_filter,
    "ingenious_taylor_softmax": taylor,
    "irt_1pl_theta": rasch,
    "miniplm_difference_sampling": miniplm,
    "skill_it": skill_it,
}


def selection(fixture):
    there = [name for name in PARTS if name in fixture.sidecar]
    assert there
    for name in there:
        PARTS[name](fixture.sidecar[name])


CHECKS = {"selection": selection}
