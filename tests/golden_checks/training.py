"""Checkers of the part `training`."""

import math
import re
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.optim import Muon as TimmMuon
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import Muon
from training.ranks import Ranks
from zoo.registry.recipe import TrainRecipe

from zoo.training.average import average, exponential_weights
from zoo.training.compress import TopK
from zoo.training.diloco import Outer, OuterStep, clipped_to_median
from zoo.training.groups import layer_scales, parameter_groups
from zoo.training.low_rank import SparseLowRankLinear
from zoo.training.optim import build_optimizers
from zoo.training.private import clipped_mean, sample_gradients
from zoo.training.projected import ProjectedAdamW, Projection
from zoo.training.schedule import Phase, Schedule, build_schedule
from zoo.training.schedule_free import evaluated
from zoo.training.world import joined

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


def tolerance(fixture):
    """Of sidecars that state it as "rtol 1e-5 atol 1e-6"."""
    found = re.search(r"rtol ([\d.e-]+) atol ([\d.e-]+)", fixture.sidecar["tolerance"]["fp32"])
    return dict(zip(("rtol", "atol"), map(float, found.groups()), strict=True))


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
        torch.testing.assert_close(got, want, **tolerance(fixture))
        checked += 1
    assert checked


def schedulefree(fixture):
    data, config = arrays(fixture), fixture.config
    recipe = TrainRecipe(
        batch_size=1,
        steps=len(data["G"]),
        optimizer="schedulefree",
        schedule="constant",
        warmup=config["warmup_steps"],
        first_update=1,
        **{name: config[name] for name in ("lr", "betas", "weight_decay")},
    )
    weight = nn.Parameter(data["W0"].clone())
    (optimizer,) = build_optimizers([("weight", weight)], recipe)
    (group,) = optimizer.param_groups
    assert [group[name] for name in ("r", "weight_lr_power")] == [
        config[name] for name in ("r", "weight_lr_power")
    ]
    schedule = build_schedule(recipe, samples=1)
    for step, gradient in enumerate(data["G"]):
        group["lr"], weight.grad = schedule(step), gradient.clone()
        optimizer.step()
        want = data["train_weights"][step]
        torch.testing.assert_close(weight.detach(), want, **tolerance(fixture))
        with evaluated([optimizer]):
            want = data["eval_weights"][step]
            torch.testing.assert_close(weight.detach(), want, **tolerance(fixture))


def sltrain(fixture):
    data, config = arrays(fixture), fixture.config
    close = partial(torch.testing.assert_close, **tolerance(fixture))
    for i, case in enumerate(config["cases"]):
        layer = SparseLowRankLinear(
            case["inp"], case["out"], rank=case["r"], alpha=config["lora_alpha"], density=case["sp"]
        )
        names = {"lora_A": "A", "lora_B": "B", "sparse_value": "val", "bias": "bias"}
        state = {name: data[f"{short}_{i}"] for name, short in names.items()}
        layer.load_state_dict({**state, "sparse_index": data[f"idx_{i}"]})
        x = data[f"x_{i}"].requires_grad_()
        y = layer(x)
        close(y, data[f"y_{i}"])
        close(layer.merged()(x), data[f"y_{i}"])
        y.backward(data[f"gy_{i}"])
        close(x.grad, data[f"gx_{i}"])
        for name, short in names.items():
            close(layer.get_parameter(name).grad, data[f"g{short}_{i}"])
        layer.refactorize()
        a, b = layer.lora_A.detach(), layer.lora_B.detach()
        want_a, want_b = data[f"refactorA_{i}"], data[f"refactorB_{i}"]
        close(b @ a, data[f"B_{i}"] @ data[f"A_{i}"])
        # Zeros beside the diagonal are as good as its size allows.
        largest = (want_a @ want_a.T).max()
        for got, want in ((b.T @ b, want_b.T @ want_b), (a @ a.T, want_a @ want_a.T)):
            close(got / largest, want / largest)


def sparseloco(fixture):
    """Two processes that talk: what each sends, what it keeps, and the weights of both."""
    config, workers = fixture.config, fixture.config["workers"]
    for bins, tag in ((None, "noq"), (config["bins"], "q2")):
        results = Ranks(workers, sparseloco_worker, fixture, bins, tag).results()
        assert results == dict.fromkeys(range(workers), "as the reference")


def sparseloco_worker(fixture, bins, tag):
    data, config = arrays(fixture), fixture.config
    close = partial(torch.testing.assert_close, **tolerance(fixture))
    size, reach, decay = config["chunk"], config["range_sigma"], config["ef_decay"]
    topk = TopK(chunk=size, kept=config["topk"], bins=bins, reach=reach)
    outer = Outer(lr=config["outer_lr"], momentum=0.0, compression=topk, keep=decay)
    starts = {n.removeprefix("W0_"): w for n, w in data.items() if n.startswith("W0_")}
    weights = {name: nn.Parameter(start.clone()) for name, start in starts.items()}
    with joined("cpu", timeout=60) as world:
        step = OuterStep(weights.items(), outer, world)
        for number in range(config["rounds"]):
            before = {name: owed.clone() for name, owed in step.owed.items()}
            for name, weight in weights.items():
                weight.data -= data[f"pseudograd_{name}"][world.rank, number]
            step.step()
            for name, weight in weights.items():
                gradient = data[f"pseudograd_{name}"][world.rank, number]
                sent = decay * before[name] + gradient - step.owed[name]
                close(sent, data[f"{tag}_transmitted_{name}"][number, world.rank])
                close(step.owed[name], data[f"{tag}_error_{name}"][number, world.rank])
                close(weight.detach(), data[f"{tag}_W_{name}"][number])
    for name in weights:
        robust = clipped_to_median(data[f"{tag}_transmitted_{name}"][-1])
        close(robust, data[f"{tag}_prodagg_last_{name}"])
    return "as the reference"


def dp_clip(fixture):
    data, config = arrays(fixture), fixture.config
    width, hidden, outputs = config["dims"]
    model = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, outputs))
    names = fixture.sidecar["param_order"]
    model.load_state_dict({name: data[f"p_{name}"] for name in names})

    class Task(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, batch):
            return mse_loss(self.model(batch["x"]), batch["y"], reduction="none").sum(1).mean()

    batch = {name: data[name] for name in ("x", "y")}
    gradients = sample_gradients(Task(), lambda loss: loss, batch)
    gradients = {name.removeprefix("model."): value for name, value in gradients.items()}
    rtol = float(fixture.sidecar["tolerance"].removeprefix("rtol "))
    close = partial(torch.testing.assert_close, rtol=rtol, atol=rtol * config["C"] / 10)
    norms = torch.stack([gradients[name].flatten(1).norm(dim=1) for name in names], dim=1)
    close(norms, data["per_sample_norm_by_param"])
    close(norms.norm(dim=1), data["per_sample_norm"])
    assert math.isclose(config["per_layer_C"], config["C"] / math.sqrt(len(names)))
    for mode in ("flat", "per_layer"):
        mean = clipped_mean(gradients, config["C"], per_layer=mode == "per_layer")
        for name in names:
            close(mean[name], data[f"{mode}_clipped_mean_{name}"])


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
    "schedulefree_adamw": schedulefree,
    "sltrain_layer": sltrain,
    "sparseloco": sparseloco,
    "dp_clip": dp_clip,
    "misc": misc,
}
