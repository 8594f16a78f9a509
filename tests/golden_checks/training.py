"""Checkers of the part `training`."""

import math
import re
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.optim import Muon as TimmMuon
from torch import nn
from torch.optim import Muon
from zoo.registry.recipe import TrainRecipe

from zoo.training.average import average, exponential_weights
from zoo.training.groups import layer_scales, parameter_groups
from zoo.training.projected import ProjectedAdamW, Projection
from zoo.training.schedule import Phase, Schedule, build_schedule

EXACT = 1e-12  # formulas in double precision: the sidecars name no tolerance


def schedules(fixture):
    for case in fixture.sidecar["cases"]:
        schedule = SCHEDULES[case["kind"]](case["steps"], **case["args"])
        got = [schedule(step) for step in range(len(case["values"]))]
        np.testing.assert_allclose(got, case["values"], rtol=EXACT, atol=EXACT, err_msg=str(case))


def recipe_schedule(steps, **options):
    return build_schedule(TrainRecipe(batch_size=1, steps=steps, lr=1.0, **options), samples=1)


def torchtitan_wsd(steps, warmup_steps, decay_ratio, decay_type, min_lr_factor):
    most = steps - warmup_steps
    return recipe_schedule(
        steps,
        schedule="wsd",
        warmup=warmup_steps,
        anneal=most if decay_ratio is None else min(most, round(steps * decay_ratio)),
        anneal_shape={"sqrt": "1-sqrt"}.get(decay_type, decay_type),
        min_lr=min_lr_factor,
        first_update=1,
    )


def timm_wsd(steps, t_initial, decay_t, warmup_t, lr_min, decay_fn):
    return recipe_schedule(
        warmup_t + t_initial,
        schedule="wsd",
        warmup=warmup_t,
        anneal=decay_t,
        anneal_shape=decay_fn,
        min_lr=lr_min,
    )


def timm_cosine(steps, t_initial, warmup_t, lr_min, warmup_prefix):
    assert warmup_prefix
    return recipe_schedule(warmup_t + t_initial, warmup=warmup_t, min_lr=lr_min)


def infinite(steps, N_w, N_cd, N_const, N_ann, eta_max, eta_const, eta_min):  # noqa: N803
    schedule = recipe_schedule(
        N_ann,
        schedule="infinite",
        warmup=N_w,
        cooldown=N_cd - N_w,
        constant_lr=eta_const / eta_max,
        anneal=N_ann - N_const,
        anneal_shape="exponential",
        min_lr=eta_min / eta_max,
    )
    return lambda step: eta_max * schedule(step)


def rewarm(steps, cycles, eta_max, eta_min):
    phases, begin = [], 0
    for length, warmup in cycles:
        phases += [Phase(begin, 0.0, "constant"), Phase(begin + warmup, eta_max)]
        begin += length
        phases.append(Phase(begin, eta_min, "cosine"))
    if len({tuple(cycle) for cycle in cycles}) == 1:  # what a recipe can say
        (length, warmup), count = cycles[0], len(cycles)
        restarts = tuple(length * i for i in range(1, count))
        low = eta_min / eta_max
        ours = recipe_schedule(steps, warmup=warmup, min_lr=low, restarts=restarts)
        for step in range(steps):
            assert math.isclose(eta_max * ours(step), Schedule(tuple(phases))(step))
    return Schedule(tuple(phases))


SCHEDULES = {
    "torchtitan_wsd": torchtitan_wsd,
    "timm_wsd": timm_wsd,
    "timm_cosine": timm_cosine,
    "infinite_cosine": infinite,
    "repeated_cosine_rewarm": rewarm,
}


def layer_decay(fixture):
    want = fixture.sidecar
    model = timm.create_model(want["model"], **want["kwargs"])
    named = list(model.named_parameters())
    names = {id(p): name for name, p in named}
    scales = layer_scales(names.values(), want["layer_decay"])
    got = {
        names[id(p)]: {"lr_scale": group["lr_scale"], "weight_decay": group["weight_decay"]}
        for group in parameter_groups(named, want["weight_decay"], scales)
        for p in group["params"]
    }
    assert got.keys() == want["params"].keys()
    for name, facts in want["params"].items():
        assert got[name]["weight_decay"] == facts["weight_decay"], name
        assert math.isclose(got[name]["lr_scale"], facts["lr_scale"], rel_tol=1e-9), name


def arrays(fixture):
    with np.load(fixture.path.parent / fixture.sidecar["file"]) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def replay(start, gradients, build):
    """The weight after each update."""
    parameter = nn.Parameter(start.clone())
    optimizer = build(parameter)
    weights = []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        weights.append(parameter.detach().clone())
    return torch.stack(weights)


TORCH_MUON = {
    "original": {},
    "match": {"adjust_lr_fn": "match_rms_adamw"},
    "nonesterov": {"nesterov": False},
}
TIMM_MUON = {
    "default": {},
    "nesterov_quintic_original": {
        "nesterov": True,
        "ns_coefficients": "quintic",
        "adjust_lr_fn": "original",
    },
    "adamuon": {"algo": "adamuon"},
}


def muon(fixture):
    data, config = arrays(fixture), fixture.config
    factor = float(re.search(r"atol ([\d.]+)\*lr\*scale", str(fixture.sidecar["tolerance"]))[1])
    checked = 0
    for name, want in data.items():
        library, _, rest = name.partition("_")
        if library not in ("torch", "timm"):
            continue
        i, _, variant = rest.partition("_")
        cls, variants = (Muon, TORCH_MUON) if library == "torch" else (TimmMuon, TIMM_MUON)
        options = config | variants[variant]
        got = replay(data[f"W0_{i}"], data[f"G_{i}"], lambda p: cls([p], **options))  # noqa: B023
        rows, columns = want.shape[-2:]
        original = (library == "torch" and variant != "match") or variant.endswith("original")
        scale = max(1, rows / columns) ** 0.5 if original else 0.2 * max(rows, columns) ** 0.5
        # Newton-Schulz runs in bfloat16, and every update adds its own error.
        for updates, (ours, theirs) in enumerate(zip(got, want, strict=True), start=1):
            atol = factor * config["lr"] * scale * updates
            torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
        checked += 1
    assert checked


def projected(fixture):
    """galore_adamw and conda; `W_<i>_<side>_<gapN or norefresh>`."""
    data, config = arrays(fixture), fixture.config
    assert config["correct_bias"]
    tolerance = re.search(r"rtol ([\d.e-]+) atol ([\d.e-]+)", fixture.sidecar["tolerance"]["fp32"])
    rtol, atol = map(float, tolerance.groups())
    space = "gradient" if fixture.kind == "galore_adamw" else "momentum"
    checked = 0
    for name, want in data.items():
        if not (found := re.fullmatch(r"W_(\d+)_(\w+)_(?:gap(\d+)|norefresh)", name)):
            continue
        i, side, gap = found.groups()
        options = {name: config[name] for name in ("rank", "scale") if name in config}
        gap = int(gap or len(want) + 1)
        projection = Projection(space=space, side=side, gap=gap, **options)
        rest = {name: config[name] for name in ("betas", "eps", "weight_decay")}
        got = replay(
            data[f"W0_{i}"],
            data[f"G_{i}"],
            lambda p: ProjectedAdamW([p], config["lr"], projection, **rest),  # noqa: B023
        )
        torch.testing.assert_close(got, want, rtol=rtol, atol=atol)
        checked += 1
    assert checked


def misc(fixture):
    """Averages of checkpoints; the other parts of this fixture are not built yet."""
    want = fixture.sidecar["checkpoint_average"]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.safetensors" for i in range(len(want["thetas"]))]
        for path, theta in zip(paths, want["thetas"], strict=True):
            save_file({"theta": torch.tensor(theta)}, path)
        weights = {
            "mean": None,
            "ema": exponential_weights(len(paths), 0.2),
            "ema_alt": exponential_weights(len(paths), 0.8),
        }
        for name, shares in weights.items():
            got = average(paths, shares)["theta"]
            torch.testing.assert_close(got, torch.tensor(want[name]), rtol=1e-5, atol=1e-6)


CHECKS = {
    "schedules": schedules,
    "layer_decay": layer_decay,
    "muon": muon,
    "galore_adamw": projected,
    "conda": projected,
    "misc": misc,
}
