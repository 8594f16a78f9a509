"""Checkers of contrastive losses, of the part `vision`."""

import torch
from training.ranks import Ranks
from zoo.objectives.contrastive_losses import info_nce, sigmoid_loss
from zoo.objectives.momentum_queue import MomentumQueue, QueueConfig

from zoo.training.world import joined


def leaf(tensor):
    return tensor.clone().requires_grad_()


def open_clip_losses(fixture):
    """CLIP's and SigLIP's; captions and distillation are not built yet."""
    tensors = fixture.tensors
    for name, loss in (("clip", info_nce), ("siglip", sigmoid_loss)):
        inputs = ("image", "text", "logit_scale") + (("logit_bias",) if name == "siglip" else ())
        leaves = {key: leaf(tensors[f"in.{key}"]) for key in inputs}
        total = loss(*leaves.values())
        fixture.close(total, f"out.{name}.loss", "loss")
        total.backward()
        for key, gradient in fixture.group(f"grad.{name}").items():
            fixture.close(leaves[key].grad, gradient, "grad")


def open_clip_losses_distributed(fixture):
    """The reference's correct variants; gradients as they are before they are averaged."""
    config, tensors = fixture.config, fixture.tensors
    features = [tensors[f"in.{name}_all"].split(config["per_rank"]) for name in ("image", "text")]
    numbers = [torch.tensor(config[name]) for name in ("logit_scale", "logit_bias")]
    results = Ranks(config["world_size"], one_process, features, numbers).results()
    variants = {name.rpartition(".loss.")[0] for name in fixture.group("out")}
    variants -= {name for name in variants if name.startswith("clip.")}
    for variant in ("clip.local1_grad1", *sorted(variants)):
        name = variant.partition(".")[0]
        for rank, got in results.items():
            loss, image, text, _ = got[name]
            fixture.close(loss, f"out.{variant}.loss.rank{rank}", "loss")
            fixture.close(image, f"grad.{variant}.image.rank{rank}", "grad")
            fixture.close(text, f"grad.{variant}.text.rank{rank}", "grad")
        # Who computes which part of the scale's gradient is another matter.
        wanted = fixture.group(f"grad.{variant}.scale")
        if wanted:
            fixture.close(
                sum(got[name][3] for got in results.values()), sum(wanted.values()), "grad"
            )


def one_process(features, numbers):
    found = {}
    with joined("cpu", timeout=30) as world:
        for name, loss in (("clip", info_nce), ("siglip", sigmoid_loss)):
            leaves = [leaf(part[world.rank]) for part in features] + [leaf(n) for n in numbers]
            inputs = leaves[:3] if name == "clip" else leaves
            total = loss(*inputs)
            total.backward()
            # As arrays: tensors would be shared with a process that has ended.
            found[name] = [total.detach().numpy(), *(x.grad.numpy() for x in leaves[:3])]
    return found


def momentum_queue(fixture):
    """CTP's first task: in the batch and against the queue; its fusion and later tasks are not."""
    config, tensors = fixture.config, fixture.tensors
    student, slow = (fixture.group(f"in.param.{name}") for name in ("student", "momentum"))
    queue = MomentumQueue(
        torch.nn.ParameterDict(slow),
        width=config["dim"],
        ids=1,
        config=QueueConfig(queue=config["queue"], momentum=config["init_momentum"]),
    )
    names = ("image", "text")
    queue.vectors.copy_(torch.stack([tensors[f"in.{name}_queue"].T for name in names]))
    leaves = [leaf(tensors[f"in.{name}_feat"]) for name in names]
    keys = torch.stack([tensors[f"in.momentum_{name}_feat"] for name in names])
    scale = torch.tensor(1 / config["temp"])
    ids = torch.arange(config["batch"]).unsqueeze(1) + 1
    total = info_nce(*leaves, scale) + queue.loss(torch.stack(leaves), keys, scale, ids)
    fixture.close(total, "out.init.ita", "loss")
    total.backward()
    for name, value in zip(names, leaves, strict=True):
        fixture.close(value.grad, f"grad.init.{name}_feat", "grad")
    queue.update(torch.nn.ParameterDict(student))
    fixture.close(queue.vectors[0].T, "out.init.image_queue", "forward")
    assert int(queue.place) == int(tensors["out.init.queue_ptr"])
    for name, want in fixture.group("out.init.momentum_param").items():
        fixture.close(queue.towers[0][name], want, "forward")


CHECKS = {
    "ctp-losses": momentum_queue,
    "open_clip-losses": open_clip_losses,
    "open_clip-losses-distributed": open_clip_losses_distributed,
}
