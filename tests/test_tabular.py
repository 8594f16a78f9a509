import pickle

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from zoo.hub.export import save_export
from zoo.hub.golden import fingerprint
from zoo.modalities.tabular.read import read_table
from zoo.registry.build import encoder_spec

import zoo
from zoo.cli.embed import command as embed_command
from zoo.errors import DataError, UsageError
from zoo.tabular import Classifier, Imputer, Regressor, write_tables


def rows(count=80, seed=0):
    pd = pytest.importorskip("pandas")
    generator = np.random.default_rng(seed)
    x = generator.normal(size=count)
    frame = pd.DataFrame({"height": x, "size": np.where(x > 0, "big", "small")})
    frame.loc[::7, "height"] = np.nan
    return frame, np.where(x > 0, "yes", "no"), 3.0 * x + 5.0


@parametrize_with_checks(
    [Classifier(pretrain_steps=0, random_state=0), Regressor(pretrain_steps=0, random_state=0)]
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("mode", ["probe", "finetune"])
def test_learns_mixed_rows_with_gaps(mode):
    frame, labels, target = rows()
    test, wanted, numbers = rows(seed=1)
    options = {"pretrain_steps": 0, "mode": mode, "random_state": 0}
    classifier = Classifier(**options).fit(frame, labels)
    assert classifier.score(test, wanted) > 0.95
    probabilities = classifier.predict_proba(test)
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    assert Regressor(**options).fit(frame, target).score(test, numbers) > 0.6


def test_pretrains_on_its_own_rows_and_repeats():
    frame, labels, _ = rows()
    fitted = [Classifier(pretrain_steps=5, random_state=3).fit(frame, labels) for _ in range(2)]
    first, second = (one.predict_proba(frame) for one in fitted)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted[0])).predict_proba(frame), first)


def test_in_a_pipeline_and_in_cross_validation():
    x = np.random.default_rng(0).normal(size=(60, 3))
    y = x[:, 0] > 0
    model = make_pipeline(StandardScaler(), Classifier(pretrain_steps=0, random_state=0))
    assert cross_val_score(model, x, y, cv=3).mean() > 0.8


def test_takes_an_encoder_or_a_folder_and_refuses_others(tmp_path):
    frame, labels, _ = rows()
    encoder = zoo.create("unitabe-small", seed=0, depth=1)
    encoder.preprocess.fit([{"table": read_table(frame)}])
    before = encoder.embed(frame)
    for mode in ("probe", "finetune"):
        fitted = Classifier(encoder, mode=mode, epochs=1).fit(frame, labels)
        assert fitted.predict(frame).shape == (80,)
    np.testing.assert_array_equal(encoder.embed(frame), before)
    with pytest.raises(UsageError, match="unitabe-small"):
        Classifier("digits-mae", pretrain_steps=0).fit(frame, labels)


def test_imputer_fills_numbers_and_strings():
    pd = pytest.importorskip("pandas")
    frame, _, _ = rows(200)
    frame["double"] = 2 * frame["height"]
    imputer = Imputer(steps=120, random_state=0).fit(frame)
    test = pd.DataFrame({"height": [1.5, -1.5], "size": [None, None], "double": [np.nan, np.nan]})
    with pytest.warns(UserWarning, match="without a single value"):
        filled = imputer.transform(test)
    assert filled[:, 1].tolist() == ["big", "small"]
    assert filled[0, 2] > 1.0 > -1.0 > filled[1, 2]
    assert filled[:, 0].tolist() == [1.5, -1.5]


def test_probes_on_labelled_shards(tmp_path):
    """The class is the sign of a number; test rows have the statistics of the training rows."""
    frame, labels, _ = rows(60)
    held, wanted, _ = rows(40, seed=1)
    table = read_table(frame)
    encoder = zoo.create("unitabe-small", seed=0, depth=1)
    encoder.preprocess.fit([{"table": table}])
    sides = {"train": (table, labels), "test": (read_table(held).like(table.columns), wanted)}
    for name, (some, classes) in sides.items():
        codes = (classes == "yes").astype(int).tolist()
        write_tables(tmp_path / name, {"rows": some}, labels={"rows": codes})
    for kind in ("linear", "knn"):
        score = zoo.probe(encoder, tmp_path / "train", tmp_path / "test", kind=kind, k=5)
        assert score.accuracy > 0.9
    options = {"head": "linear", "epochs": 3, "lr": 1e-3}
    tuned = zoo.probe(
        encoder, tmp_path / "train", tmp_path / "test", kind="finetune", options=options
    )
    assert tuned.accuracy > 0.9
    with pytest.raises(UsageError, match="kind='linear'"):
        zoo.probe(encoder, tmp_path / "train", tmp_path / "test", kind="prototypical")
    with pytest.raises(UsageError, match="1 labels for 60 rows"):
        write_tables(tmp_path / "bad", {"rows": table}, labels={"rows": [1]})
    write_tables(tmp_path / "plain", {"rows": table})
    with pytest.raises(DataError, match="no label"):
        zoo.probe(encoder, tmp_path / "plain", tmp_path / "test")


def test_publishing_has_rows_to_try_an_encoder_with():
    encoders = [zoo.create("unitabe-small", seed=seed, depth=1) for seed in (0, 0, 1)]
    for encoder in encoders:
        encoder.preprocess.fit([{"table": read_table(rows()[0])}])
    one, same, other = (fingerprint(encoder)["features of it"] for encoder in encoders)
    assert one == same != other


def test_the_command_embeds_every_row_of_files(tmp_path):
    frame, _, _ = rows(5)
    encoder = zoo.create("unitabe-small", seed=0, depth=1)
    encoder.preprocess.fit([{"table": read_table(frame)}])
    save_export(tmp_path / "x", encoder, encoder_spec("unitabe-small", {"depth": 1}))
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for file, part in zip(files, (frame[:3], frame[3:]), strict=True):
        part.to_csv(file, index=False)
    output = tmp_path / "features.npz"
    words = [f"{tmp_path / 'x'}/", *map(str, files), "-o", str(output)]
    done = CliRunner().invoke(embed_command, words)
    assert "5 x 64" in done.output
    with np.load(output) as stored:
        np.testing.assert_array_equal(stored["features"], zoo.load(tmp_path / "x").embed(files))
        assert stored["names"].tolist() == [f"{files[0]}:{i}" for i in range(3)] + [
            f"{files[1]}:{i}" for i in range(2)
        ]
