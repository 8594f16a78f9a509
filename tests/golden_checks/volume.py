"""Checkers of the objectives of the part `volume`."""

import itertools
import math

import numpy as np
import torch
from torch import nn
from zoo.hub.convert import convert
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.swin import Swin3D, Swin3DConfig
from zoo.modalities.volume.vit3d import ViT3D, ViT3DConfig
from zoo.objectives.bm_mae import BMMAE, BMMAEConfig, draw_noise
from zoo.objectives.contrastive_losses import nt_xent
from zoo.objectives.velvet_losses import local_loss, report_loss, sentence_mask
from zoo.objectives.voco import VoCo, VoCoConfig
from zoo.objectives.voco_losses import Projected, similarity, voco_losses
from zoo.objectives.volume_crops import CropAugment, base_starts, overlaps


def voco_labels(fixture):
    for config in fixture.sidecar["configs"]:
        tag, roi = config["tag"], config["roi"]
        bases = base_starts((config["max_roi"], config["max_roi"], roi), roi)
        assert len(bases) == config["num_crops"] ** 2
        boxes = torch.stack([bases[:, 0], bases[:, 0] + roi, bases[:, 1], bases[:, 1] + roi], dim=1)
        assert torch.equal(boxes, fixture.tensors[f"{tag}.base_boxes"])
        close(
            fixture,
            overlaps(starts_of(fixture.tensors[f"{tag}.centers"], roi), bases, roi),
            f"{tag}.labels",
            "labels",
        )


def close(fixture, got, want, what):
    """Tolerances of this part name one of the two numbers."""
    want = fixture.tensors[want] if isinstance(want, str) else want
    tolerance = {"rtol": 0, "atol": 0, **fixture.sidecar["tolerance"][what]}
    torch.testing.assert_close(got.detach(), want, **tolerance)


def starts_of(centres, roi):
    """(..., 2) centres of crops as deep as the volume -> (..., 3) first voxels."""
    return nn.functional.pad(centres - roi // 2, (0, 1))


def voco_losses_check(fixture):
    config, tensors = fixture.config, fixture.tensors
    for version, before in (("v2", ""), ("v1", "v1.")):
        student = tensors[f"{before}student"].clone().requires_grad_()
        labels = tensors[f"{before}labels"]
        pair = [
            split(rows, config["batch"], config["sw"])
            for rows in (student, tensors[f"{before}teacher"])
        ]
        parts = voco_losses(*pair, labels, variant=f"code_{version}")
        sum(parts.values()).backward()
        close(fixture, student.grad, f"{version}.grad_student", "grad")
        if version == "v2":
            _terms(fixture, *pair, parts)
            continue
        intra = tensors["v1.pos"] + tensors["v1.neg"]
        close(fixture, parts["intra"].reshape(1), intra, "default")
        close(fixture, parts["regularization"].double().reshape(1), "v1.reg", "default")


def _terms(fixture, student, teacher, parts):
    tensors = fixture.tensors
    for name, part in (("intra", "intra"), ("inter", "inter"), ("reg", "regularization")):
        close(fixture, parts[part].double(), tensors[f"v2.{name}"].mean(), "default")
    close(fixture, sum(parts.values()).float().reshape(1), "v2.total", "default")
    intra = similarity(student.crops, teacher.bases)
    following = [similarity(x.crops, x.bases.roll(-1, 0)) for x in (teacher, student)]
    for i in range(fixture.config["batch"]):
        close(fixture, intra[i], f"v2.logits_intra.{i}", "default")
        close(fixture, following[0][i], f"v2.logits_inter_teacher.{i}", "default")
        close(fixture, following[1][i], f"v2.logits_inter_student.{i}", "default")


def split(rows, batch, crops):
    """The reference's rows: random crops of all volumes, then base crops of all volumes."""
    count = batch * crops
    return Projected(rows[:count].unflatten(0, (batch, -1)), rows[count:].unflatten(0, (batch, -1)))


def joined(projected):
    """The inverse of `split`."""
    return torch.cat([projected.crops.flatten(0, 1), projected.bases.flatten(0, 1)])


def voco_step(fixture):
    config, tensors = fixture.config, fixture.tensors
    encoder, objective = _voco_pair(fixture)
    batch = _voco_batch(fixture)
    close(fixture, batch["labels"].double(), "labels", "loss")

    count, crops = config["batch"], config["sw"]
    embedding = objective.embed(encoder, batch)
    rows = embedding.unflatten(0, (count, -1))
    rows = joined(Projected(rows[:, :crops], rows[:, crops:]))
    close(fixture, rows, "embeddings", "embeddings")

    # The teacher moves when a step begins; `w.*` is from before.
    objective.after_step()
    kept = split(tensors["dropout_rows_kept"], count, crops)
    kept = torch.cat([kept.crops, kept.bases], dim=1).flatten().unsqueeze(1)
    objective.drop = Scaled(kept / (1 - objective.config.drop))
    student, teacher = objective.project(embedding, count)
    close(fixture, joined(student), "student", "embeddings")
    close(fixture, joined(teacher), "teacher", "embeddings")
    parts = voco_losses(student, teacher, batch["labels"], variant=objective.config.variant)
    total = sum(parts.values())
    close(fixture, total.reshape(1), "loss", "loss")
    total.backward()
    _voco_update(fixture, encoder, objective)


class Scaled(nn.Module):
    """Dropout that has been drawn already."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return x * self.scale


def _voco_pair(fixture):
    config = fixture.config
    weights = convert(fixture.group("w"))
    encoder = Swin3D(
        Swin3DConfig(feature_size=config["feature_size"], merging="legacy", micro_batch=2),
        VolumePreprocessConfig(),
    )
    objective = VoCo(
        VoCoConfig(
            crop_size=config["roi"],
            random_crops=config["sw"],
            hidden_dim=config["proj_hidden"],
            output_dim=config["proj_out"],
            embed_drop="row",
            augment=CropAugment(flip=0.0, rotate=0.0, shift=0.0),
        ),
        encoder,
    )
    encoder.adapt(weights.encoder)
    encoder.load_state_dict(weights.encoder)
    objective.load_state_dict(weights.objective)
    return encoder, objective


def _voco_batch(fixture):
    """The volumes of the recipe in words, the crops of the file, no augmentation."""
    config, tensors = fixture.config, fixture.tensors
    x, y, z = np.indices(config["volume_shape"]).astype(np.float64)
    tau = 2 * math.pi
    volumes = [
        np.clip(
            0.5
            + 0.30 * np.sin(tau * (x / 47 + phase)) * np.cos(tau * y / 61)
            + 0.15 * np.sin(tau * (z / 29 + 0.5 * phase) + 0.002 * x * y / 8)
            + 0.05 * np.cos(tau * (x + 2 * y + 3 * z) / 17),
            0,
            1,
        )
        for phase in config["phases"]
    ]
    bases = base_starts(tuple(config["volume_shape"]), config["roi"])
    starts = starts_of(tensors["centers"], config["roi"])
    labels = torch.stack([overlaps(rows, bases, config["roi"]) for rows in starts])
    starts = torch.cat([starts, bases.expand(len(volumes), -1, -1)], dim=1)
    return {
        "volume": torch.from_numpy(np.stack(volumes)).float().unsqueeze(1),
        "crops": nn.functional.pad(starts, (0, 4)),
        "shifts": torch.zeros(starts.shape[:2]),
        "labels": labels.float(),
    }


def _voco_update(fixture, encoder, objective):
    """Gradient norms, the optimiser of the recipe, and every weight after it."""
    named = {name: parameter_of(name, "voco", encoder, objective) for name in fixture.group("w")}
    wanted = fixture.sidecar["grad_norms"]
    # What a norm takes away again has no gradient but for rounding, here of the longest ones; where
    # little is left of sums, the reference itself is 24 such units away from what float64 gives.
    rounding = 10 * torch.finfo(torch.float32).eps * np.linalg.norm([*wanted.values()])
    tolerance = {"atol": 10 * rounding, **fixture.sidecar["tolerance"]["grad_norms"]}
    for name, want in wanted.items():
        got = named[name].grad.norm().item()
        np.testing.assert_allclose(got, want, err_msg=name, **tolerance)
    assert all(named[n].grad is None for n in fixture.sidecar["params_without_grad"])
    trained = [p for module in (encoder, objective) for p in module.parameters() if p.requires_grad]
    torch.optim.AdamW(trained, lr=1e-4, amsgrad=True, weight_decay=0.01).step()
    for name, want in fixture.group("after_step").items():
        parameter = named[name]
        # The first step of Adam is as long for a gradient that is all rounding.
        shown = parameter.grad if parameter.requires_grad else torch.ones_like(want)
        known = shown.abs() > rounding
        assert known.float().mean() > 0.9
        close(fixture, parameter[known], want[known], "after_step")


def parameter_of(name, layout, encoder, objective):
    """Of one of the two, by its name in the reference."""
    found = convert({name: torch.zeros(0)}, layout=layout)
    parts = ((encoder, found.encoder), (objective, found.objective))
    [parameter] = [module.get_parameter(key) for module, part in parts for key in part]
    return parameter


def _bm_mae(config, **changes):
    encoder = ViT3D(
        ViT3DConfig(
            patch_size=config["patch_size"],
            dim=config["hidden_size"],
            depth=config["num_layers"],
            heads=config["num_heads"],
            mlp_ratio=config["mlp_dim"] / config["hidden_size"],
            norm_eps=1e-5,
        ),
        VolumePreprocessConfig(
            sequences=tuple(config["modalities"]), size=(config["img_size"],) * 3
        ),
    )
    objective = BMMAE(
        BMMAEConfig(
            mask_ratio=config["masking_ratio"],
            decoder_dim=config["decoder_hidden_size"],
            decoder_depth=config["decoder_num_layers"],
            decoder_heads=config["decoder_num_heads"],
            mlp_ratio=config["decoder_mlp_dim"] / config["decoder_hidden_size"],
            **changes,
        ),
        encoder,
    )
    return encoder, objective


def bmmae_pretrain(fixture):
    config, tensors = fixture.config, fixture.tensors
    weights = convert(fixture.group("w"))
    names = config["modalities"]
    batch = {
        "volume": torch.cat([tensors[f"x.{name}"] for name in names], dim=1),
        "noise": tensors["ids_restore"].float(),
    }
    for variant, normalize in (("loss", False), ("loss_norm_pix", True)):
        encoder, objective = _bm_mae(config, norm_pix_loss=normalize)
        assert objective.num_visible == config["visible_tokens"]
        encoder.load_state_dict(weights.encoder)
        objective.load_state_dict(weights.objective)
        losses = objective(encoder, batch)
        close(fixture, torch.stack([*losses.parts.values(), losses.total]), variant, "loss")
        if normalize:
            continue
        close(fixture, encoder.tokenize(batch).x, joined_of(fixture, "tokens", names), "tokens")
        whole = objective.reconstruct(encoder, batch)
        close(fixture, whole.latent, "encoded", "encoded")
        close(fixture, whole.prediction, joined_of(fixture, "recon", names), "recon")
        assert torch.equal(whole.mask, joined_of(fixture, "mask", names).float())
        _gradient_norms(fixture, losses.total, encoder, objective)
        for name in names:
            if f"missing_{name}.recon" in tensors:
                place = names.index(name)
                filled = objective.reconstruct(encoder, batch, missing=name).prediction
                got = filled.unflatten(1, (len(names), -1))[:, place]
                close(fixture, got, f"missing_{name}.recon", "recon")


def joined_of(fixture, what, names):
    return torch.cat([fixture.tensors[f"{what}.{name}"] for name in names], dim=1)


def _gradient_norms(fixture, loss, encoder, objective):
    loss.backward()
    for name, want in fixture.sidecar["grad_norms"].items():
        parameter = parameter_of(name, "bm-mae", encoder, objective)
        tolerance = fixture.sidecar["tolerance"]["grad_norms"]
        np.testing.assert_allclose(parameter.grad.norm().item(), want, **tolerance)


def bmmae_masking(fixture):
    """Sequences are exchangeable, so all their counts are one sample of the distribution."""
    config, want = fixture.config, fixture.sidecar["statistics"]
    size, tokens = len(config["modalities"]), config["tokens_per_modality"]
    ratio = 1 - config["keep"] / (size * tokens)
    generator = torch.Generator().manual_seed(fixture.sidecar["seed"])
    present = torch.ones(size, dtype=torch.bool)
    noise = torch.stack([draw_noise(present, tokens, ratio, generator) for _ in range(2000)])
    visible = (noise < 1).unflatten(1, (size, tokens)).sum(dim=2)
    assert (visible.sum(dim=1) == want["total_visible_always"]).all()
    counts, tolerance = visible.flatten().double(), fixture.sidecar["tolerance"]
    for got, name in ((counts.mean(), "mean"), (counts.std(), "std")):
        np.testing.assert_allclose(want[name], got.item(), **tolerance[name])
    inner = [i for i, q in enumerate(want["q"]) if 0 < q < 1]
    for row, i in itertools.product(want["quantiles"].values(), inner):
        got = counts.quantile(want["q"][i]).item()
        assert abs(got - row[i]) <= max(3, 0.02 * tokens)
    empty = (counts == 0).double().mean().item()
    assert abs(empty - np.mean(want["fraction_zero_visible"])) < 0.002
    # Whatever the reference drew, this is how its tokens are told apart here.
    masks = torch.stack([fixture.tensors[f"mask.{name}"] for name in config["modalities"]], dim=1)
    assert ((masks == 0).sum(dim=(1, 2)) == config["keep"]).all()


def velvet_losses(fixture):
    config, tensors = fixture.config, fixture.tensors
    image = tensors["clip.vis"].clone().requires_grad_()
    temperature = torch.tensor([0.07], requires_grad=True)
    loss = report_loss(image, tensors["clip.txt"], temperature)
    close(fixture, loss.reshape(1), "clip.loss", "default")
    loss.backward()
    close(fixture, image.grad, "clip.grad_vis", "default")
    close(fixture, temperature.grad, "clip.grad_temperature", "default")

    first = tensors["ntxent.a"].clone().requires_grad_()
    views = [nn.functional.normalize(x, dim=1) for x in (first, tensors["ntxent.b"])]
    loss = nt_xent(*views, torch.tensor(1 / 0.5))
    close(fixture, loss.reshape(1), "ntxent.loss", "default")
    loss.backward()
    close(fixture, first.grad, "ntxent.grad_a", "default")

    reports = [tensors[f"local.txt.{i}"] for i in range(config["batch"])]
    assert [len(report) for report in reports] == config["tokens"]
    loss = local_loss(tensors["local.vis"].flatten(1, -2), reports)
    close(fixture, loss.reshape(1), "local.loss", "default")

    mask = sentence_mask(tensors["mask.token_type_ids"], tensors["mask.attention_mask"])
    assert torch.equal(mask.unsqueeze(1).int(), tensors["mask.extended"])


CHECKS = {
    "voco_labels": voco_labels,
    "voco_losses": voco_losses_check,
    "voco_step": voco_step,
    "bmmae_pretrain": bmmae_pretrain,
    "bmmae_masking": bmmae_masking,
    "velvet_losses": velvet_losses,
}
