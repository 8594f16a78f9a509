"""MosaicBERT, ModernBERT and T5 forms: batches of every shape give the same numbers."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.modalities.attention import attention
from zoo.modalities.code.encoder import CodeEncoder, CodeEncoderConfig
from zoo.modalities.code.preprocess import CodePreprocessConfig
from zoo.modalities.code.t5 import T5, T5Config, T5Encoder
from zoo.modalities.packing import Packed

SMALL = {"vocab_size": 90, "dim": 24, "depth": 4, "heads": 3, "hidden": 20}
FORMS = {
    "mosaicbert": {"position": "alibi", "norm_first": False, "bias": True, "token_types": 2},
    "modernbert": {"window": 3, "global_every": 3, "rotary_base": 160_000.0},
    "alibi with windows": {"position": "alibi", "window": 2},
}


def make(form):
    torch.manual_seed(0)
    config = CodeEncoderConfig(**SMALL, **FORMS[form], init_std=0.3)
    return CodeEncoder(config, CodePreprocessConfig()).eval()


def t5(kind=T5, **options):
    torch.manual_seed(0)
    small = {"vocab_size": 90, "dim": 24, "depth": 2, "decoder_depth": 2, "heads": 3}
    config = T5Config(**small, head_dim=6, hidden=32, embed_dim=7, **options)
    model = kind(config, CodePreprocessConfig())
    for part in model.modules():
        if hasattr(part, "buckets"):
            torch.nn.init.normal_(part.weight)
    return model.eval()


ENCODERS = {form: make(form) for form in FORMS} | {"t5": t5(T5Encoder)}


@st.composite
def ragged(draw):
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    texts = [torch.randint(4, 90, (n,), generator=generator) for n in sizes]
    return texts, draw(st.sampled_from(["left", "right"]))


def padded(texts, side):
    longest = max(map(len, texts))
    ids = torch.zeros(len(texts), longest, dtype=torch.int64)
    valid = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        place = slice(0, len(text)) if side == "right" else slice(longest - len(text), None)
        ids[row, place], valid[row, place] = text, True
    return {"ids": ids, "valid": valid}


def packed(texts):
    return {"ids": torch.cat(texts), "lengths": torch.tensor([len(text) for text in texts])}


@pytest.mark.parametrize("form", ENCODERS)
@settings(deadline=None, max_examples=15, database=None)
@given(case=ragged())
def test_packed_equals_padded_on_either_side_and_alone(form, case):
    (texts, side), encoder = case, ENCODERS[form]
    with torch.no_grad():
        one, other = encoder(packed(texts)), encoder(padded(texts, side))
        alone = torch.cat([encoder(packed([text])).pooled for text in texts])
    states = (
        other.tokens if other.lengths is not None else other.tokens[padded(texts, side)["valid"]]
    )
    torch.testing.assert_close(one.tokens[0], states.view_as(one.tokens[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.pooled, other.pooled, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.pooled, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", ["packed", "padded"])
@pytest.mark.parametrize("form", FORMS)
def test_states_of_some_tokens_are_those_of_all(form, shape):
    encoder = make(form)
    texts = [torch.arange(4, 20), torch.arange(20, 25), torch.arange(30, 41)]
    batch, index = packed(texts), torch.tensor([0, 3, 4, 21, 31])  # none of the second text
    if shape == "padded":
        batch = padded(texts, "left")
        index = batch["valid"].flatten().nonzero().flatten()[index]
    found = encoder.states(batch, index)
    want = encoder.encode(encoder.tokenize(batch)).x.flatten(0, 1)[index]
    torch.testing.assert_close(found, want)
    weight = torch.randn_like(found)
    names, parameters = zip(*encoder.named_parameters(), strict=True)
    ours = torch.autograd.grad((found * weight).sum(), parameters)
    theirs = torch.autograd.grad((want * weight).sum(), parameters)
    for name, a, b in zip(names, ours, theirs, strict=True):
        scale = float(b.abs().max())
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-5 * max(1.0, scale), msg=name)


def test_states_of_no_token_still_reach_all_weights():
    encoder = make("mosaicbert")
    batch = packed([torch.arange(4, 20)])
    encoder.states(batch, torch.tensor([], dtype=torch.int64)).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    encoder.zero_grad()


def test_states_are_asked_for_in_order():
    with pytest.raises(ValueError, match="must ascend"):
        make("modernbert").states(packed([torch.arange(4, 20)]), torch.tensor([3, 1]))


@pytest.mark.parametrize("form", FORMS)
def test_causal_hides_what_comes_later(form):
    encoder, batch = make(form), packed([torch.arange(4, 24)])
    tokens = encoder.tokenize(batch)
    before = encoder.encode(tokens, causal=True).x
    tokens.x[:, 12:] = 0
    after = encoder.encode(tokens, causal=True).x
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_local_layers_do_not_see_beyond_their_window():
    encoder = make("modernbert")
    tokens = encoder.tokenize(packed([torch.arange(4, 44)]))
    x = torch.randn(1, 40, 24)
    far = x.clone()
    far[:, 20] += torch.randn(24)  # more of everything is what a norm takes away
    reached = []
    look, places = partial(attention, packed=Packed(tokens.lengths)), torch.arange(40)
    for attend in encoder._attends(look, places, places):
        changed = (encoder.blocks[1](x, attend) - encoder.blocks[1](far, attend)).abs().sum(-1)
        reached.append((changed[0] > 1e-6).nonzero().flatten().tolist())
    assert reached == [list(range(40)), list(range(17, 24))]


def test_alibi_has_no_longest_text():
    encoder = make("mosaicbert")
    assert "slopes" not in encoder.state_dict()
    texts = [torch.randint(4, 90, (700,)), torch.randint(4, 90, (9,))]
    with torch.no_grad():
        one, other = encoder(packed(texts)).tokens[0], encoder(padded(texts, "left"))
    valid = padded(texts, "left")["valid"]
    torch.testing.assert_close(one, other.tokens[valid], rtol=1e-4, atol=1e-4)


def test_token_types_change_the_embedding():
    encoder, batch = make("mosaicbert"), packed([torch.arange(4, 14)])
    zeros = torch.zeros(10, dtype=torch.int64)
    plain = encoder(batch).pooled
    torch.testing.assert_close(encoder(batch | {"types": zeros}).pooled, plain)
    assert not torch.allclose(encoder(batch | {"types": zeros + 1}).pooled, plain)


def test_dropout_is_for_training_only():
    config = CodeEncoderConfig(**SMALL, dropout=0.5, hidden_dropout=0.5)
    encoder, batch = CodeEncoder(config, CodePreprocessConfig()), packed([torch.arange(4, 14)])
    assert not torch.equal(encoder(batch).pooled, encoder(batch).pooled)
    encoder.eval()
    assert torch.equal(encoder(batch).pooled, encoder(batch).pooled)


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="window must be at least 1"):
        CodeEncoderConfig(window=0)


def test_t5_decoder_writes_from_left_to_right():
    model = t5()
    features = model(packed([torch.arange(4, 20), torch.arange(30, 34)]))
    reads = {"decoder_ids": torch.arange(40, 51), "decoder_lengths": torch.tensor([6, 5])}
    logits = model.logits(model.decode(features, reads))
    assert logits.shape == (1, 11, 90)
    later = dict(reads, decoder_ids=reads["decoder_ids"].clone())
    later["decoder_ids"][4] = 4
    changed = (logits - model.logits(model.decode(features, later)))[0].abs().sum(-1) > 1e-6
    assert changed.nonzero().flatten().tolist() == [4, 5]


def test_t5_reads_its_own_text_only():
    model = t5()
    reads = {"decoder_ids": torch.arange(40, 51), "decoder_lengths": torch.tensor([6, 5])}
    texts = [torch.arange(4, 20), torch.arange(30, 34)]
    before = model.decode(model(packed(texts)), reads)
    after = model.decode(model(packed([texts[0], texts[1] + 1])), reads)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_t5_vectors_have_length_one():
    model = t5(T5Encoder)
    pooled = model(packed([torch.arange(4, 20), torch.arange(30, 34)])).pooled
    assert pooled.shape == (2, model.embed_dim) == (2, 7)
    torch.testing.assert_close(pooled.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize("kind", [T5, T5Encoder])
def test_t5_trains(kind):
    model = t5(kind, dropout=0.1).train()
    found = model(packed([torch.arange(4, 20)]))
    loss = found.pooled.sum() + found.tokens.sum()
    if kind is T5:
        reads = {"decoder_ids": torch.arange(40, 46), "decoder_lengths": torch.tensor([6])}
        loss = loss + model.logits(model.decode(found, reads)).logsumexp(-1).sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
