import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as _Tokenizer
from zoo.modalities.code.codec import CodeCodec
from zoo.modalities.code.functions import python_functions
from zoo.modalities.code.preprocess import CodePreprocess, CodePreprocessConfig
from zoo.modalities.code.tokenizer import SPECIAL_TOKENS, Tokenizer

import zoo
from zoo.errors import DataError, UsageError

TEXTS = [
    "def f(x):\n    return x + 1\n",
    "class A:\n\tdef g(self, *, naïve='é'):\n\t\tpass\n",
    "x",
    "for i in range(10):\n    print(i)\n" * 8,
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 320)


@pytest.fixture(params=[("rotary", "mean"), ("alibi", "first_last")], ids="-".join)
def encoder(request):
    torch.manual_seed(0)
    position, pool = request.param
    encoder = zoo.create("stdlib-mlm", position=position, pool=pool, dim=48, depth=2, heads=6)
    encoder.preprocess.fit([{"text": text} for text in TEXTS])
    return encoder.eval()


def test_round_trip_is_exact(tokenizer):
    hostile = "\ttab  spaces\r\n\x00 <mask> </s> 🦜 \N{COMBINING ACUTE ACCENT}"
    for text in [*TEXTS, hostile, ""]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_text_gives_no_special_ids(tokenizer):
    assert min(tokenizer.encode("<mask> <s> </s> <pad>")) >= len(SPECIAL_TOKENS)


def test_training_is_deterministic_and_stored(tokenizer):
    assert Tokenizer.train(TEXTS, 320).to_bytes() == tokenizer.to_bytes()
    again = Tokenizer.from_bytes(tokenizer.to_bytes())
    assert again.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
    assert tokenizer.vocab_size <= 320


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"model": null}'])
def test_broken_tokenizer_files(data):
    with pytest.raises((DataError, UnicodeDecodeError)):
        Tokenizer.from_bytes(data)


def preprocess(vocab_size=320, **ids):
    return CodePreprocess(CodePreprocessConfig(**ids), vocab_size=vocab_size)


def test_sentinels_are_never_text():
    own = preprocess(sentinel_ids=(300, 320))
    own.fit([{"text": text} for text in TEXTS])
    assert own.config.sentinels == range(319, 299, -1)
    assert own.tokenizer.vocab_size <= 300
    assert own.config.ordinary(320) == range(4, 300)
    inner = _Tokenizer.from_str(own.tokenizer.to_bytes().decode())
    inner.add_tokens([f"<extra_id_{number}>" for number in range(5)])  # plain ones, as text has
    size = inner.get_vocab_size()
    assert inner.encode("<extra_id_3>").ids == [size - 2]
    published = preprocess(sentinel_ids=(size - 5, size))
    published.load_assets({"tokenizer.json": inner.to_str().encode()})
    assert max(published("x = '<extra_id_3>'")["ids"]) < size - 5
    clash = preprocess(sentinel_ids=(size - 6, size))
    with pytest.raises(DataError, match=rf"id {size - 6} should be a sentinel, but is '"):
        clash.load_assets({"tokenizer.json": inner.to_str().encode()})


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ({"sentinel_ids": (300, 330)}, "go up to 329, vocab_size is 320"),
        ({"sentinel_ids": (300, 300)}, "are none"),
        ({"sentinel_ids": (2, 30)}, "overlap"),
        ({"sentinel_ids": (299, 320), "ordinary_ids": (4, 300)}, "overlap ordinary_ids"),
        ({"sentinel_ids": (310, 320), "ordinary_ids": (4, 300), "mask_id": 319}, "start, end or"),
    ],
)
def test_sentinels_that_cannot_be(ids, said):
    with pytest.raises(ValueError, match=said):
        preprocess(**ids)


def test_no_tokenizer_yet_is_said():
    encoder = zoo.create("stdlib-mlm", dim=24, depth=1, heads=2)
    assert not encoder.preprocess.ready
    with pytest.raises(UsageError, match="no tokenizer yet"):
        encoder.embed(["x = 1"])


def test_long_texts_are_cut_and_counted(encoder, caplog):
    found = encoder.preprocess("x = 1\n" * 1000)
    ids = found["ids"]
    assert found["cut"].tolist() == [1]
    encoder.embed(["x = 1"])
    assert not caplog.records
    encoder.embed(["x = 1", "x = 1\n" * 1000, "y = 2\n" * 1000])
    assert "2 of 3 samples are longer" in caplog.text
    assert len(ids) == encoder.preprocess.config.max_length
    assert (ids[0], ids[-1]) == (Tokenizer.start_id, Tokenizer.end_id)


def test_packed_equals_padded_and_alone(encoder):
    samples = [encoder.preprocess(text) for text in TEXTS]
    packed = encoder.preprocess.collate(samples)
    longest = max(len(sample["ids"]) for sample in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.int64)
    valid = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, sample in enumerate(samples):
        ids[row, : len(sample["ids"])] = sample["ids"]
        valid[row, : len(sample["ids"])] = True
    with torch.no_grad():
        a, b = encoder(packed), encoder({"ids": ids, "valid": valid})
        alone = torch.cat([encoder(encoder.preprocess.collate([s])).pooled for s in samples])
        dense = encoder({"ids": samples[0]["ids"][None]})
    torch.testing.assert_close(a.tokens[0], b.tokens[valid], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a.pooled, b.pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a.pooled, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a.pooled[:1], dense.pooled, rtol=1e-5, atol=1e-5)


def test_order_of_texts_does_not_matter(encoder):
    there = encoder.embed(TEXTS, progress=False)
    back = encoder.embed(TEXTS[::-1], batch_size=3, progress=False)[::-1]
    np.testing.assert_allclose(there, back, rtol=1e-5, atol=1e-5)


def test_collate_moves_indices(encoder):
    samples = [
        {"ids": torch.tensor([1, 9, 2]), "target_index": torch.tensor([1])},
        {"ids": torch.tensor([1, 8, 7, 2]), "target_index": torch.tensor([1, 2])},
    ]
    batch = encoder.preprocess.collate(samples)
    assert batch["ids"][batch["target_index"]].tolist() == [9, 8, 7]
    assert batch["lengths"].tolist() == [3, 4]


def test_codec_round_trip():
    codec = CodeCodec()
    sample = {"text": TEXTS[1], "label": 3, "facts": {"b": [1], "a": "x"}}
    assert codec.decode(codec.encode(sample)) == sample


@pytest.mark.parametrize(
    "members",
    [{}, {"png": b""}, {"txt": b"\xff"}, {"txt": b"x", "json": b"{"}, {"py": b"x" * (5 << 20)}],
)
def test_broken_samples(members):
    with pytest.raises(DataError):
        CodeCodec().decode(members)


@pytest.mark.parametrize("raw", [b"\xff", 3, {"text": 3}])
def test_unusable_raw_input(raw, encoder):
    with pytest.raises(DataError):
        encoder.preprocess(raw)


def test_paths_are_files_and_strings_are_text(encoder, tmp_path):
    path = tmp_path / "x.py"
    path.write_text(TEXTS[0])
    ids = [encoder.preprocess(raw)["ids"] for raw in (path, TEXTS[0], TEXTS[0].encode())]
    assert all(torch.equal(ids[0], other) for other in ids)
    with pytest.raises(DataError, match=r"none\.py: cannot read"):
        encoder.preprocess(tmp_path / "none.py")


def test_functions_of_a_file():
    source = "import a\n\n@deco\ndef f(x):\n    def inner(): pass\n    return x\n\nclass C:\n"
    source += "    async def g(self):\n        return 1\n\nif True:\n    def h(): return 2\n"
    found = {function.name: function.source for function in python_functions(source)}
    assert list(found) == ["f", "C.g", "h"]
    assert found["f"].startswith("@deco\ndef f(x):")
    assert found["C.g"] == "async def g(self):\n    return 1\n"
