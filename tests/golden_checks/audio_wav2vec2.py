"""Checkers of wav2vec 2.0."""

import torch
from zoo.hub.convert import convert, detect
from zoo.modalities.audio.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from zoo.modalities.audio.waveform import WaveformPreprocessConfig
from zoo.objectives.wav2vec2 import Wav2Vec2Config as TaskConfig
from zoo.objectives.wav2vec2 import Wav2Vec2Objective


def build(config):
    encoder = Wav2Vec2(
        Wav2Vec2Config(
            dim=config["hidden_size"],
            depth=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            mlp_dim=config["intermediate_size"],
            conv_dim=tuple(config["conv_dim"]),
            conv_kernel=tuple(config["conv_kernel"]),
            conv_stride=tuple(config["conv_stride"]),
            conv_bias=config["conv_bias"],
            conv_norm=config["feat_extract_norm"],
            norm_first=config["do_stable_layer_norm"],
            pos_conv_kernel=config["num_conv_pos_embeddings"],
            pos_conv_groups=config["num_conv_pos_embedding_groups"],
        ),
        WaveformPreprocessConfig(),
    )
    task = TaskConfig(
        num_negatives=config["num_negatives"],
        groups=config["num_codevector_groups"],
        codes=config["num_codevectors_per_group"],
        code_dim=config["codevector_dim"],
        projection_dim=config["proj_codevector_dim"],
        temperature=config["contrastive_logits_temperature"],
        diversity_weight=config["diversity_loss_weight"],
        penalty_weight=0.0,
        stem_grad_scale=1.0,
    )
    return encoder.eval(), Wav2Vec2Objective(task, encoder).eval()


def wav2vec2(fixture):
    tensors, close = fixture.tensors, close_to(fixture)
    encoder, objective = build(fixture.config)
    file = fixture.group("weights")
    assert detect(file) == "wav2vec2-transformers"
    found = convert(file)
    assert not found.extra
    encoder.load_state_dict(found.encoder, strict=True)
    missing, unexpected = objective.load_state_dict(found.objective, strict=False)
    assert (missing, unexpected) == (["updates"], [])

    waveform = tensors["input"]
    batch = encoder.preprocess.collate([{"waveform": clip} for clip in waveform])
    assert batch["lengths"].tolist() == [fixture.sidecar["frames"]] * len(waveform)
    frames = encoder.stem(batch)
    close(encoder.tokenize(frames, batch["lengths"]).targets, "extract_features")
    close(encoder(batch).tokens, "last_hidden_unmasked")

    mask = tensors["mask_time"].bool()
    batch["target_index"] = mask.flatten().nonzero().flatten()
    batch["negative_index"] = tensors["negatives"][mask].long()
    predicted, target, _, _ = objective.project(encoder, frames, batch)
    close(predicted, tensors["projected_states"][mask])
    close(target, tensors["projected_quantized"][mask])
    losses, count = objective(encoder, batch), objective.count(batch)
    assert count == sum(fixture.sidecar["masked_per_clip"])
    close(losses.total * count, tensors["loss"][0])
    close(losses.parts["contrastive"] * count, tensors["contrastive_loss"][0])
    close(losses.parts["diversity"] * count, tensors["diversity_loss"][0])
    close(losses.metrics["perplexity"], tensors["codevector_perplexity"][0])
    (losses.total * count).backward()
    gradients = fixture.group("grad")
    assert gradients
    for name, gradient in gradients.items():
        close(objective.get_parameter(name).grad, gradient)


def close_to(fixture):
    """This part's sidecars have one tolerance for everything."""

    def close(got, want):
        want = fixture.tensors[want] if isinstance(want, str) else want
        torch.testing.assert_close(got.detach(), want, **fixture.sidecar["tolerance"])

    return close


CHECKS = {"wav2vec2": wav2vec2}
