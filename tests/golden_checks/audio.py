"""Checkers of the part `audio`: spectrogram encoder, masked autoencoder, checkpoint layouts."""

import torch
from zoo.hub.convert import convert, detect
from zoo.modalities.audio.encoder import SpectrogramViT, SpectrogramViTConfig
from zoo.modalities.audio.features import LogMelConfig
from zoo.modalities.audio.preprocess import AudioPreprocessConfig
from zoo.objectives.mae import MAE, MAEConfig, reconstruction_loss
from zoo.registry.build import build_encoder, build_objective, encoder_spec
from zoo.registry.catalogue import card


def build(config, widths):
    frames, mels = config["img_size"]
    return SpectrogramViT(
        SpectrogramViTConfig(
            patch_size=config["patch"],
            dim=widths["embed_dim"],
            depth=widths["depth"],
            heads=widths["num_heads"],
            mlp_ratio=widths.get("mlp_ratio", 4),
            norm_eps=config["eps"],
            positions="transposed",
        ),
        AudioPreprocessConfig(features=LogMelConfig(target_length=frames, num_mel_bins=mels)),
    )


def close(fixture, got, want, tolerance):
    """Like `fixture.close`, where the sidecar gives one of atol and rtol, or "exact"."""
    want = fixture.tensors[want] if isinstance(want, str) else want
    if tolerance == "exact":
        assert torch.equal(got, want)
        return
    tolerance = {"atol": 0.0, "rtol": 0.0} | tolerance
    torch.testing.assert_close(got.detach().reshape(want.shape), want, **tolerance)


def load(module, state):
    """Every key of the file is used, every parameter is given, fixed positions are our own."""
    for name in state:
        if name.endswith("pos_embed"):
            torch.testing.assert_close(module.state_dict()[name], state[name], atol=1e-5, rtol=0)
    module.load_state_dict(state, strict=True)
    return module


def encoder(fixture):
    config, tolerance = fixture.config, fixture.sidecar["tolerance"]
    weights = convert(fixture.group("weights"))
    assert not weights.extra
    assert not weights.objective
    model = load(build(config, config), weights.encoder).eval()
    batch = {"features": fixture.tensors["input"]}
    with torch.no_grad():
        tokens = model.tokenize(batch)
        embedded = tokens.x - model.pos_embed[:, 1:]
        trunk = model.encode(tokens)
        features = model(batch)
    close(fixture, embedded, "patch_tokens", tolerance)
    close(fixture, trunk.before_norm, "tokens", tolerance)
    close(fixture, trunk.x, "tokens_norm", tolerance)
    close(fixture, features.tokens, fixture.tensors["tokens"][:, 1:], tolerance)
    close(fixture, features.tokens_norm, fixture.tensors["tokens_norm"][:, 1:], tolerance)
    close(fixture, features.pooled, "pooled", tolerance)
    close(fixture, features.cls, "cls_norm", tolerance)


def mae(fixture):
    config, tolerance = fixture.config, fixture.sidecar["tolerance"]
    results, decoder = fixture.sidecar["results"], config["decoder"]
    file = fixture.group("weights")
    assert detect(file) == "bird-mae-lightning"
    weights = convert(file)
    assert not weights.extra
    model = build(config, config["encoder"])
    state = weights.encoder
    assert set(model.adapt(state)) == {"fc_norm.weight", "fc_norm.bias"}
    load(model, state)
    objective = MAE(
        MAEConfig(
            mask_ratio=config["mask_ratio"],
            norm_pix_loss=config["norm_pix_loss"],
            decoder=decoder["mode"],
            decoder_dim=decoder["embed_dim"],
            decoder_depth=decoder["depth"],
            decoder_heads=decoder["num_heads"],
            norm_eps=config["eps"],
        ),
        model,
    ).eval()
    objective.load_state_dict(weights.objective, strict=True)
    assert objective.num_visible == config["kept_tokens"]

    batch = {"features": fixture.tensors["input"], "noise": fixture.tensors["noise"]}
    whole = objective.reconstruct(model, batch)
    close(fixture, whole.mask, "mask", tolerance["mask"])
    assert whole.mask.sum() == results["mask_sum"]
    assert torch.equal(whole.order.argsort(dim=1), fixture.tensors["ids_restore"])
    close(fixture, whole.latent, "latent", tolerance["pred"])
    close(fixture, whole.prediction, "pred", tolerance["pred"])
    first = fixture.tensors["target_patches_first8"]
    assert torch.equal(whole.target[:, : first.shape[1]], first)
    hidden = whole.mask.bool()
    raw = reconstruction_loss(whole.prediction[hidden], whole.target[hidden], normalize=False)
    close(fixture, raw, "loss_raw_pixels", tolerance["loss"])

    loss = objective(model, batch).total
    close(fixture, loss, "loss", tolerance["loss"])
    close(fixture, loss, torch.tensor(results["loss"]), tolerance["loss"])
    loss.backward()
    named = dict(model.named_parameters()) | dict(objective.named_parameters())
    norms = torch.stack([p.grad.norm() for p in named.values() if p.grad is not None])
    close(fixture, norms.norm(), torch.tensor(results["grad_norm"]), tolerance["grad"])
    gradients = convert(fixture.group("grad"))
    checked = gradients.encoder | gradients.objective
    assert checked
    for name, gradient in checked.items():
        close(fixture, named[name].grad, gradient, tolerance["grad"])


def layouts(fixture):
    """The catalogue's encoders and decoders hold exactly the keys and shapes of the files."""
    for size, want in fixture.sidecar["models"].items():
        model, objective = pair(f"bird-mae-{size}")
        hub, checkpoint = on_meta(want["hub_layout"]), on_meta(want["checkpoint_layout"])
        assert detect(checkpoint) == "bird-mae-lightning"
        assert sum(p.numel() for p in model.parameters()) == want["hub_parameters"]
        assert shapes(convert(hub).encoder) == shapes(model.state_dict())
        parts = convert(checkpoint)
        assert not convert(hub).extra
        assert not parts.extra
        made = set(shapes(model.state_dict())) - set(parts.encoder)
        assert made == {"fc_norm.weight", "fc_norm.bias"}
        assert shapes(parts.objective) == shapes(objective.state_dict())
        numel = sum(value.numel() for value in checkpoint.values())
        assert numel == want["checkpoint_parameters"]
    want = fixture.sidecar["audiomae_base_original_layout"]
    model, objective = pair("audiomae-base")
    parts = convert(on_meta(want["layout"]))
    assert not parts.extra
    assert sum(p.numel() for p in on_meta(want["layout"]).values()) == want["parameters"]
    got = shapes(model.state_dict()) | shapes(objective.state_dict())
    made = {name: got.pop(name) for name in ("fc_norm.weight", "fc_norm.bias")}
    assert all(shape == [model.dim] for shape in made.values())
    assert got == want["layout"]


def pair(name):
    """Encoder and objective of a card, without values."""
    with torch.device("meta"):
        model = build_encoder(encoder_spec(name, {}))
        return model, build_objective(card(name).recipe.objective, model)


def on_meta(layout):
    return {name: torch.empty(shape, device="meta") for name, shape in layout.items()}


def shapes(state):
    return {name: list(value.shape) for name, value in state.items()}


CHECKS = {"encoder": encoder, "mae": mae, "mae_swin": mae, "layouts": layouts}
