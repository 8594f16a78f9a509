import argparse
import datetime
import logging
import math

import pytest
import torch
from safetensors.torch import save_file
from zoo.modalities.audio.encoder import keep_lines
from zoo.modalities.positions import sincos_positions
from zoo.objectives.mae import MAE, MAEConfig
from zoo.registry.catalogue import card

import zoo
import zoo.models
from zoo.errors import ConfigError, WeightsError

TINY = {"dim": 24, "depth": 2, "heads": 2}
TIMES, MELS, PATCH = 8, 8, 16


def create(**changes):
    """Bird-MAE on 1.28 s: a grid of 8 x 8."""
    features = card("bird-mae").preprocess["features"]
    features = features | {"target_length": TIMES * PATCH, "seconds": 1.28}
    return zoo.create("bird-mae", seed=0, preprocess={"features": features}, **{**TINY, **changes})


def features(count=2, times=TIMES):
    return torch.randn(count, 1, times * PATCH, MELS * PATCH)


def tones(count):
    """Normalised spectrograms of steady tones that begin and end, in quiet noise."""
    sounds = -1 + 0.1 * torch.randn(count, 1, TIMES * PATCH, MELS * PATCH)
    for sound in sounds:
        begin, pitch = (int(x) for x in torch.randint(0, 90, (2,)))
        sound[0, begin : begin + 38, pitch : pitch + 4] += 2
    return sounds


def test_the_familys_name_means_base():
    with torch.device("meta"):
        encoder = zoo.create("bird-mae", depth=1)
    assert (encoder.dim, encoder.grid) == (768, (32, 8))


def test_features_are_those_of_the_paper():
    encoder = create().eval()
    encoder.fc_norm.weight.data.uniform_()
    with torch.no_grad():
        got = encoder({"features": features()})
        torch.testing.assert_close(encoder.fc_norm(got.tokens.mean(1)), got.pooled)
        torch.testing.assert_close(encoder.norm(got.tokens), got.tokens_norm)
    assert got.grid == (TIMES, MELS)
    assert got.tokens.shape == (2, TIMES * MELS, encoder.dim)
    assert got.cls.shape == got.pooled.shape == (2, encoder.dim)


def test_positions_follow_time_and_mel_unless_they_are_upstreams():
    """Token i lies at (i // mels, i % mels); the released weights were trained on another story."""
    frames = {"features": features(1, times=4)}
    for positions, grid in (("grid", (4, MELS)), ("transposed", (MELS, 4))):
        encoder = create(positions=positions)
        tokens = encoder.tokenize(frames)
        bare = torch.nn.functional.conv2d(
            frames["features"], encoder.patch_embed["proj"].weight, stride=PATCH
        )
        bare = bare.flatten(2).transpose(1, 2) + encoder.patch_embed["proj"].bias
        want = sincos_positions(encoder.dim, grid)
        torch.testing.assert_close(tokens.x - bare, want, atol=1e-5, rtol=0)
        assert tokens.coords[MELS + 1].tolist() == [1, 1]


@pytest.mark.parametrize("times", [1, 4, 11])
def test_other_lengths(times):
    got = create().eval()({"features": features(1, times)})
    assert got.grid == (times, MELS)
    assert got.tokens.shape[1] == times * MELS


@pytest.mark.parametrize("shape", [(1, 1, 100, 128), (1, 1, 128, 64), (1, 3, 128, 128)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"takes \(B, 1, a multiple of 16, 128\)"):
        create()({"features": torch.zeros(shape)})


def test_a_patch_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="128 mel bins must be multiples of patch_size 24"):
        create(patch_size=24)


def test_a_waveform_becomes_features_here():
    encoder = create().eval()
    waveform = torch.randn(2, encoder.preprocess.features.config.num_samples)
    made = encoder.preprocess.features(waveform)
    with torch.no_grad():
        want, got = encoder({"features": made}).pooled, encoder({"waveform": waveform}).pooled
    assert torch.equal(got, want)


def test_whole_lines_are_hidden_in_fine_tuning_only():
    keep = keep_lines(3, (10, 5), (0.2, 0.4), torch.device("cpu"))
    for tokens in keep.tolist():
        assert len({token // 5 for token in tokens}) == 8
        assert len({token % 5 for token in tokens}) == 3
        assert len(tokens) == len({*tokens}) == 24
    assert keep[0].tolist() != keep[1].tolist()

    encoder = create(mask_time=0.5, mask_mel=0.25)
    part, whole = encoder({"features": features()}), encoder.eval()({"features": features()})
    assert part.tokens.shape[1] == 4 * 6
    assert part.grid is None
    assert whole.grid == (TIMES, MELS)


def test_pictures_have_time_to_the_right_and_low_notes_at_the_bottom():
    encoder = create()
    sound = torch.full((1, 1, TIMES * PATCH, MELS * PATCH), -1.0)
    sound[..., 90:, :5] = 1.0  # late and low
    tokens = encoder.tokenize({"features": sound})
    picture = encoder.draw(tokens.targets)[0, ..., 0].float()
    assert picture.shape == (MELS * PATCH, TIMES * PATCH)
    assert picture[-5:, 90:].min() > picture[:-5].max()
    assert picture[-5:, :90].max() < picture[-5:, 90:].min()
    hidden = torch.zeros(1, TIMES * MELS, dtype=torch.bool)
    hidden[0, 1] = True  # the first moment, the second band from below
    grey = encoder.draw(tokens.targets, hidden)[0, ..., 0]
    assert (grey[-2 * PATCH : -PATCH, :PATCH] == 128).all()
    assert (grey == 128).sum() == PATCH * PATCH


@pytest.mark.parametrize("decoder", ["std", "swin"])
def test_pretraining_on_tones_lowers_the_loss(decoder):
    encoder = create(dim=64, heads=4)
    options = {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 2}
    objective = MAE(MAEConfig(decoder=decoder, norm_pix_loss=False, **options), encoder)
    parameters = [*encoder.parameters(), *objective.parameters()]
    losses = []
    for _ in range(25):
        batch = {"features": tones(4), "noise": torch.rand(4, objective.num_tokens)}
        loss = objective(encoder, batch).total
        losses.append(loss.item())
        trained = [p for p in parameters if p.requires_grad]
        for p, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            p.data -= 2e-3 * gradient.sign()
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert [len(picture) for _, picture in objective.pictures(encoder, batch)] == [130] * 3


def foreign(encoder, objective):
    """A checkpoint as Lightning writes it."""
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    for name, value in objective.state_dict().items():
        state["decoder." + name.replace("decoder_blocks", "blocks")] = value
    return {name: value for name, value in state.items() if "fc_norm" not in name}


@pytest.fixture
def checkpoint():
    encoder = zoo.create("bird-mae", seed=1, **TINY)
    objective = MAE(MAEConfig(decoder_dim=16, decoder_depth=1, decoder_heads=2), encoder)
    return encoder, foreign(encoder, objective)


def same(encoder, other):
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())


def test_lightning_checkpoints_load_whatever_else_they_hold(checkpoint, tmp_path):
    encoder, state = checkpoint
    content = {
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"step": 3}}}],
        "hyper_parameters": argparse.Namespace(when=datetime.timedelta(days=1)),
        "callbacks": {"checkpoint": datetime.date(2025, 1, 1)},
    }
    torch.save(content, tmp_path / "bird.ckpt")
    loaded = zoo.load("bird-mae", weights=tmp_path / "bird.ckpt", **TINY)
    assert same(encoder, loaded)
    report = loaded.load_report
    assert set(report.new) == {"fc_norm.weight", "fc_norm.bias"}
    assert len(report.loaded) + len(report.ignored) == len(state)
    assert {*report.ignored.values()} == {"head of a pretraining objective"}


def test_what_a_pickle_would_call_is_never_called(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'harm')!r}, 'w')",))

    torch.save({"state_dict": {"encoder.cls_token": Hostile()}}, tmp_path / "x.ckpt")
    with pytest.raises(WeightsError, match=r"x\.ckpt: holds more than a state dict of tensors"):
        zoo.load("bird-mae", weights=tmp_path / "x.ckpt", **TINY)
    assert not (tmp_path / "harm").exists()


def test_fine_tuned_and_refined_files(checkpoint, tmp_path):
    encoder, state = checkpoint
    own = encoder.state_dict()
    files = {
        "classifier": own | {"head.weight": torch.zeros(3, 24), "head.bias": torch.zeros(3)},
        "prototypes": {n: v for n, v in own.items() if not n.startswith("fc_norm")}
        | {"ppnet.last_layer.bias": torch.zeros(3)},
        # A fine-tuned AudioMAE has no final norm.
        "audiomae": {n: v for n, v in own.items() if not n.startswith("norm")},
        "refined": {n: v + 1 for n, v in state.items() if n.startswith("encoder.")}
        | {f"encoder_ema.{n}": v for n, v in own.items() if not n.startswith("fc_norm")}
        | {"projectors.0.weight": torch.zeros(3)},
    }
    left_out = {"classifier": 2, "prototypes": 1, "audiomae": 0, "refined": len(own) - 2 + 1}
    for name, file in files.items():
        path = tmp_path / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in file.items()}, path)
        loaded = zoo.load("bird-mae", weights=path, **TINY)
        assert same(encoder, loaded), name
        assert len(loaded.load_report.ignored) == left_out[name]
        assert len(loaded.load_report.loaded) + left_out[name] == len(file)


@pytest.mark.parametrize("lost", ["blocks.1.norm1.bias", "norm.bias", "cls_token"])
def test_missing_tensors_are_named(checkpoint, tmp_path, lost):
    state = checkpoint[0].state_dict()
    del state[lost]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=lost):
        zoo.load("bird-mae", weights=tmp_path / "x.safetensors", **TINY)


def test_foreign_tensors_are_named(checkpoint, tmp_path):
    save_file(checkpoint[1] | {"teacher.x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"'teacher.x' is no tensor of the layout bird-mae"):
        zoo.load("bird-mae", weights=tmp_path / "x.safetensors", **TINY)


def test_weights_for_another_length_get_positions_of_their_own(checkpoint, tmp_path):
    """Sizes of a spectrogram are constants of the preprocessing, so a shorter file is another."""
    short = create()
    save_file(short.state_dict(), tmp_path / "x.safetensors")
    loaded = zoo.load("bird-mae", weights=tmp_path / "x.safetensors", **TINY)
    assert loaded.load_report.resized == ("pos_embed",)
    assert torch.equal(loaded.pos_embed, checkpoint[0].pos_embed)


def test_a_missing_licence_is_said_once(checkpoint, tmp_path, caplog):
    zoo.models._say_unlicensed.cache_clear()
    save_file(checkpoint[0].state_dict(), tmp_path / "x.safetensors")
    with caplog.at_level(logging.WARNING, logger="zoo"):
        for _ in range(2):
            zoo.load("bird-mae", weights=tmp_path / "x.safetensors", **TINY)
    said = [record.getMessage() for record in caplog.records if record.name == "zoo"]
    assert len(said) == 1
    assert said[0].startswith("bird-mae-base: its authors state no licence")
    shared = {n: {w.may_be_shared for w in card(n).weights} for n in ("bird-mae", "audiomae")}
    assert shared == {"bird-mae": {False}, "audiomae": {True}}


def test_cards_recipes_are_the_papers():
    bird, audio = card("bird-mae").recipe, card("audiomae").recipe
    assert math.isclose(bird.train.peak_lr, 4e-4)
    assert math.isclose(bird.train.warmup / bird.train.epochs, 0.09375)
    assert math.isclose(audio.train.peak_lr, 4e-4)
    assert audio.objective["decoder"] == "swin"
