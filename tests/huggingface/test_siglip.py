"""SigLIP's texts: a tokenizer in files of another repository, the same ids and vectors."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from zoo.modalities.vision.clip_texts import FileTokenizer, TokenizerOptions
from zoo.objectives.image_text import ImageText, ImageTextConfig
from zoo.registry import open_clip_models

import zoo
from zoo.errors import DataError, UsageError

open_clip = pytest.importorskip("open_clip")

WORDS = "a photo of two red blue green squares and circles on the white ground " * 3
TEXTS = ["A photo: of two RED squares!", "circles", "", "green_ground " * 9, "<b>&amp; white</b>"]
TINY = {
    "embed_dim": 16, "init_logit_bias": -10, "custom_text": True,
    "vision_cfg": {
        "image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16,
    },
    "text_cfg": {
        "context_length": 12, "vocab_size": 80, "width": 16, "heads": 2, "layers": 2,
        "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
        "hf_tokenizer_name": "somebody/words", "tokenizer_kwargs": {"clean": "canonicalize"},
    },
}  # fmt: skip
FACTS = {
    "url": "", "hf_hub": "somebody/tiny-siglip/", "mean": (0.5,) * 3, "std": (0.5,) * 3,
    "interpolation": "bicubic", "resize_mode": "squash",
}  # fmt: skip


@pytest.fixture(scope="module")
def files():
    """As SigLIP's: word pieces, an end that also fills up."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        [WORDS],
        trainers.UnigramTrainer(
            vocab_size=80, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
        ),
    )
    end = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", end)]
    )
    added = {"__type": "AddedToken", "content": "</s>", "special": True}
    config = {"pad_token": added, "tokenizer_class": "PreTrainedTokenizerFast"}
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
    }


@pytest.fixture
def published(monkeypatch, hub, files):
    """open_clip knows a small model, whose weights and tokenizer are in two repositories."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-siglip", TINY)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-siglip", {"web": FACTS})
    open_clip_models.rows.cache_clear()
    torch.manual_seed(0)
    options = {key: value for key, value in TINY.items() if key != "custom_text"}
    model = open_clip.CustomTextCLIP(**options).eval()
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    hub.add("somebody/tiny-siglip", {"open_clip_model.safetensors": save(weights)})
    hub.add("somebody/words", files)
    yield model
    open_clip_models.rows.cache_clear()


def theirs(files, folder, **options):
    """Ids as open_clip has transformers make them."""
    pytest.importorskip("transformers")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return open_clip.tokenizer.HFTokenizer(str(folder), context_length=12, **options)(TEXTS)


def test_ids_are_those_of_transformers(files, tmp_path):
    options = TokenizerOptions(repo="somebody/words", clean="canonicalize")
    ids = FileTokenizer(files, options, 12)(TEXTS)
    assert torch.equal(ids, theirs(files, tmp_path, clean="canonicalize"))
    assert ids.shape == (5, 12)
    assert (ids[1, -3:] == 1).all()


def test_a_separating_token_is_dropped(files, tmp_path):
    config = {**json.loads(files["tokenizer_config.json"]), "sep_token": "</s>"}
    both = {**files, "tokenizer_config.json": json.dumps(config).encode()}
    options = TokenizerOptions(repo="somebody/words", strip_sep_token=True)
    ids = FileTokenizer(both, options, 12)(TEXTS)
    assert torch.equal(ids, theirs(both, tmp_path, strip_sep_token=True))
    assert (ids != 1).all()


def test_load_brings_the_tokenizer(published, files, tmp_path):
    encoder = zoo.load("open-clip/tiny-siglip.web")
    assert not encoder.load_report.new
    ids = theirs(files, tmp_path, clean="canonicalize")
    with torch.no_grad():
        want = published.encode_text(ids, normalize=True)
        torch.testing.assert_close(encoder.encode_text(TEXTS, normalize=True), want)
    # It travels with what is trained from it, and a worker makes it anew.
    assert encoder.preprocess.assets() == files
    objective = ImageText(ImageTextConfig(loss="sigmoid"), encoder)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    sample = {"image": image, "text": TEXTS[0]}
    prepared = objective.prepare(sample, encoder.preprocess, torch.Generator())
    assert torch.equal(prepared["ids"], ids[0])
    assert objective(encoder, encoder.preprocess.collate([prepared] * 2)).total.isfinite()


def test_without_its_files(published):
    encoder = zoo.create("open-clip/tiny-siglip", seed=0)
    assert not encoder.preprocess.ready
    assert encoder.embed([np.zeros((32, 32, 3), np.uint8)]).shape == (1, 16)
    with pytest.raises(UsageError, match=r"the tokenizer of somebody/words: zoo\.load brings it"):
        encoder.encode_text(TEXTS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizer.json": b"{}"}, "tokenizer.json: no tokenizer"),
        ({"tokenizer_config.json": b"[]"}, "no table of facts"),
        ({"tokenizer_config.json": b"{}"}, "no padding token"),
    ],
)
def test_damaged_files(files, change, said):
    with pytest.raises(DataError, match=said) as caught:
        FileTokenizer(files | change, TokenizerOptions(repo="a/b"), 12)
    assert "\n" not in str(caught.value)


def test_real_names():
    open_clip_models.rows.cache_clear()
    card = zoo.card("open-clip/ViT-B-16-SigLIP-256.webli")
    assert card.weights[0].repo == "timm/ViT-B-16-SigLIP-256"
    assert card.weights[0].tokenizer == "timm/ViT-B-16-SigLIP"
    assert card.preprocess["crop_mode"] == "squash"
    assert "open-clip/roberta-ViT-B-32" not in zoo.list_models("open-clip/*")
