"""wav2vec 2.0: masks, negatives, padding, checkpoints, cooling, and that it learns."""

import copy
from itertools import pairwise, product
from re import split

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity
from zoo.hub.convert import convert, detect
from zoo.modalities.audio.codec import AudioCodec
from zoo.modalities.audio.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from zoo.modalities.audio.waveform import WaveformPreprocessConfig
from zoo.objectives.wav2vec2 import Wav2Vec2Config as TaskConfig
from zoo.objectives.wav2vec2 import Wav2Vec2Objective, contrast, draw_negatives, draw_spans

import zoo
from zoo.errors import WeightsError

SMALL = {
    "dim": 24,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 32,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 4, 4),
    "conv_stride": (5, 4, 4),  # 80 samples a frame
    "pos_conv_kernel": 8,
    "pos_conv_groups": 4,
}
TASK = {"num_negatives": 5, "codes": 8, "code_dim": 8, "projection_dim": 8, "mask_length": 3}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def build():
    def build(task=(), **changes):
        torch.manual_seed(0)
        encoder = Wav2Vec2(Wav2Vec2Config(**SMALL | changes), WaveformPreprocessConfig())
        return encoder, Wav2Vec2Objective(TaskConfig(**TASK | dict(task)), encoder)

    return build


def tones(*sizes):
    """Clips of two tones, each with its own phase."""
    clips = []
    for i, size in enumerate(sizes):
        time = torch.arange(size) / 16_000
        first = torch.sin(2 * torch.pi * (300 + 200 * (i % 2)) * time + i)
        clips.append(first * (time % 0.05 < 0.025) + torch.sin(5000 * time) * (time % 0.05 > 0.03))
    return clips


def batch_of(encoder, objective, clips, seed=0):
    chance = generator(seed)
    samples = [objective.views(encoder.preprocess(clip), chance) for clip in clips]
    return encoder.preprocess.collate(samples)


@settings(deadline=None, max_examples=60, database=None)
@given(frames=st.integers(0, 200), prob=st.floats(0.05, 0.95), length=st.integers(1, 12))
def test_spans_and_negatives(frames, prob, length):
    index = draw_spans(frames, prob, length, generator())
    if frames < 2:
        assert not len(index)
        return
    assert len(index) >= 2
    assert index.unique().tolist() == index.tolist()
    assert 0 <= index.min() <= index.max() < frames
    runs = (index.diff() > 1).nonzero().flatten().tolist()
    ends = [0, *(i + 1 for i in runs), len(index)]
    assert min(b - a for a, b in pairwise(ends)) >= min(length, frames // 2)
    negatives = draw_negatives(index, 7, generator())
    assert negatives.shape == (len(index), 7)
    assert torch.isin(negatives, index).all()
    assert not (negatives == index.unsqueeze(1)).any()


def test_half_of_a_long_clip_is_masked():
    """0.65 begun at random, overlaps allowed: 49 % (fairseq's documentation)."""
    share = [len(draw_spans(500, 0.65, 10, generator(seed))) / 500 for seed in range(50)]
    assert sum(share) / 50 == pytest.approx(0.49, abs=0.02)


def test_every_negative_is_drawn_equally():
    index = torch.tensor([2, 3, 5, 9])
    drawn = draw_negatives(index, 30_000, generator())
    for row, own in zip(drawn, index.tolist(), strict=True):
        others = [i for i in index.tolist() if i != own]
        shares = [(row == i).float().mean().item() for i in others]
        assert shares == pytest.approx([1 / 3] * 3, abs=0.02)


def test_views_are_pure(build):
    encoder, objective = build()
    clip = encoder.preprocess(tones(1600)[0])
    first, again = (objective.views(clip, generator(3)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["target_index"], objective.views(clip, generator(4))["target_index"]
    )


def test_contrast_equals_its_definition():
    chance = generator()
    predicted, target = torch.randn(2, 6, 4, generator=chance)
    codes = torch.tensor([[0, 1], [0, 1], [2, 0], [1, 1], [2, 1], [3, 3]])
    rows = torch.tensor([[1, 2], [0, 3], [5, 4], [2, 2], [0, 1], [3, 4]])
    loss, _ = contrast(predicted, target, codes, rows, TaskConfig())
    want = 0.0
    for i in range(6):
        others = [j for j in rows[i].tolist() if codes[j].tolist() != codes[i].tolist()]
        logits = cosine_similarity(predicted[i], target[[i, *others]], dim=-1) / 0.1
        want -= logits.log_softmax(0)[0] / 6
    torch.testing.assert_close(loss, want)


@pytest.mark.parametrize("norm", [("group", False), ("layer", True)])
def test_padding_changes_no_number(build, norm):
    """The stem's group norm would, and attention and positions too."""
    encoder, objective = build(conv_norm=norm[0], norm_first=norm[1])
    encoder.eval()
    clips = tones(2000, 977, 1600, 160)
    together = encoder(encoder.preprocess.collate([encoder.preprocess(clip) for clip in clips]))
    alone = [encoder(encoder.preprocess.collate([encoder.preprocess(clip)])) for clip in clips]
    assert together.lengths.tolist() == [one.tokens.shape[1] for one in alone]
    for pooled, one in zip(together.pooled, alone, strict=True):
        torch.testing.assert_close(pooled, one.pooled[0], atol=2e-5, rtol=1e-4)
    tokens = torch.cat([one.tokens[0] for one in alone])
    torch.testing.assert_close(together.tokens[0], tokens, atol=2e-5, rtol=1e-4)

    # The loss of a padded batch is the mean of its clips' losses, weighed by their targets.
    objective.eval()
    whole = batch_of(encoder, objective, clips)
    chance = generator()
    parts = [objective.views(encoder.preprocess(clip), chance) for clip in clips]
    parts = [encoder.preprocess.collate([part]) for part in parts]
    counts = [objective.count(part) for part in parts]
    assert objective.count(whole) == sum(counts)
    losses = [objective(encoder, part).parts["contrastive"] for part in parts]
    want = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(objective(encoder, whole).parts["contrastive"], want)


def test_short_clips_have_no_target(build):
    encoder, objective = build()
    batch = batch_of(encoder, objective, tones(50))
    assert objective.count(batch) == 0
    losses = objective(encoder, batch)
    assert losses.parts["contrastive"].item() == 0
    losses.total.backward()


def test_every_parameter_gets_a_gradient(build):
    """With layer drop too: several processes wait for each one."""
    encoder, objective = build(layer_drop=0.9)
    objective(encoder, batch_of(encoder, objective, tones(1600, 1600))).total.backward()
    for module in (encoder, objective):
        assert [name for name, p in module.named_parameters() if p.grad is None] == []


def test_the_stem_learns_slower(build):
    grads = []
    for scale in (1.0, 0.1):
        encoder, objective = build(task={"stem_grad_scale": scale})
        batch = batch_of(encoder, objective, tones(1600, 1600))
        objective.eval()(encoder, batch).total.backward()
        grads.append(encoder.feature_extractor.conv_layers[1].conv.weight.grad)
    torch.testing.assert_close(grads[1], grads[0] / 10)


def test_codes_cool_with_the_updates(build):
    _, objective = build(task={"gumbel_decay": 0.5})
    seen = []
    for _ in range(4):
        seen.append(objective.gumbel_temperature.item())
        objective.after_step()
    assert seen == [2.0, 1.0, 0.5, 0.5]
    other = copy.deepcopy(objective)
    other.updates.zero_()
    other.load_state_dict(objective.state_dict())
    assert other.updates.item() == 4


def test_it_learns_tones(build):
    encoder, objective = build(task={"penalty_weight": 0.0, "stem_grad_scale": 1.0})
    parameters = [*encoder.parameters(), *objective.parameters()]
    clips, seen = tones(*[1200] * 4), []
    for step in range(60):
        losses = objective(encoder, batch_of(encoder, objective, clips, seed=step))
        seen.append(losses.parts["contrastive"].item())
        gradients = torch.autograd.grad(losses.total, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 2e-3 * gradient.sign()
        objective.after_step()
    assert sum(seen[-10:]) < 0.75 * sum(seen[:10])


TINY = {f"encoder.{name}": list(v) if isinstance(v, tuple) else v for name, v in SMALL.items()} | {
    **{f"objective.{name}": value for name, value in TASK.items()},
    "encoder.layer_drop": 0.3,
    "preprocess.crop_seconds": 0.1,
    "train.batch_size": 8,
    "train.accumulate": 2,
    "train.steps": 6,
    "train.warmup": 1,
    "train.log_every": 1,
    "train.save_every": 3,
    "loader.workers": 0,
}


def test_pretraining_from_shards(tmp_path):
    """The engine's loop: clips of several lengths and rates, micro-batches, export, reload."""
    codec = AudioCodec()
    items = []
    for i, clip in enumerate(tones(*range(1400, 2600, 100))):
        raw = {"audio": clip.numpy(), "rate": 16_000 if i % 3 else 22_050}
        items.append((f"{i:03d}", codec.encode(raw)))
    zoo.write_shards(items, tmp_path / "shards")
    run = zoo.pretrain("wav2vec2-base", tmp_path / "shards", tmp_path / "a", TINY, progress=False)
    assert {"contrastive", "diversity", "penalty", "top1", "temperature"} <= run.metrics[-1].keys()
    temperatures = [row["temperature"] for row in run.metrics]
    assert temperatures == sorted(temperatures, reverse=True)
    clips = [clip.numpy() for clip in tones(1600, 900)]
    features = zoo.load(run.folder).embed(clips)
    assert features.shape == (2, SMALL["dim"])
    assert np.array_equal(features, zoo.load(run.folder / "export").embed(clips))


def foreign(state, layout):
    """Zoo's encoder tensors under another library's names."""
    names = {
        "wav2vec2-transformers": [
            ("feature_", "wav2vec2.feature_"),
            ("pos_conv_embed.", "wav2vec2.encoder.pos_conv_embed."),
            ("blocks.", "wav2vec2.encoder.layers."),
            ("norm.", "wav2vec2.encoder.layer_norm."),
        ],
        "wav2vec2-torchaudio": [
            ("feature_projection.", "encoder.feature_projection."),
            ("pos_conv_embed.", "encoder.transformer.pos_conv_embed."),
            ("blocks.", "encoder.transformer.layers."),
            ("norm.", "encoder.transformer.layer_norm."),
        ],
    }[layout]
    out = {}
    for key, value in state.items():
        new = next((to + key.removeprefix(old) for old, to in names if key.startswith(old)), key)
        out[new] = value
    return out


@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize("layout", ["wav2vec2-transformers", "wav2vec2-torchaudio"])
def test_layouts(build, layout, old_names):
    encoder, _ = build()
    state = encoder.state_dict()
    file = foreign(state, layout)
    if old_names:
        file = {
            key.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): value
            for key, value in file.items()
        }
    assert detect(file) == layout
    found = convert(file)
    assert found.encoder.keys() == state.keys()
    assert not found.objective
    assert not found.extra
    with pytest.raises(WeightsError, match=f"'magic' is no tensor of the layout {layout}"):
        convert({"magic": torch.zeros(1)}, layout)


FAIRSEQ = """
mask_emb
feature_extractor.conv_layers.{0-2}.0.weight
feature_extractor.conv_layers.0.2.{weight,bias}
post_extract_proj.{weight,bias}
layer_norm.{weight,bias}
encoder.pos_conv.0.{bias,weight_g,weight_v}
encoder.layers.{0-1}.self_attn.{k,v,q,out}_proj.{weight,bias}
encoder.layers.{0-1}.{self_attn_layer_norm,fc1,fc2,final_layer_norm}.{weight,bias}
encoder.layer_norm.{weight,bias}
quantizer.vars
quantizer.weight_proj.{weight,bias}
project_q.{weight,bias}
final_proj.{weight,bias}
"""


def expanded(text):
    """Every key that lines with {a,b} and {0-2} stand for."""
    for line in text.split():
        parts = [
            [str(i) for i in range(int(p[0]), int(p[2]) + 1)] if p[1:2] == "-" else p.split(",")
            for p in split(r"[{}]", line)
        ]
        yield from map("".join, product(*parts))


@pytest.mark.parametrize("owner", ["", "w2v_encoder.w2v_model."])
def test_fairseq_layout(build, owner):
    """Names as fairseq's model class makes them (torchaudio's importer lists the same)."""
    encoder, objective = build()
    file = {owner + key: torch.zeros(0) for key in expanded(FAIRSEQ)}
    letters = {"w2v_encoder.proj.weight": torch.zeros(0)} if owner else {}
    assert detect(file) == "wav2vec2-fairseq"
    found = convert(file | letters)
    assert found.encoder.keys() == encoder.state_dict().keys()
    assert found.objective.keys() | {"updates"} == objective.state_dict().keys()
    assert found.extra.keys() == letters.keys()
