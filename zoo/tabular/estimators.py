"""`Classifier` and `Regressor`: a pretrained encoder of rows behind scikit-learn's contract.

mode="probe" fits a linear model on frozen features, beside the columns themselves where `raw`;
mode="finetune" trains the encoder along with a linear head. Everything that is fitted (statistics,
levels, tokenizer, weights) sees training rows only, and a prediction depends on its own row alone.

Notation: N rows, D width of the features, K classes.
"""

import copy
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.nn.functional import cross_entropy, mse_loss

import zoo
from zoo.errors import UsageError
from zoo.modalities.contracts import Encoder, Sample
from zoo.modalities.tabular.read import is_gap, read_table
from zoo.modalities.tabular.rows import RowEncoder
from zoo.modalities.tabular.table import Kind, Table
from zoo.probes.finetune import FinetuneRecipe
from zoo.probes.heads import Linear, seeded, update
from zoo.registry.catalogue import find
from zoo.tabular.raw import RowFeatures
from zoo.tabular.shards import pretrain_tables, sizes_for
from zoo.training.groups import parameter_groups

__all__ = ["Classifier", "Regressor"]

Floats = NDArray[np.float64]


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """What both share; arguments are documented at `Classifier`."""

    def __init__(
        self,
        encoder: Encoder | str | Path = "unitabe-small",
        *,
        mode: Literal["probe", "finetune"] = "probe",
        raw: bool = True,
        pretrain_steps: int = 600,
        epochs: int = 20,
        columns: Literal["strict", "flexible"] = "strict",
        kinds: dict[str, Kind] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.encoder = encoder
        self.mode = mode
        self.raw = raw
        self.pretrain_steps = pretrain_steps
        self.epochs = epochs
        self.columns = columns
        self.kinds = kinds
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401 - scikit-learn's own dataclass
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags

    def _fit(self, table: Table, targets: Floats | NDArray[np.int64], outputs: int) -> None:
        if self.mode not in ("probe", "finetune"):
            raise ValueError(f"mode={self.mode!r}: choose probe or finetune")
        seed = int(check_random_state(self.random_state).randint(1 << 31))
        self.columns_ = table.columns
        self.levels_ = {
            name: frozenset(c.levels) for name, c in zip(table.names, table.cells, strict=True)
        }
        self.encoder_ = self._build(table, seed)
        if self.mode == "finetune":
            self.encoder_, head = _finetune(
                self.encoder_, table, torch.from_numpy(targets), outputs, self.epochs, seed
            )
            self.head_: Any = head
            return
        # Sums in float32 depend on the batch by 1e-7, which scikit-learn does not accept.
        self.encoder_ = copy.deepcopy(self.encoder_).double()
        self.features_ = RowFeatures(self.encoder_, table, raw=self.raw)
        self.head_ = self._linear().fit(self.features_(table), targets)

    def _build(self, table: Table, seed: int) -> RowEncoder:
        """The given encoder, or one that has weights; or a name's, pretrained on the rows."""
        encoder: Encoder
        if isinstance(self.encoder, Encoder):
            encoder = self.encoder
        elif isinstance(self.encoder, Path) or "/" in self.encoder or find(self.encoder)[1]:
            encoder = zoo.load(self.encoder)
        else:
            encoder = self._built(self.encoder, table, seed)
        if not isinstance(encoder, RowEncoder):
            raise UsageError(f"{type(encoder).__name__} does not read tables; try unitabe-small")
        if encoder.rows_mix:
            raise UsageError(
                f"{type(encoder).__name__} reads a row with its neighbours, and a prediction must "
                "depend on its own row alone; try ft-transformer or unitabe-small"
            )
        return encoder

    def _built(self, name: str, table: Table, seed: int) -> Encoder:
        """Pretrained on the rows, or random."""
        if self.pretrain_steps:
            options = (f"train.steps={self.pretrain_steps}", "train.loggers=[]")
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "run"
                run = pretrain_tables({"rows": table}, out, model=name, options=options, seed=seed)
                return run.load()
        encoder = zoo.create(name, seed=seed, **sizes_for(name, table)).eval()
        encoder.preprocess.fit([{"table": table}])
        return encoder

    def unseen(self, X: object) -> dict[str, int]:  # noqa: N803 - scikit-learn's name
        """How many cells of each column hold a string that `fit` never saw; word pieces read them.

        Columns without such cells, and those that are new themselves, are left out.
        """
        check_is_fitted(self)
        table = self._read(X, reset=False)
        counts = {}
        for name, cells in zip(table.names, table.cells, strict=True):
            known = self.levels_.get(name, frozenset(cells.levels))
            new = [code for code, level in enumerate(cells.levels) if level not in known]
            if cells.codes is not None and (count := int(np.isin(cells.codes, new).sum())):
                counts[name] = count
        return counts

    def _linear(self) -> BaseEstimator:
        raise NotImplementedError

    def _scores(self, X: object) -> Floats:  # noqa: N803 - scikit-learn's name
        """(N, K) of the head for new rows."""
        check_is_fitted(self)
        table = self._read(X, reset=False).like(self.columns_)
        if self.mode == "finetune":
            with torch.inference_mode():
                embedded = torch.from_numpy(self.encoder_.embed(table)).double()
                return self.head_(embedded).numpy()
        return self._linear_scores(self.features_(table))

    def _linear_scores(self, features: Floats) -> Floats:
        coefficients = np.atleast_2d(self.head_.coef_)
        scores: Floats = features @ coefficients.T + self.head_.intercept_
        return scores

    def _read(self, X: object, *, reset: bool) -> Table:  # noqa: N803
        """Rows as a table, by scikit-learn's rules for columns, or by name where flexible."""
        if _is_array(X):
            X = validate_data(  # noqa: N806
                self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan",
                ensure_min_samples=1 if reset else 0,
            )  # fmt: skip
        elif self.columns == "strict" or reset:
            validate_data(self, X, reset=reset, skip_check_array=True)
        table = read_table(X, kinds=self.kinds)
        if reset and not table.rows:
            raise ValueError("Found array with 0 sample(s): fit needs rows")
        if not reset and self.columns == "flexible":
            table = self._aligned(table)
        return table

    def _aligned(self, table: Table) -> Table:
        """The columns of the training, as missing where they are absent.

        New ones are left out: a head that never saw them is misled by embeddings that hold them.
        """
        known = [column.name for column in self.columns_]
        if absent := sorted(set(known) - set(table.names)):
            warnings.warn(f"columns taken as missing: {absent}", UserWarning, stacklevel=4)
        return table.pick(known)


def _is_array(value: object) -> bool:
    """Arrays, lists and sparse matrices are scikit-learn's to judge; frames and files are ours."""
    is_frame = hasattr(value, "columns") or hasattr(value, "__arrow_c_stream__")
    is_array = isinstance(value, list | tuple) or hasattr(value, "__array__")
    return hasattr(value, "toarray") or (is_array and not is_frame)


class Classifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """Classes of rows.

    Args:
        encoder: a name of the catalogue (pretrained here, on the rows that `fit` gets), a name with
            a tag ("unitabe-small.demo"), the folder of a run or export, or an encoder.
        mode: "probe" keeps the encoder frozen, "finetune" trains it.
        raw: the probe also sees the columns themselves, standardised and one-hot.
        pretrain_steps: of a name without a tag; 0 leaves its weights random.
        epochs: of fine-tuning.
        columns: "strict" wants the columns of the training, as scikit-learn does; "flexible" goes
            by name, takes absent columns as missing, and leaves out new ones.
        kinds: kinds of columns that inference gets wrong, by name.
        random_state: of everything random.
    """

    def fit(self, X: object, y: object, *, drop_unlabelled: bool = False) -> Self:  # noqa: N803
        """Fits on rows and their classes, of any type.

        Args:
            X: rows.
            y: (N,).
            drop_unlabelled: leave out rows whose class is missing, which is else an error.

        Raises:
            ValueError: there are no rows, or only one class, or classes are missing.
        """
        table, y = _labelled(self._read(X, reset=True), y, drop=drop_unlabelled)
        labels = column_or_1d(check_array(y, ensure_2d=False, dtype=None), warn=True)
        check_consistent_length(range(table.rows), labels)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("cannot fit a classifier to one class: y needs at least two")
        self._fit(table, codes.astype(np.int64), len(self.classes_))
        return self

    def predict_proba(self, X: object) -> Floats:  # noqa: N803
        """(N, K) float64, each row sums to 1; columns as in `classes_`."""
        scores = self._scores(X)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)

    def predict(self, X: object) -> NDArray[Any]:  # noqa: N803
        """(N,) the most probable class of each row, as it was given."""
        best = self._scores(X).argmax(axis=1)
        return self.classes_[best]

    def _linear(self) -> BaseEstimator:
        return LogisticRegression(max_iter=2000)

    def _linear_scores(self, features: Floats) -> Floats:
        scores = super()._linear_scores(features)
        return scores if scores.shape[1] > 1 else np.hstack([np.zeros_like(scores), scores])


class Regressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """Numbers of rows; arguments as for `Classifier`."""

    def fit(self, X: object, y: object, *, drop_unlabelled: bool = False) -> Self:  # noqa: N803
        """Fits on rows and their numbers.

        Args:
            X: rows.
            y: (N,).
            drop_unlabelled: leave out rows whose number is missing, which is else an error.

        Raises:
            ValueError: there are fewer than two rows, or numbers are missing.
        """
        table, y = _labelled(self._read(X, reset=True), y, drop=drop_unlabelled)
        target = check_array(y, ensure_2d=False, dtype=np.float64)
        target = column_or_1d(target, warn=True)
        check_consistent_length(range(table.rows), target)
        if table.rows < 2:
            raise ValueError("cannot fit a regressor to one sample: at least two are needed")
        self.target_mean_ = float(target.mean())
        self.target_scale_ = float(target.std()) or 1.0
        self._fit(table, (target - self.target_mean_) / self.target_scale_, 1)
        return self

    def predict(self, X: object) -> Floats:  # noqa: N803
        """(N,) in the units of y."""
        scores = self._scores(X).reshape(-1)
        return scores * self.target_scale_ + self.target_mean_

    def _linear(self) -> BaseEstimator:
        return Ridge(alpha=10.0)


def _labelled(table: Table, y: object, *, drop: bool) -> tuple[Table, object]:
    """Without the rows that have no target."""
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None")
    values: NDArray[Any] = np.asarray(y)
    if values.dtype.kind not in "fO" or len(values) != table.rows:
        return table, y
    gaps = np.array([is_gap(v.item() if isinstance(v, np.ndarray) else v) for v in values])
    if not gaps.any():
        return table, y
    if not drop:
        raise ValueError(
            f"y is missing (NaN) in {gaps.sum()} of {table.rows} rows: fill them in, or leave them "
            "out with fit(X, y, drop_unlabelled=True)"
        )
    kept = values[~gaps]
    return table.take(np.flatnonzero(~gaps)).fitted(), np.array(kept.tolist())


def _finetune(
    encoder: RowEncoder, table: Table, targets: torch.Tensor, outputs: int, epochs: int, seed: int
) -> tuple[RowEncoder, Linear]:
    """A copy of the encoder, trained with a linear head; classes where targets are whole."""
    recipe = FinetuneRecipe(epochs=epochs, batch_size=32, lr=1e-3, head="linear")
    encoder = copy.deepcopy(encoder)
    schedule, step = recipe.schedule(table.rows), 0
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed, torch.device("cpu")):
        head = Linear(encoder.dim, outputs)
    model = torch.nn.ModuleList([encoder, head]).train()
    groups = parameter_groups(model.named_parameters(), recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, recipe.lr)
    for _ in range(epochs):
        for part in torch.randperm(table.rows, generator=generator).split(recipe.batch_size):
            some: Sample = {"table": table.take(part.numpy())}
            batch = encoder.preprocess.collate([encoder.preprocess(some)])
            logits, wanted = head(encoder(batch).pooled), targets[part]
            if wanted.is_floating_point():
                loss = mse_loss(logits[:, 0], wanted.float())
            else:
                loss = cross_entropy(logits, wanted)
            update(optimizer, loss, schedule(step), recipe.clip_grad)
            step += 1
    model.eval().double()
    return encoder, head
