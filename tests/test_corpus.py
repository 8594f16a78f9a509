"""A folder of source code as samples: units, documentation, licences, duplicates, bad files."""

import json

import pytest
from click.testing import CliRunner
from zoo.modalities.code.codec import MAX_BYTES, CodeCodec
from zoo.modalities.code.syntax import identifiers, parse

from zoo.cli import cli
from zoo.corpus import code_source, near_duplicates, read_source
from zoo.data.building.build import SKIPPED, build_shards
from zoo.data.shard.write import MANIFEST
from zoo.data.shards import ShardSet
from zoo.errors import DataError, UnknownNameError, UsageError

PYTHON = '''# SPDX-License-Identifier: MIT
import os


class Store:
    @property
    def size(self):
        """How many things are stored.

        Counted anew each time.
        """
        return len(self.things)

    def nothing(self):
        """Does nothing."""
        ...


def plain(x):
    return [part.strip() for part in x.split(",") if part]
'''
GO = "package p\n\n// Double gives twice its argument.\nfunc Double(a int) int {\n\treturn 2 * a\n}"
JS = "/** Adds two\n * numbers. */\nexport function add(a, b) { return a + b; }\n"
JAVA = "class A {\n  /** Twice. */\n  int twice(int a) { return 2 * a; }\n}\n"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "src"
    (folder / "lib").mkdir(parents=True)
    (folder / "LICENSE").write_text("whatever")
    (folder / "store.py").write_text(PYTHON)
    (folder / "lib" / "copy.py").write_text(PYTHON)
    (folder / "lib" / "a.go").write_text(GO)
    (folder / "a.js").write_text(JS)
    (folder / "A.java").write_text(JAVA)
    (folder / "notes.md").write_text("no code")
    return folder


def samples(source):
    codec = CodeCodec()
    return [codec.decode(dict(item.members)) for item in source.places]


def by_name(source):
    return {sample["facts"]["name"]: sample for sample in samples(source)}


def test_functions_of_several_languages(root):
    source = code_source(root)
    found = by_name(source)
    assert set(found) == {"size", "plain", "Double", "add", "twice"}
    assert source.facts["left_out"] == {
        "duplicate": 2,
        "empty": 2,
        "other_language": 2,  # LICENSE and notes.md
    }
    size = found["size"]
    assert size["text"] == "@property\ndef size(self):\n    return len(self.things)"
    assert size["facts"]["query"] == "How many things are stored."
    assert size["facts"]["licence"] == "MIT"
    assert found["add"]["facts"]["licence"] == "LICENSE"
    assert found["add"]["facts"]["query"] == "Adds two numbers."
    assert found["Double"]["facts"] | {"licence": ""} == {
        **{"file": "lib/a.go", "language": "go", "licence": "", "empty": False},
        **{"name": "Double", "line": 4, "query": "Double gives twice its argument."},
    }
    assert sum(source.facts["licences"].values()) == len(found)


def test_pairs_have_documentation_and_files_are_whole(root):
    pairs = code_source(root, unit="pair")
    assert set(by_name(pairs)) == {"size", "Double", "add", "twice"}
    assert pairs.facts["left_out"]["undocumented"] == 2  # `plain`, in both copies
    files = code_source(root, unit="file")
    assert sorted(sample["facts"]["file"] for sample in samples(files)) == [
        *("A.java", "a.js", "lib/a.go", "store.py"),
    ]


def test_syntax_errors_are_kept_and_flagged(root):
    (root / "broken.py").write_text("def half(x:\n    return x / 2\n")
    source = code_source(root, unit="file")
    flagged = [s["facts"]["file"] for s in samples(source) if s["facts"].get("broken")]
    assert flagged == ["broken.py"]
    assert source.facts["files_with_syntax_errors"] == 1


BAD = {
    "binary.py": b"x = 1\0\1\2",
    "latin.js": "// caf\xe9\n".encode("latin-1"),
    "huge.py": b"x" * (MAX_BYTES + 1),
    "cookie.py": b"# coding: no-such-thing\n",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_or_listed(root, tmp_path, name):
    (root / name).write_bytes(BAD[name])
    with pytest.raises(DataError, match=f"{name}.*--skip-bad"):
        code_source(root)
    out = tmp_path / "shards"
    manifest = build_shards(code_source(root, skip=True), out, workers=0)
    assert (manifest["samples"], manifest["skipped"]) == (5, 1)
    assert json.loads((out / SKIPPED).read_text())["where"] == name


def test_encodings(tmp_path):
    path = tmp_path / "a.py"
    for data in (
        "# coding: latin-1\nx = 'é'\n".encode("latin-1"),
        "\ufeffx = 'é'\r\n".encode(),
    ):
        path.write_bytes(data)
        assert read_source(path).endswith("x = 'é'\n")


def test_near_duplicates_are_found_and_others_are_not():
    is_known = near_duplicates(0.7)
    words = " ".join(f"word{i}" for i in range(200))
    assert not is_known("a", words)
    assert is_known("b", words + " more")
    assert not is_known("c", " ".join(f"other{i}" for i in range(200)))
    with pytest.raises(UsageError, match="between 0 and 1"):
        near_duplicates(1.5)


def test_similar_texts_are_counted(root):
    long = PYTHON + "".join(f"    y{i} = {i} * {i + 1} + {i + 2}\n" for i in range(60))
    (root / "one.py").write_text(long)
    (root / "two.py").write_text(long + "    z = 0\n")
    source = code_source(root, unit="file", similar=0.8)
    assert source.facts["left_out"]["near_duplicate"] == 1


def test_a_file_that_changes_meanwhile_is_noticed(root):
    source = code_source(root)
    (root / "a.js").write_text(JS + "\n")
    with pytest.raises(DataError, match="has changed"):
        list(source.places)


def test_command(root):
    out = root / "shards"

    def run(*words):
        command = ["shards", "build", str(root), str(out), "--workers", "0", *words]
        return CliRunner().invoke(cli, command)

    done = run("--unit", "pair")
    assert done.exit_code == 0, done.output
    assert "4 samples" in done.output
    assert json.loads((out / MANIFEST).read_text())["modality"] == "code"
    decoded = [CodeCodec().decode(ShardSet(out).read(i)) for i in range(4)]
    assert all(sample["facts"]["query"] for sample in decoded)
    with pytest.raises(UsageError, match="needs --unit"):
        raise run("--similar", "0.8").exception


def test_identifiers_are_given_in_characters():
    text = "def f(é):\n    return é + x.y\n"
    assert [text[a:b] for a, b in identifiers(text, "python")] == ["f", "é", "é", "x", "y"]
    with pytest.raises(UnknownNameError, match="python"):
        parse("", "pyhton")
