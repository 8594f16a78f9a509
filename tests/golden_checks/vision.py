"""Checkers of the part `vision`."""

import timm.optim
import torch
from torch import nn
from zoo.hub.convert import BACK, convert, detect
from zoo.modalities.patch_vit import unpatchify
from zoo.modalities.positions import resize_positions, sincos_positions
from zoo.modalities.vision.preprocess import VisionPreprocessConfig
from zoo.modalities.vision.vit import ViT, ViTConfig
from zoo.objectives.mae import MAE, MAEConfig, reconstruction_loss
from zoo.registry.build import build_encoder, build_objective, encoder_spec
from zoo.registry.catalogue import card

from zoo.probes.heads import HeadRecipe, Linear, fit, predict
from zoo.probing import knn_votes
from zoo.training.lars import LARS
from zoo.training.schedule import Phase, Schedule


def vit(config, **changes):
    names = ("img_size", "patch_size", "depth", "mlp_ratio", "norm_eps")
    args = {name: config[name] for name in names if name in config}
    args |= {"dim": config["embed_dim"], "heads": config["num_heads"], **changes}
    return ViT(ViTConfig(**args), VisionPreprocessConfig())


def load(module, state):
    """Every key of the file is used, every parameter of the module is given."""
    module.load_state_dict(state, strict=True)
    return module


def mae(config, encoder, **changes):
    return MAE(
        MAEConfig(
            mask_ratio=config["mask_ratio"],
            decoder_dim=config["decoder_embed_dim"],
            decoder_depth=config["decoder_depth"],
            decoder_heads=config["decoder_num_heads"],
            mlp_ratio=config.get("mlp_ratio", 4.0),
            norm_eps=config["norm_eps"],
            **changes,
        ),
        encoder,
    )


def mae_pretrain(fixture):
    config, want = fixture.config, fixture.group("out")
    weights = convert(fixture.group("w"))
    assert not weights.extra
    batch = {"image": fixture.tensors["in.image"], "noise": fixture.tensors["in.noise"]}
    for variant, normalize in (("plain", False), ("norm_pix", True)):
        encoder = load(vit(config), weights.encoder)
        objective = load(mae(config, encoder, norm_pix_loss=normalize), weights.objective)

        whole = objective.reconstruct(encoder, batch)
        fixture.close(whole.latent, "out.latent", "forward")
        fixture.close(whole.mask, "out.mask", "forward")
        fixture.close(whole.prediction, "out.pred", "forward")
        fixture.close(whole.target, "out.target_patches", "forward")
        assert torch.equal(whole.order.argsort(dim=1), want["ids_restore"])
        image = unpatchify(whole.prediction, encoder.grid, config["patch_size"])
        fixture.close(image, "out.unpatchified_pred", "forward")

        # The reference's form of the loss, then the one that training uses, with its gradients.
        hidden = whole.mask.bool()
        plain = reconstruction_loss(
            whole.prediction[hidden], whole.target[hidden], normalize=normalize
        )
        fixture.close(plain, f"out.{variant}.loss", "loss")
        loss = objective(encoder, batch).total
        fixture.close(loss, f"out.{variant}.loss", "loss")
        loss.backward()
        named = dict(encoder.named_parameters()) | dict(objective.named_parameters())
        gradients = fixture.group(f"grad.{variant}")
        assert gradients
        for name, gradient in gradients.items():
            fixture.close(named[name].grad, gradient, "grad")


def mae_finetune_vit(fixture):
    config = fixture.config
    pool = "mean_norm" if config["global_pool"] else "cls"
    weights = convert(fixture.group("w"))
    assert set(weights.extra) == {"head.weight", "head.bias"}
    encoder = vit(config, pool=pool, pos_embed="learned")
    model = nn.ModuleDict(
        {"encoder": encoder, "head": nn.Linear(encoder.dim, config["num_classes"])}
    )
    load(encoder, weights.encoder)
    load(model["head"], {k: fixture.tensors[f"w.head.{k}"] for k in ("weight", "bias")})

    features = encoder({"image": fixture.tensors["in.image"]}).pooled
    fixture.close(features, "out.features", "forward")
    logits = model["head"](features)
    fixture.close(logits, "out.logits", "forward")
    loss = nn.functional.cross_entropy(logits, fixture.tensors["in.label"])
    fixture.close(loss, "out.cross_entropy", "loss")
    loss.backward()
    named = dict(encoder.named_parameters())
    named |= {f"head.{name}": p for name, p in model["head"].named_parameters()}
    for name, gradient in fixture.group("grad").items():
        fixture.close(named[name].grad, gradient, "grad")

    # The same file in an encoder for larger images.
    big = vit(config, pool=pool, img_size=config["big_img_size"])
    state = dict(weights.encoder)
    assert big.adapt(state) == ("pos_embed",)
    fixture.close(state["pos_embed"], "out.pos_embed_big", "forward")
    assert torch.equal(
        state["pos_embed"], resize_positions(weights.encoder["pos_embed"], big.grid, prefix=1)
    )
    load(big, state)
    features = big({"image": fixture.tensors["in.image_big"]}).pooled
    fixture.close(model["head"](features), "out.logits_big", "forward")
    _layer_decay(fixture, encoder, model["head"])


def _layer_decay(fixture, encoder, head):
    """timm groups the parameters, from the layers that the encoder names."""
    encoder.head = head
    want = fixture.sidecar["layer_decay"]
    groups = timm.optim.param_groups_layer_decay(
        encoder,
        weight_decay=want["weight_decay"],
        layer_decay=want["layer_decay"],
        no_weight_decay_list=("cls_token", "pos_embed"),
    )
    names = {id(p): name for name, p in encoder.named_parameters()}
    got = {
        (round(group["lr_scale"], 9), group["weight_decay"]): {
            names[id(p)] for p in group["params"]
        }
        for group in groups
    }
    assert got == {
        (round(group["lr_scale"], 9), group["weight_decay"]): set(group["params"])
        for group in want["groups"]
    }


def sincos_2d(fixture):
    config = fixture.config
    for dim in config["dims"]:
        for side in config["grids"]:
            table = sincos_positions(dim, (side, side), prefix=int(config["cls_token"]))
            fixture.close(table, f"out.sincos_d{dim}_g{side}", "forward")


def mae_optim(fixture):
    config, tensors = fixture.config, fixture.tensors
    warm, fall = config["warmup_epochs"], config["epochs"]
    phases = (Phase(warm, config["lr"]), Phase(fall, config["min_lr"], "cosine"))
    rates = [Schedule(phases)(epoch) for epoch in tensors["in.epoch"].tolist()]
    fixture.close(rates, "out.lr", "forward")
    for name in tensors:
        if name.startswith("out.lr_scaled_"):
            scale = float(name.removeprefix("out.lr_scaled_"))
            fixture.close([rate * scale for rate in rates], name, "forward")

    start = [tensors[f"in.lars.{name}"] for name in ("w", "b", "zero")]
    params = [nn.Parameter(value.clone()) for value in start]
    optimizer = LARS(params, **config["lars"])
    step = 0
    while f"in.lars.grad{step}.0" in tensors:
        for i, p in enumerate(params):
            p.grad = tensors[f"in.lars.grad{step}.{i}"].clone()
        optimizer.step()
        for i, p in enumerate(params):
            fixture.close(p, f"out.lars.step{step}.{i}", "forward")
        step += 1
    assert step


def mae_checkpoint_layout(fixture):
    """The catalogue's encoders hold exactly the keys and shapes of the published files."""
    checked = 0
    for name, want in fixture.sidecar["models"].items():
        size = next((size for size in card("mae").sizes if f"_{size}_" in name), None)
        if size is None:
            continue
        changes = {"pool": "mean_norm"} if name.endswith("globalpool") else {}
        with torch.device("meta"):
            encoder = build_encoder(encoder_spec(f"mae-{size}", changes))
            got = shapes(encoder)
            if name.startswith("mae_"):
                assert sum(p.numel() for p in encoder.parameters()) == want["params_encoder"]
                assert len(got) == want["n_keys_encoder"]
                options = card("mae").recipe.objective
                got |= shapes(build_objective(options, encoder))
            else:
                classes = want["keys"]["head.bias"][0]
                got |= {"head.weight": [classes, encoder.dim], "head.bias": [classes]}
        assert got == want["keys"]
        assert detect(dict.fromkeys(want["keys"], torch.zeros(0))) == "mae"
        checked += 1
    assert checked


def shapes(module):
    return {name: list(value.shape) for name, value in module.state_dict().items()}


def hf_vitmae_pretrain(fixture):
    config = fixture.config
    file = fixture.group("w")
    assert detect(file) == "transformers-vit-mae"
    weights = convert(file)
    assert not weights.extra
    encoder = ViT(
        ViTConfig(
            img_size=config["image_size"],
            patch_size=config["patch_size"],
            dim=config["hidden_size"],
            depth=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            mlp_ratio=config["intermediate_size"] / config["hidden_size"],
            norm_eps=config["layer_norm_eps"],
        ),
        VisionPreprocessConfig(),
    )
    objective = MAE(
        MAEConfig(
            mask_ratio=config["mask_ratio"],
            norm_pix_loss=config["norm_pix_loss"],
            decoder_dim=config["decoder_hidden_size"],
            decoder_depth=config["decoder_num_hidden_layers"],
            decoder_heads=config["decoder_num_attention_heads"],
            mlp_ratio=config["decoder_intermediate_size"] / config["decoder_hidden_size"],
            norm_eps=config["layer_norm_eps"],
        ),
        encoder,
    )
    load(encoder, weights.encoder)
    load(objective, weights.objective)
    batch = {"image": fixture.tensors["in.image"], "noise": fixture.tensors["in.noise"]}
    whole = objective.reconstruct(encoder, batch)
    fixture.close(whole.prediction, "out.logits", "forward")
    fixture.close(whole.mask, "out.mask", "forward")
    assert torch.equal(whole.order.argsort(dim=1), fixture.tensors["out.ids_restore"])
    fixture.close(objective(encoder, batch).total, "out.loss_norm_pix", "loss")

    back = BACK["transformers-vit-mae"](encoder.state_dict(), objective.state_dict())
    assert back.keys() == file.keys()
    assert all(torch.equal(back[name], file[name]) for name in file)
    for rename in (transformers_5_in_memory, transformers_5_on_disk):
        again = convert({rename(name): value for name, value in file.items()})
        assert again.encoder.keys() == weights.encoder.keys()
        assert again.objective.keys() == weights.objective.keys()
    if "in_memory_keys_of_this_version" in fixture.sidecar:
        listed = fixture.sidecar["in_memory_keys_of_this_version"]
        assert {transformers_5_in_memory(name) for name in file} == set(listed)


def transformers_5_in_memory(name):
    for old, new in (
        ("vit.encoder.layer.", "vit.layers."),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ):
        name = name.replace(old, new)
    return name


def transformers_5_on_disk(name):
    return name.replace("decoder.decoder_layers.", "decoder.decoder_encoder.layer.")


def knn_weighted(fixture):
    config, tensors = fixture.config, fixture.tensors
    labels = tensors["in.test_labels"]
    for k in config["k"]:
        votes = knn_votes(
            tensors["in.train_features"].numpy(),
            tensors["in.train_labels"].numpy(),
            tensors["in.test_features"].numpy(),
            k=k,
            temperature=config["temperature"],
            classes=config["classes"],
        )
        fixture.close(votes, f"out.vote.k{k}", "forward")
        order = torch.from_numpy(votes).argsort(dim=1, descending=True)
        want = fixture.sidecar["results_percent"][str(k)]
        slack = fixture.sidecar["tolerance"]["accuracy_percent"]
        for top in (1, 5):
            hits = (order[:, :top] == labels[:, None]).any(dim=1).float().mean() * 100
            assert abs(hits.item() - want[f"top{top}"]) <= slack


def linear_probe_mae(fixture):
    """What `kind="linear"` trains with LARS, in the order of the reference."""
    config, tensors = fixture.config, fixture.tensors
    whole = config["n_train"] // config["batch"] * config["batch"]  # the rest is left out
    x, y = tensors["in.train_features"][:whole], tensors["in.train_labels"][:whole]
    recipe = HeadRecipe(
        epochs=config["epochs"],
        batch_size=config["batch"],
        lr=config["lr"],
        weight_decay=0.0,
        warmup=config["warmup_epochs"] / config["epochs"],
        clip_grad=float("inf"),
        optimizer="lars",
        standardize="batch",
    )
    head = Linear(config["dim"], config["classes"])
    load(
        head.linear,
        {"weight": tensors["in.init_weight"], "bias": torch.zeros(len(head.linear.bias))},
    )
    norm = nn.BatchNorm1d(config["dim"], **config["bn"])
    model = nn.Sequential(norm, head)
    order = torch.arange(whole).split(config["batch"])
    losses = torch.stack([*fit(model, x, y, recipe, [*order] * config["epochs"])])
    fixture.close(losses, "out.losses", "forward")
    for name, value in (("weight", head.linear.weight), ("bias", head.linear.bias)):
        fixture.close(value, f"out.{name}", "forward")
    for name in ("running_mean", "running_var"):
        fixture.close(getattr(norm, name), f"out.{name}", "forward")
    logits = torch.from_numpy(predict(model.eval(), tensors["in.test_features"]))
    fixture.close(logits, "out.test_logits", "forward")
    top1 = (logits.argmax(1) == tensors["in.test_labels"]).float().mean().item() * 100
    wanted, slack = fixture.sidecar["results_percent"], fixture.sidecar["tolerance"]
    assert abs(top1 - wanted["top1"]) <= slack["accuracy_percent"]


CHECKS = {
    "mae-pretrain": mae_pretrain,
    "mae-finetune-vit": mae_finetune_vit,
    "sincos-2d": sincos_2d,
    "mae-optim": mae_optim,
    "mae_checkpoint_layout": mae_checkpoint_layout,
    "hf-vitmae-pretrain": hf_vitmae_pretrain,
    "knn-weighted": knn_weighted,
    "linear-probe-mae": linear_probe_mae,
}
