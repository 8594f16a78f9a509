"""CodeSearchNet and GLUE offline: the scripts, on made-up data in the data sets' own formats."""

import gzip
import json

import pytest
import zoo.benchmarks.tables.stdlib_search as script
from click.testing import CliRunner
from zoo.benchmarks.tables import codesearchnet, glue, stdlib_search
from zoo.hub.export import save_export
from zoo.registry.build import encoder_spec

import zoo
from zoo.errors import DataError, UsageError
from zoo.probes.search import SearchPairs

TINY = {"dim": 16, "depth": 1, "heads": 2, "hidden": 24, "vocab_size": 300}
NAMES = [f"word{letter}" for letter in "abcdefgh"]


@pytest.fixture(scope="module")
def encoder():
    made = zoo.create("stdlib-mlm", seed=0, **TINY)
    made.preprocess.fit([{"text": f"return {name} with {name}"} for name in NAMES])
    return made.eval()


@pytest.fixture(scope="module")
def export(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "export"
    save_export(folder, encoder, encoder_spec("stdlib-mlm", TINY))
    return folder


def row(name, url=None, **fields):
    return {
        "code_tokens": ["def", name, "(", ")", ":", "return", name],
        "docstring_tokens": ["return", name, "with\n", name],
        "url": url or f"u/{name}",
        **fields,
    }


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.writelines(json.dumps(one) + "\n" for one in rows)


def test_filtered_and_original_files(tmp_path):
    write_lines(tmp_path / "ruby" / "test.jsonl", map(row, NAMES[:3]))
    write_lines(tmp_path / "ruby" / "codebase.jsonl", map(row, [*reversed(NAMES), NAMES[0]]))
    split = codesearchnet.read_split(tmp_path / "ruby")
    assert split.texts[0] == "return worda with worda"
    assert (len(split.codes), split.duplicates, split.own) == (8, 1, (7, 6, 5))
    assert split.codes[7] == "def worda ( ) : return worda"
    original = tmp_path / "go" / "final" / "jsonl" / "test"
    write_lines(original / "go_test_0.jsonl.gz", map(row, NAMES[:4]))
    write_lines(original / "go_test_1.jsonl.gz", map(row, NAMES[4:]))
    split = codesearchnet.read_split(tmp_path / "go")
    assert (len(split.texts), split.own) == (8, tuple(range(8)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"url": "u"', "cannot read it"),
        ("[1]", "line 1: not an object"),
        ('{"code_tokens": ["a"]}', "no field 'url'"),
        ('{"url": "u", "code_tokens": "a b"}', "no list of tokens"),
    ],
)
def test_damaged_lines_are_named(tmp_path, content, said):
    for name in ("test.jsonl", "codebase.jsonl"):
        (tmp_path / name).write_text(content + "\n")
    with pytest.raises(DataError, match=said):
        codesearchnet.read_split(tmp_path)


def test_a_text_without_its_code(tmp_path):
    write_lines(tmp_path / "test.jsonl", [row("worda")])
    write_lines(tmp_path / "codebase.jsonl", [row("wordb")])
    with pytest.raises(DataError, match="u/worda is not in the code base"):
        codesearchnet.read_split(tmp_path)
    with pytest.raises(UsageError, match=r"neither test\.jsonl"):
        codesearchnet.read_split(tmp_path / "nothing")


def test_long_codes_are_counted(encoder, tmp_path):
    long = row(NAMES[0], code_tokens=["return", *NAMES] * 60)
    write_lines(tmp_path / "test.jsonl", map(row, NAMES))
    write_lines(tmp_path / "codebase.jsonl", [long, *map(row, NAMES[1:])])
    before = encoder.preprocess.config
    score, texts, codes = codesearchnet.measure(encoder, codesearchnet.read_split(tmp_path))
    assert 1 / 8 <= score <= 1
    assert (texts, codes) == (0, 1)
    assert encoder.preprocess.config == before


def test_codesearchnet_command(export, tmp_path):
    write_lines(tmp_path / "php" / "test.jsonl", map(row, NAMES))
    write_lines(tmp_path / "php" / "codebase.jsonl", map(row, NAMES))
    words = [str(export), "--data", str(tmp_path), "--language", "php"]
    done = CliRunner().invoke(codesearchnet.command, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.splitlines()[1].split()[0] == "php"


FILES = {
    "CoLA": "gj04\t{label}\t*\tGood {i} is.\n",
    "SST-2": "Fine {i}\t{label}\n",
    "RTE": '{i}\tA "quoted {i}\tIt is.\t{word}\n',
}
HEADS = {"CoLA": "", "SST-2": "sentence\tlabel\n", "RTE": "index\tsentence1\tsentence2\tlabel\n"}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    for task, line in FILES.items():
        for name, count in (("train.tsv", 24), ("dev.tsv", 10)):
            path = tmp_path / "glue" / task / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                line.format(i=i, label=i % 2, word=glue.TASKS[task].classes[i % 2])
                for i in range(1, count + 1)
            ]
            path.write_text(HEADS[task] + "".join(rows))
    return tmp_path / "glue"


def test_glue_files(data):
    first = {task: next(glue.examples(data / task / "dev.tsv", glue.TASKS[task])) for task in FILES}
    assert first == {
        "CoLA": ("Good 1 is.", 1),
        "SST-2": ("Fine 1", 1),
        "RTE": ('A "quoted 1\nIt is.', 1),
    }
    path = data / "SST-2" / "dev.tsv"
    for content, said in (("sentence\n", "no column 'label'"), ("sentence\tlabel\nx\t7\n", "'7'")):
        path.write_text(content)
        with pytest.raises(DataError, match=said):
            list(glue.examples(path, glue.TASKS["SST-2"]))


@pytest.mark.parametrize("kind", ["linear", "finetune"])
def test_glue_command(export, data, monkeypatch, kind):
    from dataclasses import replace

    short = {name: replace(task, epochs=1, seeds=2) for name, task in glue.TASKS.items()}
    monkeypatch.setattr(glue, "TASKS", short)
    words = [str(export), "--data", str(data), "--kind", kind]
    words += [word for task in FILES for word in ("--task", task)]
    done = CliRunner().invoke(glue.command, words, catch_exceptions=False)
    assert done.exit_code == 0
    lines = [line.split() for line in done.output.splitlines()]
    assert [line[0] for line in lines[1:4]] == [*FILES]
    assert lines[4][:4] == ["mean", "of", "3", "tasks:"]


def some_pairs(module):
    return SearchPairs(
        queries=[f"return {name}" for name in NAMES],
        codes=[f"def f(): return {name}" for name in NAMES],
        anonymous=["def Func(): return"] * 8,
        modules=[module + "12"[i % 2] for i in range(8)],
    )


@pytest.mark.parametrize("trains", [False, True])
def test_standard_library_command(trains, export, monkeypatch):
    sides = {"train": some_pairs("a"), "test": some_pairs("b")}
    monkeypatch.setattr(script, "stdlib_pairs", lambda: sides)
    monkeypatch.setattr(script, "is_held_back", lambda module: module == "a1")
    small = {f"encoder.{name}": value for name, value in TINY.items()} | {"train.batch_size": 2}
    monkeypatch.setattr(script, "RECIPE", {**script.RECIPE, **small, "train.warmup": 1})
    words = ["--seeds", "1", "--steps", "2"] if trains else [str(export)]
    done = CliRunner().invoke(stdlib_search.command, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "bm25, anonymised" in done.output
    assert "fused - bm25:" in done.output
    assert "weight of 4 other pairs" in done.output
