"""Masked language modelling of Python functions: zoo, padded BERT, and MosaicBERT's own way.

Functions of the standard library, cut at 256 tokens of a byte-level BPE with 8192 ids; 30 % masked,
the same positions for all; 4 layers, 256 wide; batches of 32, at random and of like lengths.
Forward, backward and AdamW, counted in real tokens per second of the processor on one thread, in
turn in one process. BERT is transformers' (`pip install zoo[bench]`), with its padded batches;
MosaicBERT's way: zoo.benchmarks.speed.mosaic. Before anything is timed, the loss of zoo is held
against the padded one of the same weights.
"""

import json
import platform
import random
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW
from zoo.benchmarks.speed.mosaic import UpstreamMosaic
from zoo.benchmarks.speed.timing import RESULTS
from zoo.modalities.code.encoder import CodeEncoder, CodeEncoderConfig
from zoo.modalities.code.functions import python_functions
from zoo.modalities.code.preprocess import CodePreprocessConfig
from zoo.modalities.code.tokenizer import Tokenizer
from zoo.modalities.contracts import Batch
from zoo.objectives.masked_lm import MaskedLM, MaskedLMConfig

import zoo

VOCAB, LONGEST, TEXTS, ROUNDS, RANDOM, ALIKE = 8192, 256, 32, 5, 2, 3
CONFIG = CodeEncoderConfig(
    vocab_size=VOCAB,
    dim=256,
    depth=4,
    heads=4,
    hidden=688,  # as many weights as an MLP of 1024 without a gate, to a multiple of 16
    position="alibi",
    norm_first=False,
    norm_eps=1e-12,
    bias=True,
    token_types=2,
)
TASK = MaskedLMConfig(mask_ratio=0.3, head_bias=True, norm_eps=1e-12)
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Texts:
    """One batch in both forms; all hold the same tokens and hide the same ones."""

    packed: Batch
    ids: Tensor  # (B, N)
    valid: Tensor  # (B, N)
    labels: Tensor  # (B, N), -100 where nothing is asked

    @property
    def tokens(self) -> int:
        """Real ones."""
        return len(self.packed["ids"])


Loss = Callable[[Texts], Tensor]


def functions() -> Iterator[str]:
    """Every function of the standard library but its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if {"test", "tests", "idle_test", "site-packages"} & set(path.parts):
            continue
        try:
            yield from (function.source for function in python_functions(path.read_text()))
        except (SyntaxError, UnicodeDecodeError):
            continue


def tokenised() -> list[Tensor]:
    """Ids of every function."""
    texts = list(functions())
    tokenizer = Tokenizer.train(texts, VOCAB)
    start, end = [Tokenizer.start_id], [Tokenizer.end_id]
    return [torch.tensor(start + tokenizer.encode(t)[: LONGEST - 2] + end) for t in texts]


def pair() -> tuple[CodeEncoder, MaskedLM]:
    """What zoo trains."""
    encoder = CodeEncoder(CONFIG, CodePreprocessConfig())
    return encoder, MaskedLM(TASK, encoder)


def zoo_way() -> tuple[Loss, nn.Module]:
    """Packed."""
    encoder, objective = pair()
    return lambda texts: objective(encoder, texts.packed).total, nn.ModuleList([encoder, objective])


def mosaic_way() -> tuple[Loss, nn.Module]:
    """Unpadded but in attention."""
    model = UpstreamMosaic(CONFIG)
    return lambda texts: model(texts.ids, texts.valid, texts.labels), model


def bert_way() -> tuple[Loss, nn.Module]:
    """Padded."""
    from transformers import BertConfig, BertForMaskedLM

    model = BertForMaskedLM(
        BertConfig(
            vocab_size=VOCAB,
            hidden_size=CONFIG.dim,
            num_hidden_layers=CONFIG.depth,
            num_attention_heads=CONFIG.heads,
            intermediate_size=1024,
            max_position_embeddings=LONGEST,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )

    def loss(texts: Texts) -> Tensor:
        return model(
            input_ids=texts.ids, attention_mask=texts.valid.long(), labels=texts.labels
        ).loss

    return loss, model


WAYS = {"padded BERT": bert_way, "MosaicBERT's way": mosaic_way, "zoo": zoo_way}


def prepare(texts: list[Tensor], objective: MaskedLM, encoder: CodeEncoder) -> Texts:
    """Masks and collates."""
    generator = torch.Generator().manual_seed(len(texts[0]))
    views = [objective.views({"ids": ids}, generator) for ids in texts]
    packed = encoder.preprocess.collate(views)
    labels = torch.full_like(packed["ids"], -100)
    labels[packed["target_index"]] = packed["target_ids"]
    sizes = packed["lengths"].tolist()
    longest = torch.arange(max(sizes))
    return Texts(
        packed=packed,
        ids=pad_sequence(packed["ids"].split(sizes), batch_first=True),
        valid=longest < packed["lengths"][:, None],
        labels=pad_sequence(labels.split(sizes), batch_first=True, padding_value=-100),
    )


def batches(texts: list[Tensor]) -> dict[str, list[list[Texts]]]:
    """For every round some batches at random, and some of like lengths from short to long."""
    encoder, objective = pair()
    chance = random.Random(0)
    ordered = sorted(texts, key=len)
    found: dict[str, list[list[Texts]]] = {"random": [], "of like lengths": []}
    for _ in range(ROUNDS + 1):
        drawn = [chance.sample(texts, TEXTS) for _ in range(RANDOM)]
        offset = chance.random()
        starts = [int((i + offset) / ALIKE * (len(texts) - TEXTS)) for i in range(ALIKE)]
        alike = [ordered[start : start + TEXTS] for start in starts]
        for name, chosen in (("random", drawn), ("of like lengths", alike)):
            found[name].append([prepare(list(some), objective, encoder) for some in chosen])
    return found


def check(texts: Texts) -> float:
    """The largest relative difference of the loss, packed against padded, with the same weights.

    Raises:
        AssertionError: it is above the tolerance.
    """
    torch.manual_seed(0)
    encoder, objective = pair()
    for weight in (*encoder.parameters(), *objective.parameters()):
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.1)  # as drawn for training, the loss would hide mistakes
    loss, padded = mosaic_way()
    padded.load_state_dict(encoder.state_dict() | objective.state_dict())
    with torch.no_grad():
        theirs, ours = float(loss(texts)), float(objective(encoder, texts.packed).total)
    difference = abs(theirs - ours) / theirs
    assert difference < TOLERANCE, f"losses differ: {theirs} padded, {ours} packed"
    return difference


def rates(rounds: dict[str, list[list[Texts]]]) -> dict[str, dict[str, list[float]]]:
    """Tokens per second of the processor: kind of batch -> way -> each round."""
    updates = {name: updater(*build()) for name, build in WAYS.items()}
    found: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in WAYS} for kind in rounds
    }
    for number in range(ROUNDS + 1):  # the first does not count
        for kind, of_rounds in rounds.items():
            for name, update in updates.items():
                began = time.process_time()
                for texts in of_rounds[number]:
                    update(texts)
                seconds = time.process_time() - began
                if number:
                    tokens = sum(texts.tokens for texts in of_rounds[number])
                    found[kind][name].append(tokens / seconds)
    return found


def updater(loss: Loss, model: nn.Module) -> Callable[[Texts], None]:
    """One update, with the same fused optimiser for all."""
    optimizer = AdamW(model.parameters(), 5e-4, betas=(0.9, 0.98), eps=1e-6, fused=True)

    def update(texts: Texts) -> None:
        loss(texts).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def main() -> None:
    """Checks, times, prints, and keeps the figures."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    texts = tokenised()
    sizes = [len(ids) for ids in texts]
    lengths = {
        "functions": len(texts),
        "mean": round(statistics.mean(sizes), 1),
        "median": statistics.median(sizes),
        "cut": round(sum(size == LONGEST for size in sizes) / len(sizes), 3),
    }
    rounds = batches(texts)
    difference = max(check(texts) for texts in rounds["random"][0] + rounds["of like lengths"][0])
    found = rates(rounds)
    rows = {}
    for kind, of_ways in found.items():
        ours = of_ways["zoo"]
        for name, speeds in of_ways.items():
            ratios = [a / b for a, b in zip(ours, speeds, strict=True)]
            rows[f"{name}, batches {kind}"] = {
                "tokens_per_cpu_second": round(statistics.median(speeds)),
                "zoo_times_faster": round(statistics.median(ratios), 3),
                "least": round(min(ratios), 3),
            }
            print(
                f"{kind:<16} {name:<18} {statistics.median(speeds):>7.0f} tokens/s   "
                f"zoo x{statistics.median(ratios):.2f} (least {min(ratios):.2f})"
            )
    facts = {
        "zoo": zoo.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rounds": ROUNDS,
        "lengths": lengths,
        "largest_relative_difference_of_the_loss": difference,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "code.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
