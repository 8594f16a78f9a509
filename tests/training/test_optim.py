"""Who optimises what, which options fit, and states that survive being saved."""

import copy
import re
import sys

import pytest
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from zoo.modalities.tabular.numbers import Linear as NumberMap
from zoo.registry.build import (
    OBJECTIVES,
    build_encoder,
    build_objective,
    check_pairing,
    encoder_spec,
)
from zoo.registry.catalogue import list_models
from zoo.registry.recipe import TrainRecipe

from zoo.errors import UnknownNameError, UsageError
from zoo.training.groups import decays, is_hidden, layer_scales, parameter_groups
from zoo.training.optim import build_optimizers
from zoo.training.optim_state import optimizer_tensors, restore_optimizers
from zoo.training.schedule_free import evaluated


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 8)
        self.mask_token = nn.Parameter(torch.ones(1, 1, 8))
        self.table = nn.Parameter(torch.zeros(1, 4, 8), requires_grad=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(2)
        )
        self.head = nn.Linear(8, 2)

    def forward(self, ids):
        x = self.embedding(ids) * self.mask_token[0]
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def recipe(**options):
    return TrainRecipe(**{"batch_size": 1, "steps": 1, "lr": 0.01, "weight_decay": 0.3} | options)


def trained(model, optimizers, steps):
    for step in steps:
        ids = torch.randint(6, (16,), generator=torch.Generator().manual_seed(step))
        nn.functional.cross_entropy(model(ids), ids % 2).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


def places(model, optimizers):
    """Name -> class of its optimiser, weight decay, lr_scale."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                assert names[id(p)] not in found
                found[names[id(p)]] = (
                    type(optimizer).__name__,
                    group["weight_decay"],
                    group["lr_scale"],
                )
    return found


HYBRIDS = {"muon": "Muon", "galore": "ProjectedAdamW", "conda": "ProjectedAdamW"}


@pytest.mark.parametrize("name", ["adamw", *HYBRIDS])
def test_every_trainable_parameter_has_one_place(name):
    model = Model()
    named = list(model.named_parameters())
    found = places(model, build_optimizers(named, recipe(optimizer=name)))
    assert set(found) == {n for n, p in named if p.requires_grad}
    assert found["blocks.0.0.weight"] == (HYBRIDS.get(name, "AdamW"), 0.3, 1.0)
    assert found["head.weight"] == ("AdamW", 0.3, 1.0)
    for plain in ("embedding.weight", "mask_token", "blocks.0.0.bias", "blocks.0.1.weight"):
        assert found[plain] == ("AdamW", 0.0, 1.0)


def pairs():
    for model in list_models():
        spec = encoder_spec(model, {})
        for objective in OBJECTIVES:
            try:
                check_pairing(spec.encoder, {"name": objective})
            except UsageError:
                continue
            yield model, objective


OPTIONS = {  # that fit any encoder
    "mae": {"decoder_dim": 384},  # a width for positions on any number of axes
    "bm_mae": {"decoder_dim": 384},
    "biphasic": {"causal_steps": 1},
    "dupmae": {"decoder_heads": 2},
    "dino": {"crops": {"count": 0}},  # which are larger than some images
    "ibot": {"crops": {"count": 0}},
    "text_code_matching": {"match_id": 0, "write_text_id": 1, "write_code_id": 2},
}
CHANGES = {  # what an objective needs of its encoder
    "unitabe": {"numbers": "digits", "pool": "cls"},
    "masked_cells": {"tokens": "cells"},
}


@pytest.mark.parametrize(("model", "objective"), list(pairs()))
def test_groups_of_the_catalogue(model, objective):
    """The names say what the modules are: only weights of linear maps and convolutions decay."""
    with torch.device("meta"):
        changes = CHANGES.get(objective, {}) if model.startswith("unitabe") else {}
        encoder = build_encoder(encoder_spec(model, changes))
        task = build_objective({"name": objective, **OPTIONS.get(objective, {})}, encoder)
    pair = nn.ModuleDict({"encoder": encoder, "objective": task})
    for path, module in pair.named_modules():
        for leaf, p in module.named_parameters(prefix=path, recurse=False):
            is_map = isinstance(module, nn.Linear | _ConvNd | NumberMap)
            is_map &= leaf.endswith(".weight")
            is_map |= leaf.endswith("weight.original1")  # of weight norm: the direction
            is_map |= leaf.endswith(".prototypes")  # directions likewise
            is_map |= isinstance(module, nn.LSTM) and ".weight_" in leaf
            if p.requires_grad:
                assert decays(leaf, p) == is_map, leaf
                in_block = "blocks." in leaf
                assert is_hidden(leaf, p) == (is_map and in_block and p.ndim == 2), leaf
    scales = layer_scales([name for name, _ in pair.named_parameters()], 0.5)
    stacks = [path for path, _ in pair.named_modules() if re.fullmatch(r"encoder.*\bblocks", path)]
    depth = sum(len(pair.get_submodule(path)) for path in stacks)
    first = next(name for name in scales if name.startswith("encoder."))
    assert scales[first] == 0.5 ** (depth + 1)
    if stacks:
        block = {scale for name, scale in scales.items() if name.startswith(f"{stacks[0]}.0.")}
        assert block == {0.5**depth}
    assert {scale for name, scale in scales.items() if name.startswith("objective.")} <= {1.0}


def test_layers_of_stages_count_on():
    names = ["stem", "stages.0.blocks.0.w", "stages.0.blocks.1.w", "stages.1.blocks.0.w", "norm.w"]
    assert list(layer_scales(names, 0.5).values()) == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1 / 2]


def test_what_lies_between_blocks_goes_with_the_next_one():
    """As timm groups Swin's merging of patches."""
    names = ["stem", "0.blocks.0.w", "1.merge.norm.w", "1.merge.w", "1.blocks.0.w", "norm.w", "fc"]
    assert list(layer_scales(names, 0.5).values()) == [1 / 8, 1 / 4, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 1]


def test_decay_and_scale_meet_in_one_group():
    model = Model()
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    scales = layer_scales([n for n, _ in named], 0.5)
    groups = parameter_groups(named, 0.3, scales)
    assert sum(len(group["params"]) for group in groups) == len(named)
    kinds = [(group["weight_decay"], group["lr_scale"]) for group in groups]
    assert len(kinds) == len(set(kinds)) == 7  # the stem has nothing that decays


def known():
    from timm.optim import list_optimizers

    names = list_optimizers(exclude_filters=["adahessian", "*kron*", "bnb*", "fused*"])
    return ["adamw-amsgrad", "galore", "conda", "schedulefree", *names]


@pytest.mark.filterwarnings("ignore::UserWarning:timm")
def test_every_optimizer_goes_on_from_its_saved_state():
    """Also those that count in Python, or once a group: the same bits as without a stop."""
    differ = []
    for name in known():
        options = recipe(optimizer=name, layer_decay=0.9, schedule="constant")
        torch.manual_seed(0)
        model = Model()
        optimizers = build_optimizers(model.named_parameters(), options)
        start = trained(model, optimizers, ())
        middle = trained(model, optimizers, range(4))
        assert not torch.equal(start[0], middle[0]), name
        saved = optimizer_tensors(optimizers, model.named_parameters())
        saved = {key: value.clone() for key, value in saved.items()}
        other = copy.deepcopy(model)
        again = build_optimizers(other.named_parameters(), options)
        restore_optimizers(again, other.named_parameters(), saved)
        left, right = trained(model, optimizers, range(4, 8)), trained(other, again, range(4, 8))
        if not all(map(torch.equal, left, right)):
            differ.append(name)
    assert not differ


def test_timms_muon_leaves_heads_and_embeddings_alone():
    model = Model()
    (optimizer,) = build_optimizers(model.named_parameters(), recipe(optimizer="adamuon"))
    trained(model, [optimizer], (0,))
    by_muon = {n for n, p in model.named_parameters() if optimizer.state[p].get("use_muon")}
    assert by_muon == {"blocks.0.0.weight", "blocks.1.0.weight"}


def test_options_reach_the_optimizer():
    def groups(**options):
        optimizers = build_optimizers(Model().named_parameters(), recipe(**options))
        return [optimizer.param_groups[0] for optimizer in optimizers]

    (adamw,) = groups(betas=(0.8, 0.9), eps=1e-5)
    assert (adamw["betas"], adamw["eps"], adamw["fused"]) == ((0.8, 0.9), 1e-5, True)
    adamw, muon = groups(optimizer="muon", betas=(0.8, 0.9), momentum=0.7)
    assert (adamw["betas"], muon["momentum"]) == ((0.8, 0.9), 0.7)
    (lion,) = groups(optimizer="lion")
    assert lion["betas"] == (0.9, 0.99), "the optimiser's own, not AdamW's"
    (sgd,) = groups(optimizer="sgd", momentum=0.5)
    assert sgd["momentum"] == 0.5


def test_schedule_free_weights_to_use_are_another_set():
    """Averages of the runs z, weighted alike at a constant rate; training goes on as if unused."""
    options = recipe(optimizer="schedulefree", schedule="constant", betas=(0.5, 0.999))
    models = [Model(), Model()]
    models[1].load_state_dict(models[0].state_dict())
    used, unused = (build_optimizers(model.named_parameters(), options) for model in models)
    weight, runs = models[0].head.weight, []
    for step in range(4):
        trained(models[0], used, (step,))
        runs.append(used[0].state[weight]["z"].clone())
        y = weight.detach().clone()
        with evaluated(used):
            torch.testing.assert_close(weight.detach(), torch.stack(runs).mean(0))
        assert torch.equal(weight, y)
    assert not torch.equal(weight, runs[-1])
    trained(models[1], unused, range(4))
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


def test_other_optimizers_have_one_set_of_weights():
    model = Model()
    optimizers = build_optimizers(model.named_parameters(), recipe(optimizer="muon"))
    (*_, before) = trained(model, optimizers, range(2))
    with evaluated(optimizers):
        assert torch.equal(model.head.bias, before)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(UsageError, match=r"pip install 'zoo\[schedulefree\]'"):
        build_optimizers(
            Model().named_parameters(), recipe(optimizer="schedulefree", schedule="constant")
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": "adamx"}, UnknownNameError, "unknown optimizer 'adamx'; did you mean adam"),
        ({"optimizer": "adahessian"}, UnknownNameError, "unknown optimizer"),
        ({"momentum": 0.9}, UsageError, "'adamw' takes no train.momentum; it takes train.betas"),
        ({"optimizer": "lion", "eps": 0.1}, UsageError, "takes no train.eps; it takes train.betas"),
        ({"optimizer": "lamb", "projection_rank": 2}, UsageError, "takes no train.projection_rank"),
        ({"optimizer": "adan", "betas": (0.9, 0.9)}, UsageError, "takes 3 train.betas"),
        ({"betas": (0.9, 0.9, 0.9)}, UsageError, "takes 2 train.betas"),
        ({"optimizer": "schedulefree"}, UsageError, "set train.schedule=constant"),
        (
            {"optimizer": "schedulefree", "schedule": "constant", "ema": 0.9},
            UsageError,
            r"no train\.ema",
        ),
        (
            {"optimizer": "schedulefree", "schedule": "constant", "betas": (0.0, 0.9)},
            UsageError,
            "first beta above 0",
        ),
    ],
)
def test_what_does_not_fit_is_said(options, error, message):
    with pytest.raises(error, match=message):
        build_optimizers(Model().named_parameters(), recipe(**options))
