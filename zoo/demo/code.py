"""Code: a masked language model on the running Python's own library, split by module."""

import html
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import zoo
from zoo.data.shards import ShardSet
from zoo.demo.masked_tokens import Bigrams, Hidden, guesses, hide
from zoo.demo.part import Part, ScoreRow, check_reload
from zoo.demo.stdlib import write_stdlib
from zoo.modalities.code.codec import CodeCodec
from zoo.modalities.code.preprocess import CodePreprocess
from zoo.objectives.masked_lm import MaskedLM
from zoo.pretraining import restore_objective, untrained
from zoo.probing import linear_probe
from zoo.report.chart import Curve, chart
from zoo.runs import EXPORT

__all__ = ["code_part"]

MODEL = "stdlib-mlm-tiny"
QUICK = ("train.steps=6", "train.warmup=1", "train.log_every=1", "train.batch_size=16")
QUICK_TEXTS = 200  # per split
FAMILY_SIZE = 40  # functions a package needs to be a class of the probe
SHOWN = 3  # texts with their guesses
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class _Text:
    text: str
    facts: Mapping[str, str]


def code_part(folder: Path, *, quick: bool) -> Part:
    """Pretrains, measures, and shows.

    Args:
        folder: gets the shards and the run.
        quick: a few steps and texts only.
    """
    shards = write_stdlib(folder / "shards", most=QUICK_TEXTS if quick else None)
    began = time.perf_counter()
    run = zoo.pretrain(MODEL, shards["train"], folder / "run", QUICK if quick else ())
    seconds = time.perf_counter() - began
    encoder = run.load()
    train, test = _read(shards["train"]), _read(shards["test"])
    check_reload(run.folder / EXPORT, encoder, _files(folder, test))
    trained, objective = restore_objective(run)
    assert isinstance(objective, MaskedLM)
    guessed, example = _masked_tokens(trained, objective, train, test)
    random = untrained(run)
    random.preprocess.load_assets(encoder.preprocess.assets())
    told = _families(encoder, random.eval(), test)
    rows = (
        ScoreRow("always the commonest", (guessed["unigram"], told["commonest"])),
        ScoreRow("bigrams, left neighbour", (guessed["left"], NAN)),
        ScoreRow("bigrams, both neighbours", (guessed["both"], NAN)),
        ScoreRow("TF-IDF of words", (NAN, told["tfidf"])),
        ScoreRow("same encoder, random weights", (NAN, told["random"])),
        ScoreRow("zoo: masked LM pretrained", (guessed["model"], told["model"]), ours=True),
    )
    metrics = run.metrics
    steps = [row["step"] for row in metrics]
    return Part(
        title="Code: masked language model on Python's standard library",
        lead=(
            f"{len(train):,} functions to learn from, {len(test):,} held out; no module is on both "
            f"sides. {run.recipe.objective['mask_ratio']:.0%} of the tokens are masked in training."
        ),
        measures=("masked token, top-1", "package family"),
        rows=rows,
        protocol=(
            "Masked token: 15 % of the tokens of held-out functions are hidden, every method sees "
            "the same texts. Package family: which of "
            f"{told['classes']:.0f} held-out packages a function comes from; linear probe on "
            "frozen features, functions of one class stay on one side of its split."
        ),
        figures=(
            chart(
                [Curve("loss", steps, [row["loss"] for row in metrics])],
                x="step",
                y="loss",
                caption="Cross-entropy of the masked tokens.",
            ),
            "<h3>Held-out functions with every hidden token filled in</h3><p class=soft>"
            "<span class=hit>right</span>, <span class=miss>wrong <s>the truth</s></span></p>",
            example,
        ),
        seconds=seconds,
        steps=int(steps[-1]),
        verdict=_verdict(guessed, told),
    )


def _verdict(guessed: Mapping[str, float], told: Mapping[str, float]) -> str:
    return (
        f"Masked tokens against the better bigram table: "
        f"{(guessed['model'] - max(guessed['left'], guessed['both'])) * 100:+.1f} points. "
        f"Package family against random weights: "
        f"{(told['model'] - told['random']) * 100:+.1f} points, against TF-IDF: "
        f"{(told['model'] - told['tfidf']) * 100:+.1f}."
    )


def _read(folder: Path) -> list[_Text]:
    shards, codec = ShardSet(folder), CodeCodec()
    samples = [codec.decode(shards.read(index)) for index in range(len(shards))]
    return [_Text(str(sample["text"]), sample["facts"]) for sample in samples]  # type: ignore[arg-type]


def _files(folder: Path, texts: Sequence[_Text]) -> list[Path]:
    """A few held-out functions as the files that a user would have."""
    files = []
    for number, text in enumerate(texts[:8]):
        files.append(folder / "functions" / f"{number}.py")
        files[-1].parent.mkdir(exist_ok=True)
        files[-1].write_text(text.text)
    return files


def _masked_tokens(
    encoder: zoo.Encoder, objective: MaskedLM, train: Sequence[_Text], test: Sequence[_Text]
) -> tuple[dict[str, float], str]:
    """Top-1 accuracy of each method, and some texts with the model's guesses as HTML."""

    def ids(texts: Sequence[_Text]) -> list[Tensor]:
        return [encoder.preprocess(text.text)["ids"] for text in texts]

    texts = hide(ids(test), objective, seed=0)
    table = Bigrams(ids(train), objective.vocabulary.size)
    found = {
        "unigram": table.unigram(texts),
        "left": table.left(texts, objective.vocabulary.mask_id),
        "both": table.both(texts, objective.vocabulary.mask_id),
        "model": guesses(encoder, objective, texts),
    }
    truth = torch.cat([text.truth for text in texts])
    scores = {name: float((torch.cat(g) == truth).float().mean()) for name, g in found.items()}
    short = [i for i, text in enumerate(texts) if 60 <= len(text.ids) <= 110]
    chosen = short[:: max(1, len(short) // SHOWN)][:SHOWN]
    shown = [_shown(encoder, texts[i], found["model"][i], test[i]) for i in chosen]
    return scores, "\n".join(shown)


def _shown(encoder: zoo.Encoder, text: Hidden, guess: Tensor, source: _Text) -> str:
    """One text as HTML: right guesses marked, wrong ones with the truth struck through."""
    assert isinstance(encoder.preprocess, CodePreprocess)
    decode = encoder.preprocess.tokenizer.decode
    places = {
        int(i): (int(g), int(t)) for i, g, t in zip(text.index, guess, text.truth, strict=True)
    }
    pieces = []
    for position, token in enumerate(text.ids.tolist()[1:-1], start=1):
        if position not in places:
            pieces.append(html.escape(decode([token])))
            continue
        first, true = (decode([choice]) for choice in places[position])
        if first == true:
            pieces.append(f"<span class=hit>{html.escape(true)}</span>")
        else:
            pieces.append(f"<span class=miss>{html.escape(first)}<s>{html.escape(true)}</s></span>")
    where = html.escape(f"{source.facts['file']}: {source.facts['name']}")
    return f"<p>{where}</p><pre>{''.join(pieces)}</pre>"


def _families(encoder: zoo.Encoder, random: zoo.Encoder, test: Sequence[_Text]) -> dict[str, float]:
    """Accuracy of telling held-out packages apart, by each kind of features."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import GroupShuffleSplit

    sizes = Counter(text.facts["module"] for text in test)
    families = sorted(name for name, count in sizes.items() if count >= FAMILY_SIZE)
    chosen = [text for text in test if text.facts["module"] in families]
    labels = np.array([families.index(text.facts["module"]) for text in chosen])
    # Methods of one class resemble each other: they stay together.
    scopes = [f"{text.facts['file']}:{text.facts['name'].rpartition('.')[0]}" for text in chosen]
    scopes = [s if not s.endswith(":") else f"{s}{i}" for i, s in enumerate(scopes)]
    groups = np.unique(scopes, return_inverse=True)[1]
    splitter = GroupShuffleSplit(n_splits=1, test_size=0.4, random_state=0)
    fit, held = next(splitter.split(labels, labels, groups))

    def accuracy(features: np.ndarray, *, standardize: bool = True) -> float:
        return linear_probe(
            features[fit],
            labels[fit],
            features[held],
            labels[held],
            groups=groups[fit],
            standardize=standardize,
        ).accuracy

    texts = [text.text for text in chosen]
    words = TfidfVectorizer(token_pattern=r"[A-Za-z_]\w+", sublinear_tf=True)
    words.fit([texts[i] for i in fit])
    commonest = np.bincount(labels[fit]).argmax()
    return {
        "classes": float(len(families)),
        "commonest": float((labels[held] == commonest).mean()),
        "tfidf": accuracy(words.transform(texts), standardize=False),
        "random": accuracy(random.embed(texts, progress=False)),
        "model": accuracy(encoder.embed(texts, progress=False)),
    }
