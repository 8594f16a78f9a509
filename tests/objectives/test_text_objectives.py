"""Objectives of text on a tiny encoder: what is predicted from what, and that it can be learned."""

import math

import pytest
import torch
from zoo.modalities.contracts import Tokens
from zoo.modalities.vocabulary import WriterEncoder
from zoo.objectives.biphasic import Biphasic, BiphasicConfig
from zoo.objectives.causal_lm import CausalLM, CausalLMConfig, next_tokens
from zoo.objectives.contrastive_losses import supervised_contrastive
from zoo.objectives.dupmae import DupMAE, DupMAEConfig, visible
from zoo.objectives.replaced_token import ReplacedToken, ReplacedTokenConfig
from zoo.objectives.span_denoising import SpanDenoising, SpanDenoisingConfig
from zoo.objectives.supervised_contrastive import (
    SupervisedContrastive,
    SupervisedContrastiveConfig,
)
from zoo.objectives.text_code import TextCode, TextCodeConfig
from zoo.objectives.ul2 import UL2, UL2Config
from zoo.registry.build import check_pairing

import zoo
from zoo.errors import DataError, UsageError

TEXTS = ("def f(x):\n    return x + 1\n", "class A:\n    y = 2\n", "for i in range(9): pass\n")


@pytest.fixture(scope="module")
def encoder():
    made = zoo.create("stdlib-mlm", seed=0, dim=24, depth=2, heads=2, hidden=32, vocab_size=300)
    made.preprocess.fit([{"text": text * 5} for text in TEXTS])
    return made.eval()


def batch_of(encoder, objective, texts=TEXTS, seed=0, **sample):
    views = []
    for number, text in enumerate(texts):
        generator = torch.Generator().manual_seed(seed + number)
        given = {"text": text, **{name: values[number] for name, values in sample.items()}}
        views.append(objective.prepare(given, encoder.preprocess, generator))
    return encoder.preprocess.collate(views)


def learns(encoder, objective, batch, steps=15):
    """The loss before and after a few steps on one batch."""
    torch.manual_seed(0)
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    parameters = [*encoder.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        total = objective(encoder, batch).total
        total.backward()
        optimizer.step()
        objective.after_step(encoder)
        losses.append(total.item())
    encoder.load_state_dict(state)
    return losses[0], losses[-1]


OBJECTIVES = [
    (CausalLM, CausalLMConfig()),
    (Biphasic, BiphasicConfig(causal_steps=3)),
    (
        ReplacedToken,
        ReplacedTokenConfig(generator_dim=16, generator_depth=1, generator_heads=2),
    ),
    (DupMAE, DupMAEConfig(decoder_heads=2, decoder_hidden=32, max_length=96)),
    (TextCode, TextCodeConfig(output_dim=8)),
    (
        SupervisedContrastive,
        SupervisedContrastiveConfig(hidden_dim=16, output_dim=8),
    ),
]


@pytest.mark.parametrize(("kind", "config"), OBJECTIVES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_batch_is_learned(encoder, kind, config):
    objective = kind(config, encoder)
    facts = [{"query": f"what {text} does"} for text in TEXTS] * 2
    batch = batch_of(encoder, objective, TEXTS * 2, label=[0, 1, 2, 0, 1, 2], facts=facts)
    assert objective.count(batch) > 0
    first, last = learns(encoder, objective, batch)
    assert last < first - 0.01
    assert math.isfinite(last)


def test_causal_sees_nothing_of_the_future(encoder):
    objective = CausalLM(CausalLMConfig(), encoder)
    batch = batch_of(encoder, objective)
    assert objective.count(batch) == len(next_tokens(batch["lengths"]))
    assert next_tokens(torch.tensor([3, 1, 2])).tolist() == [0, 1, 4]
    changed = batch | {"ids": batch["ids"].clone()}
    cut = int(batch["lengths"][0]) - 4
    changed["ids"][cut + 1 : int(batch["lengths"][0])] = 7
    states = [encoder.encode(encoder.tokenize(one), causal=True).x[0] for one in (batch, changed)]
    torch.testing.assert_close(states[0][: cut + 1], states[1][: cut + 1])
    assert not torch.allclose(states[0][cut + 1], states[1][cut + 1])


def test_biphasic_changes_its_loss_after_so_many_updates(encoder):
    objective = Biphasic(BiphasicConfig(causal_steps=2), encoder)
    causal = CausalLM(CausalLMConfig(), encoder)
    causal.head.load_state_dict(objective.head.state_dict())
    batch = batch_of(encoder, objective)
    clean = batch | {"ids": batch["clean_ids"]}
    for step in range(3):
        losses = objective(encoder, batch)
        assert float(losses.metrics["causal"]) == (step < 2)
        assert objective.count(batch) == (
            causal.count(batch) if step < 2 else len(batch["target_ids"])
        )
        if step < 2:
            torch.testing.assert_close(losses.total, causal(encoder, clean).total)
        objective.after_step(encoder)
    assert int(objective.state_dict()["updates"]) == 3  # a resumed run knows its phase


def test_replaced_tokens_are_judged_one_by_one(encoder):
    """A generator that is always right replaces nothing."""
    config = ReplacedTokenConfig(generator_dim=16, generator_depth=1, generator_heads=2)
    objective = ReplacedToken(config, encoder)
    batch = batch_of(encoder, objective)

    def perfect(encoder, batch):
        return torch.nn.functional.one_hot(batch["target_ids"], 300).float() * 1e4

    objective.predict = perfect
    torch.nn.init.zeros_(objective.verdict.weight)
    torch.nn.init.constant_(objective.verdict.bias, -9.0)  # says "original" of everything
    losses = objective(encoder, batch)
    assert losses.metrics["found"] == 1.0
    assert losses.parts["encoder"] < 1e-3


def test_decoder_rows_never_see_themselves():
    words = torch.tensor([-1, *[i // 2 for i in range(40)], -1])
    seen = visible(words, 0.5, torch.Generator().manual_seed(0))
    assert not seen.diagonal().any()
    others = ~torch.eye(len(words), dtype=torch.bool)
    assert 0.45 < (seen | ~others)[:, 1:-1][others[:, 1:-1]].float().mean() < 0.6
    assert seen[1:, 0].all()  # the vector of the text is always there


def test_a_text_too_long_for_the_decoder_is_named(encoder):
    config = DupMAEConfig(decoder_heads=2, decoder_hidden=8, max_length=4)
    objective = DupMAE(config, encoder)
    with pytest.raises(DataError, match=r"set objective\.max_length"):
        batch_of(encoder, objective)


def test_classes_without_a_partner_do_not_count():
    vectors = torch.nn.functional.normalize(torch.randn(5, 4), dim=-1)
    labels, scale = torch.tensor([0, 0, 1, 1, 7]), torch.tensor(5.0)
    got = supervised_contrastive(vectors, labels, scale)
    logits = (vectors @ vectors.T * scale).fill_diagonal_(float("-inf")).log_softmax(1)
    want = -(logits[0, 1] + logits[1, 0] + logits[2, 3] + logits[3, 2]) / 4
    torch.testing.assert_close(got, want)
    alone = supervised_contrastive(vectors, torch.arange(5), scale)
    assert alone == 0.0


def test_supervised_contrast_needs_labels(encoder):
    objective = SupervisedContrastive(SupervisedContrastiveConfig(), encoder)
    with pytest.raises(DataError, match="without a label"):
        batch_of(encoder, objective)


def test_text_and_code_are_read_apart(encoder):
    objective = TextCode(TextCodeConfig(output_dim=None), encoder)
    facts = [{"query": f"number {number}"} for number in range(3)]
    batch = batch_of(encoder, objective, facts=facts)
    texts = torch.from_numpy(encoder.embed([fact["query"] for fact in facts]))
    codes = torch.from_numpy(encoder.embed(list(TEXTS)))
    similarity = torch.nn.functional.cosine_similarity(texts, codes).mean()
    torch.testing.assert_close(objective(encoder, batch).metrics["similarity"], similarity)
    with pytest.raises(DataError, match="no `query`"):
        batch_of(encoder, objective)


class Writer(WriterEncoder):
    """Reads by a mean, writes from it and from the last id: the least that has a decoder."""

    modality = "code"
    decoder_start_id = 0

    def __init__(self, preprocess):
        super().__init__()
        self.dim, self.vocab_size, self.mask_id, self.ordinary = 8, 340, 3, range(4, 300)
        self.sentinels, self.max_length = range(339, 299, -1), 64
        self.embedding = torch.nn.Embedding(340, 8)
        self.preprocess = preprocess

    def tokenize(self, batch):
        return Tokens(x=self.embedding(batch["ids"]).unsqueeze(0), lengths=batch["lengths"])

    def encode(self, tokens):
        return tokens

    def pool(self, tokens):
        return torch.stack([x.mean(0) for x in tokens.x[0].split(tokens.lengths.tolist())])

    def decode(self, features, batch):
        lengths = batch["decoder_lengths"]
        read = self.embedding(batch["decoder_ids"])
        return (read + features.pooled.repeat_interleave(lengths, 0)).unsqueeze(0)

    def logits(self, hidden):
        return hidden @ self.embedding.weight.T


@pytest.mark.parametrize(
    ("kind", "config"), [(SpanDenoising, SpanDenoisingConfig()), (UL2, UL2Config())]
)
def test_what_is_read_and_written_makes_up_the_text(encoder, kind, config):
    writer = Writer(encoder.preprocess)
    objective = kind(config, writer)
    for seed in range(40):
        ids = encoder.preprocess(TEXTS[0])["ids"]
        view = objective.views({"ids": ids}, torch.Generator().manual_seed(seed))
        read, targets = view["ids"].tolist(), view["decoder_targets"].tolist()
        assert view["decoder_ids"].tolist() == [0, *targets[:-1]]
        assert (read[0], read[-1], targets[-1]) == (int(ids[0]), int(ids[-1]), int(ids[-1]))
        kept = [i for i in (*read[1:-1], *targets[:-1]) if i < 300]
        assert sorted(kept) == sorted(ids[1:-1].tolist())
    batch = batch_of(writer, objective)
    assert objective.count(batch) == int(batch["decoder_lengths"].sum())
    first, last = learns(writer, objective, batch, steps=30)
    assert last < first - 0.01


def test_ul2_tells_the_mode_and_mixes_as_asked(encoder):
    objective = UL2(UL2Config(mode_ids=(290, 291, 292)), Writer(encoder.preprocess))
    ids = torch.arange(4, 204)
    modes = [
        int(objective.views({"ids": ids}, torch.Generator().manual_seed(seed))["ids"][0])
        for seed in range(600)
    ]
    shares = [modes.count(mode) / len(modes) for mode in (290, 291, 292)]
    assert shares == pytest.approx([0.8 / 3, 1.6 / 3, 0.2], abs=0.06)


@pytest.mark.parametrize("objective", ["causal_lm", "span_denoising", "ul2", "biphasic"])
def test_pairs_that_cannot_work_are_refused(objective):
    with pytest.raises(UsageError, match="needs"):
        check_pairing({"name": "vit"}, {"name": objective})


def test_a_text_may_need_more_sentinels_than_there_are(encoder):
    writer = Writer(encoder.preprocess)
    writer.max_length = 512
    with pytest.raises(ValueError, match="texts of 512 tokens need 85 sentinels, the tokenizer"):
        UL2(UL2Config(), writer)
    assert SpanDenoising(SpanDenoisingConfig(), writer).sentinels[0] == 339


def test_an_encoder_without_a_decoder_cannot_write():
    with pytest.raises(UsageError, match="a decoder that writes token ids"):
        check_pairing({"name": "code"}, {"name": "span_denoising"})
    check_pairing({"name": "code"}, {"name": "causal_lm"})
