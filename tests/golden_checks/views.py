"""Checkers of view-based objectives, of the part `vision`."""

import torch
from torch.nn.functional import cosine_similarity, normalize
from zoo.hub.convert import convert
from zoo.modalities.patch_vit import unpatchify
from zoo.objectives.barlow_twins import barlow_twins
from zoo.objectives.block_masks import group_mask, marked
from zoo.objectives.contrastive_losses import decoupled, nt_xent
from zoo.objectives.dino import view_cross_entropy
from zoo.objectives.ibot import patch_cross_entropy
from zoo.objectives.koleo import koleo
from zoo.objectives.lejepa import lejepa
from zoo.objectives.prototypes import Centre, warmed_up
from zoo.objectives.sit import SiT, SiTConfig
from zoo.objectives.tico import moving_covariance, tico
from zoo.objectives.vicreg import variance_covariance

from golden_checks.vision import load, vit


def leaf(tensor):
    return tensor.clone().requires_grad_()


def vicreg(a, b, options):
    hinges, covariances = zip(
        *(variance_covariance(x, eps=options["eps"]) for x in (a, b)), strict=True
    )
    invariance = (a - b).square().mean()
    weights = options["lambda"], options["mu"] / 2, options["nu"]
    terms = invariance, sum(hinges), sum(covariances)
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


def two_views(name, options):
    """The loss of a pair of views by its name in the fixture; None where there is none in zoo."""
    if name == "dcl" or name.startswith("ntxent_"):
        loss, scale = (
            decoupled if name == "dcl" else nt_xent,
            torch.tensor(1 / options["temperature"]),
        )
        return lambda a, b: loss(normalize(a, dim=1), normalize(b, dim=1), scale)
    return {
        "barlow": lambda a, b: barlow_twins(a, b, options["lambda"]),
        "vicreg": lambda a, b: vicreg(a, b, options),
        "neg_cosine": lambda a, b: -cosine_similarity(a, b).mean(),  # BYOL's, as 4 + 4 times this
        "koleo": lambda a, b: koleo(a, eps=options["eps"]),
    }.get(name)


def ssl_losses(fixture):
    """All that zoo has; not CAPI."""
    losses = {k: v for k, v in fixture.config["losses"].items() if isinstance(v, dict)}
    for name, options in losses.items():
        if loss := two_views(name, options):
            a, b = leaf(fixture.tensors["in.a"]), fixture.tensors["in.b"]
            total = loss(a, b)
            fixture.close(total, f"out.{name}", "loss")
            total.backward()
            fixture.close(a.grad, f"grad.{name}.a", "grad")
    check_tico(fixture, losses["tico"])
    check_lejepa(fixture, losses["lejepa"])
    check_ibot(fixture, losses["ibot"])


def check_tico(fixture, options):
    """The sidecar's rho is not the one of its numbers: the loss gives it, for the gradient."""
    a, b = leaf(fixture.tensors["in.a"]), fixture.tensors["in.b"]
    start = torch.zeros(a.shape[1], a.shape[1])
    invariance, spread = tico(a, b, moving_covariance(a, start, beta=options["beta"]))
    rho = ((fixture.tensors["out.tico"] - invariance) / spread).item()
    (invariance + rho * spread).backward()
    fixture.close(a.grad, "grad.tico.a", "grad")


def check_lejepa(fixture, options):
    views = [leaf(fixture.tensors[f"in.lejepa.{name}"]) for name in ("global", "local")]
    parts = lejepa(torch.cat(views), len(views[0]), fixture.tensors["in.lejepa.directions"])
    weight = options["lambda"]
    total = (1 - weight) * parts[0] + weight * parts[1]
    fixture.close(total, "out.lejepa", "loss")
    total.backward()
    for name, view in zip(("global", "local"), views, strict=True):
        fixture.close(view.grad, f"grad.lejepa.{name}", "grad")


def check_ibot(fixture, options):
    tensors = fixture.group("in.ibot")
    student, hidden = leaf(tensors["student"]), tensors["mask"].bool().flatten(1)
    shares = Centre(options["output_dim"], 0.9).shares(tensors["teacher"], options["teacher_temp"])
    total = patch_cross_entropy(shares, student / options["student_temp"], hidden)
    fixture.close(total, "out.ibot", "loss")
    total.backward()
    fixture.close(student.grad, "grad.ibot.student", "grad")


def dino_loss(fixture):
    config, tensors = fixture.config, fixture.tensors
    centre = Centre(config["out_dim"], config["center_momentum"])
    temperatures = config["warmup_teacher_temp"], config["teacher_temp"], config["warmup_epochs"]
    for call, epoch in enumerate(config["epochs_called"]):
        student = leaf(tensors[f"in.student{call}"])
        logits = student.unflatten(0, (config["ncrops"], -1)) / config["student_temp"]
        outputs = tensors[f"in.teacher{call}"].unflatten(0, (config["global_crops"], -1))
        shares = centre.shares(outputs, warmed_up(torch.tensor(epoch), *temperatures))
        total = view_cross_entropy(shares, logits)
        fixture.close(total, f"out.loss{call}", "loss")
        total.backward()
        fixture.close(student.grad, f"grad.student{call}", "grad")
        centre.update()
        fixture.close(centre.value, tensors[f"out.center{call}"][0], "forward")


def backbone(fixture, name):
    return convert(fixture.group(f"w.{name}.backbone")).encoder


def head(fixture, name):
    """BatchNorm's running statistics are of no use: batches are always taken as they are."""
    state = fixture.group(f"w.{name}.head.mlp")
    return {k: v for k, v in state.items() if "running" not in k and "tracked" not in k}


def repair(fixture, name):
    """The transposed convolution as the product that it is: patch, patch, channel."""
    state = fixture.group(f"w.{name}.head_recons")
    weight = state["convTrans.weight"]
    last = len(fixture.group(f"w.{name}.head_recons.mlp")) // 2 * 2
    found = {k.removeprefix("mlp."): v for k, v in state.items() if k.startswith("mlp.")}
    found[f"{last}.weight"] = as_rows(weight)
    found[f"{last}.bias"] = state["convTrans.bias"].repeat(weight.shape[2] * weight.shape[3])
    return found


def as_rows(weight):
    """(D, C, p, p) -> (p * p * C, D)."""
    return weight.permute(2, 3, 1, 0).flatten(0, 2)


def sit_pretrain(fixture):
    config, tensors = fixture.config, fixture.tensors
    encoder = load(vit(config, pos_embed="learned"), backbone(fixture, "student"))
    options = SiTConfig(
        temperature=config["temperature"],
        repair_weight=config["lmbda"],
        hidden_dim=config["head_hidden"],
        output_dim=config["out_dim"],
    )
    objective = SiT(options, encoder)
    load(objective.head, head(fixture, "student"))
    load(objective.repair, repair(fixture, "student"))
    slow_encoder, slow_head = objective.teacher.towers
    load(slow_encoder, backbone(fixture, "teacher"))
    load(slow_head, head(fixture, "teacher"))
    clean, corrupted, mask = (
        torch.stack([tensors[f"in.{name}{i}"] for i in range(2)], 1)
        for name in ("clean", "corrupted", "mask")
    )
    losses = objective.losses(encoder, clean, corrupted, mask.bool())
    fixture.close(losses.parts["contrast"], "out.contrastive", "loss")
    fixture.close(losses.parts["repair"], "out.recon_l1", "loss")
    fixture.close(losses.total, "out.total", "loss")
    losses.total.backward()
    found = dict(encoder.named_parameters(prefix="backbone"))
    found |= dict(objective.head.named_parameters(prefix="head.mlp"))
    last = [p for p in objective.repair.parameters() if p.ndim == 2][-1]
    for name, want in fixture.group("grad").items():
        if name == "head_recons.convTrans.weight":
            fixture.close(last.grad, as_rows(want), "grad")
        else:
            fixture.close(found[name].grad, want, "grad")
    # Rows of the reference are view by view.
    images = corrupted.transpose(0, 1).flatten(0, 1)
    tokens = encoder.encode(encoder.tokenize({"image": images}))
    fixture.close(objective.head(encoder.pool(tokens)), "out.student_cls", "forward")
    teacher = slow_head(slow_encoder({"image": clean.transpose(0, 1).flatten(0, 1)}).pooled)
    fixture.close(teacher, "out.teacher_cls", "forward")
    patches = objective.repair(tokens.x[:, tokens.prefix :])
    fixture.close(unpatchify(patches, encoder.grid, config["patch_size"]), "out.recon", "forward")


def sit_corruption(fixture):
    config, tensors = fixture.config, fixture.tensors
    side = config["img_size"]
    for name, filling in (("zeros", torch.tensor(0.0)), ("replace", tensors["in.other"])):
        mask = marked(tensors[f"in.{name}.blocks"], side)
        fixture.close(mask.float()[None], f"out.{name}.mask", "forward")
        image = torch.where(mask, filling, tensors["in.image"])
        fixture.close(image, f"out.{name}.image", "forward")
    want = fixture.sidecar["statistics"]["corrupted_fraction"]
    generator = torch.Generator().manual_seed(0)
    share = min(0.5, config["max_replace"]), config["max_replace"]
    drawn = torch.stack(
        [
            group_mask(side, config["align"], share, config["max_block"], generator).float().mean()
            for _ in range(300)
        ]
    )
    error = (want["standard_error_of_mean"] ** 2 + drawn.var().item() / len(drawn)) ** 0.5
    assert abs(drawn.mean().item() - want["mean"]) < 4 * error


CHECKS = {
    "dino-loss": dino_loss,
    "sit-corruption": sit_corruption,
    "sit-pretrain": sit_pretrain,
    "ssl-losses": ssl_losses,
}
