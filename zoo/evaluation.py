"""`zoo.probe`: how good an encoder's features are, on labelled shards.

Notation: N training and M test samples, T tokens, D width, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.errors import UnknownNameError, UsageError
from zoo.modalities.contracts import Batch, Encoder
from zoo.probes.finetune import FinetuneRecipe, HeadKind, finetune
from zoo.probes.frozen import pooled, token_map
from zoo.probes.heads import HeadRecipe, Linear, predict, seeded, train_head
from zoo.probes.metrics import Scores
from zoo.probes.on_tokens import targets_of, train_on_tokens
from zoo.probes.samples import Labelled, RawLabel, label_arrays, several
from zoo.probes.score import Labels, Score, class_count, mean_score, score_of
from zoo.probes.shots import choose
from zoo.probing import knn_probe, linear_probe
from zoo.registry.schema import read

__all__ = ["fit_probe", "probe"]

Kind = Literal["knn", "linear", "attentive", "prototypical", "finetune"]
_READ = 64  # samples that go through the encoder together


def probe(
    encoder: Encoder,
    train: str | Path,
    test: str | Path,
    *,
    kind: Kind = "linear",
    k: int = 20,
    shots: int | None = None,
    seeds: int = 1,
    options: Mapping[str, object] | None = None,
) -> Score:
    """How well a probe classifies, with its protocol.

    Samples have one label (a `cls` member) or any number of them (`labels` in a `json` member).
    Where both manifests name the classes they are matched by name, whatever their numbers. The
    encoder is in eval mode and stays as it is; nothing is chosen on the test samples.

    Args:
        encoder: what is measured.
        train: labelled shards that the probe is fitted on.
        test: labelled shards that it is measured on.
        kind: "knn" (DINO's weighted kNN) and "linear" look at pooled features, "attentive" and
            "prototypical" (Bird-MAE's) at tokens; "finetune" trains a copy of the encoder along.
        k: neighbours of the kNN; at most as many as there are few-shot samples.
        shots: training samples of each class, drawn at random; by default all samples.
        seeds: how many times, with another draw of samples, head and order each.
        options: fields of HeadRecipe, or FinetuneRecipe for "finetune".

    Returns:
        Means over the seeds; `runs` holds each, `interval()` the 95 % bootstrap interval.

    Raises:
        DataError: a sample has no label.
        UsageError: there is nothing to fit or to measure, or no such kind or option.
    """
    if kind not in get_args(Kind):
        raise UnknownNameError("probe", kind, get_args(Kind))
    if seeds < 1 or (shots is not None and shots < 1):
        raise UsageError(f"seeds={seeds}, shots={shots}: both are at least 1")
    recipe: HeadRecipe = read(
        FinetuneRecipe if kind == "finetune" else HeadRecipe, options or {}, where="probe, options"
    )
    was_training = encoder.training
    encoder.eval()
    try:
        trained = Labelled(encoder, train)
        trial = _Trial(
            train=trained,
            test=Labelled(encoder, test, classes=trained.classes),
            k=k,
            shots=shots,
            recipe=recipe,
        )
        runs = trial.run(kind, range(seeds))
    finally:
        encoder.train(was_training)
    return mean_score(runs) if seeds > 1 else runs[0]


def fit_probe(
    encoder: Encoder,
    train: str | Path,
    *,
    kind: HeadKind = "prototypical",
    shots: int | None = None,
    seed: int = 0,
    options: Mapping[str, object] | None = None,
) -> nn.Module:
    """The head that `probe` trains on a frozen encoder's tokens, to be used or looked at.

    Args:
        encoder: stays as it is.
        train: labelled shards.
        kind: "prototypical" or "attentive".
        shots: see `probe`.
        seed: see `probe`.
        options: see `probe`.

    Returns:
        `zoo.probes.frozen.token_map(encoder, batch).x` (B, T, D) -> logits (B, K).

    Raises:
        DataError: a sample has no label.
        UsageError: there is nothing to fit, or no such option.
    """
    recipe = read(HeadRecipe, options or {}, where="probe, options")
    was_training, samples = encoder.training, Labelled(encoder, train)
    if not len(samples):
        raise UsageError(f"{train}: no samples to fit a probe on")
    [labels] = label_arrays(samples.labels)
    chosen = np.arange(len(labels)) if shots is None else choose(labels, shots, seed=seed)
    encoder.eval()
    try:
        [model] = train_on_tokens(kind, samples, labels, [chosen], [seed], recipe)
    finally:
        encoder.train(was_training)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """One call of `probe`."""

    train: Labelled
    test: Labelled
    k: int
    shots: int | None
    recipe: HeadRecipe

    def run(self, kind: Kind, seeds: Sequence[int]) -> list[Score]:
        """A score a seed."""
        if not len(self.train) or not len(self.test):
            raise UsageError("a probe needs training and test samples")
        if kind == "finetune":
            return [self.finetuned(seed) for seed in seeds]
        if kind in ("attentive", "prototypical"):
            return self.on_tokens(kind, seeds)
        train, test = self.features(self.train), self.features(self.test)
        labels, test_labels = label_arrays(train[1], test[1])
        measure = self.knn if kind == "knn" else self.linear
        scores = []
        for seed in seeds:
            chosen = self.chosen(labels, seed)
            of_train = train[0][chosen], labels[chosen]
            scores.append(measure(*of_train, test[0], test_labels, seed))
        return scores

    def knn(self, x: Scores, labels: Labels, test: Scores, wanted: Labels, seed: int) -> Score:
        """DINO's weighted kNN."""
        k = self.k if self.shots is None else min(self.k, len(x))
        return knn_probe(x, labels, test, wanted, k=k)

    def linear(self, x: Scores, labels: Labels, test: Scores, wanted: Labels, seed: int) -> Score:
        """Logistic regression; with several labels a sample, or with LARS, a trained layer."""
        recipe = self.recipe
        if labels.ndim == 1 and recipe.optimizer != "lars":
            scaled = bool(recipe.standardize)
            return linear_probe(x, labels, test, wanted, standardize=scaled, seed=seed)
        with seeded(seed, torch.device("cpu")):
            head = Linear(x.shape[1], class_count(labels, wanted))
            model = train_head(head, torch.from_numpy(x), targets_of(labels), recipe, seed=seed)
        scores = predict(model, torch.from_numpy(test))
        return score_of("linear", scores, wanted, f"linear layer, {self.words(labels)}")

    def on_tokens(self, kind: HeadKind, seeds: Sequence[int]) -> list[Score]:
        """Heads on tokens: those of the training samples are kept, those of the test pass by."""
        encoder, labels = self.train.encoder, self.train_labels()
        chosen = [self.chosen(labels, seed) for seed in seeds]
        models = train_on_tokens(kind, self.train, labels, chosen, seeds, self.recipe)

        def forward(batch: Batch) -> list[Tensor]:
            x = token_map(encoder, batch).x
            return [model(x.float()) for model in models]

        scores, wanted = self.measured(forward, labels)
        protocol = f"{kind} probe, {self.words(labels)}"
        return [score_of(kind, one, wanted, protocol) for one in scores]

    def finetuned(self, seed: int) -> Score:
        """The encoder trained along, on a copy."""
        assert isinstance(self.recipe, FinetuneRecipe)
        labels = self.train_labels()
        chosen = self.chosen(labels, seed)
        targets = targets_of(labels[chosen])
        with seeded(seed, self.train.device):
            model = finetune(self.train, chosen.tolist(), targets, self.recipe, seed=seed)
        [scores], wanted = self.measured(lambda batch: [model(batch)], labels)
        protocol = (
            f"fine-tuned with {self.recipe.head} head, layer decay {self.recipe.layer_decay}, "
            + self.words(labels)
        )
        return score_of("finetune", scores, wanted, protocol)

    def features(self, samples: Labelled) -> tuple[Scores, list[RawLabel]]:
        """Pooled features (N, D) and labels, in the order of the shards."""
        rows, labels = [], []
        with torch.no_grad():
            for batch, some in samples.batches(range(len(samples)), _READ):
                rows.append(pooled(samples.encoder, batch, self.recipe.pool).float().cpu())
                labels += some
        features: Scores = torch.cat(rows).numpy()
        return features, labels

    def train_labels(self) -> Labels:
        """Of the training samples: (N, K) where those of either side may have several."""
        names = self.train.labels
        if not isinstance(self.test.label(0, self.test.sample(0)), int):
            names = [several(one) for one in names]
        return label_arrays(names)[0]

    def measured(
        self, forward: Callable[[Batch], list[Tensor]], trained: Labels
    ) -> tuple[list[Scores], Labels]:
        """Scores (M, K) of several classifiers over the test samples, and the labels of these."""
        rows: list[list[Tensor]] = []
        names: list[RawLabel] = []
        with torch.no_grad():
            for batch, some in self.test.batches(range(len(self.test)), _READ):
                rows.append([one.float().cpu() for one in forward(batch)])
                names += some
        if trained.ndim == 2:
            names = [several(one) for one in names]
        [labels] = label_arrays(names)
        classes = max(class_count(trained), class_count(labels))
        scores = [_widened(torch.cat(parts), classes) for parts in zip(*rows, strict=True)]
        return scores, labels

    def chosen(self, labels: Labels, seed: int) -> NDArray[np.int64]:
        """Training samples of a seed."""
        if self.shots is None:
            return np.arange(len(labels))
        return choose(labels, self.shots, seed=seed)

    def words(self, labels: Labels) -> str:
        """How it was trained."""
        recipe = self.recipe
        losses = {"asymmetric": "asymmetric loss", "bce": "binary cross-entropy"}
        loss = "cross-entropy" if labels.ndim == 1 else losses[recipe.several]
        scaled = {True: "standardised", False: "as they are", "batch": "standardised by batch"}
        shots = "all samples" if self.shots is None else f"{self.shots} shots a class"
        return (
            f"{loss}, features {scaled[recipe.standardize]}, {shots}, {recipe.epochs} epochs of "
            f"batches of {recipe.batch_size}, {recipe.optimizer}, lr {recipe.lr:g}"
        )


def _widened(logits: Tensor, classes: int) -> Scores:
    """(M, K): classes that were never seen in training score as low as the lowest."""
    missing = classes - logits.shape[1]
    wide: Scores = torch.nn.functional.pad(logits, (0, missing), value=logits.min().item()).numpy()
    return wide
