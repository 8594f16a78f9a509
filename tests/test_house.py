"""The house: what is where, who may import whom, and how long a file or a function may be."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from zoo.registry.catalogue import ROOT as REGISTRY
from zoo.registry.catalogue import render_index

pytestmark = pytest.mark.tree
ROOT = Path(__file__).parent.parent
MAPPED = ("modalities", "objectives", "registry", "hub", "benchmarks")
SOURCES = sorted(
    path
    for folder in ("zoo", *MAPPED)
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def test_top_level_is_the_agreed_one():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    found = {name.split("/")[0] for name in tracked} - {".gitignore", "docs"}
    assert found == {
        *("pyproject.toml", "README.md", "Makefile", "constraints.txt", "LICENSE"),
        *("CHANGELOG.md", "CONTRIBUTING.md", ".ci", "zoo", "tests", *MAPPED),
    }


def test_packages_equal_the_folders():
    """A folder that is missing from the list works here and is absent from the wheel."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for path in SOURCES
        if path.name == "__init__.py"
    }
    found = {name if name.split(".")[0] == "zoo" else f"zoo.{name}" for name in found}
    assert set(options["packages"]) == found


def test_files_and_functions_are_short():
    long = []
    for path in [*SOURCES, *TESTS]:
        most = 800 if path in TESTS else 400
        text = path.read_text()
        if text.count("\n") > most:
            long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        if path in TESTS:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1 - _docstring_lines(node)
                if lines > 60:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert not long


def _docstring_lines(node):
    first = node.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return first.end_lineno - first.lineno + 1 if is_text else 0


# benchmarks -> facade -> {training, data, hub} -> registry -> {objectives, modalities}
LAYERS = {
    "zoo.modalities": (),
    "zoo.objectives": ("zoo.modalities",),
    "zoo.registry": ("zoo.objectives", "zoo.modalities"),
    "zoo.hub": ("zoo.registry", "zoo.objectives", "zoo.modalities"),
    "zoo.data": ("zoo.registry",),
    "zoo.training": ("zoo.data", "zoo.registry", "zoo.objectives", "zoo.modalities"),
}
LEAVES = ("zoo.errors", "zoo.files")
# The engine sees the contracts, and no modality or objective.
CONTRACTS = ("zoo.modalities.contracts", "zoo.objectives.contract")


def _module(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name if name.startswith("zoo") else f"zoo.{name}"


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("layer", LAYERS)
def test_dependencies_point_one_way(layer):
    wrong = []
    for path in SOURCES:
        if not f"{_module(path)}.".startswith(f"{layer}."):
            continue
        for name in _imports(path):
            if not name.startswith("zoo") or name.startswith((f"{layer}.", *LEAVES)):
                continue
            fine = any(f"{name}.".startswith(f"{below}.") for below in LAYERS[layer])
            if layer == "zoo.training" and name.startswith(("zoo.modalities", "zoo.objectives")):
                fine = name in CONTRACTS
            if not fine:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_index_is_fresh():
    fresh = (REGISTRY / "index.json").read_text() == render_index()
    assert fresh, "a card has changed: run `python -m zoo.registry`"


def test_no_second_copy_of_a_module():
    """From the repository's root `import modalities` works, and makes a second ViT class."""
    assert not {"modalities", "objectives", "registry", "hub", "benchmarks"} & sys.modules.keys()


def test_no_hosts_and_no_machine_paths():
    hosts = re.compile(r"py(pi|thonhosted)\.\w{2,4}\b|registry\.npm|deb\.debian")
    places = re.compile(r"(^|[^A-Za-z0-9_.])/(work|root|farm)/")
    for path in [*SOURCES, *TESTS, *ROOT.glob("*.*"), ROOT / ".ci" / "run", ROOT / "Makefile"]:
        if path.is_file() and path != Path(__file__) and path.name != ".git":
            text = path.read_text()
            assert not hosts.search(text), path
            assert not places.search(text), path


def test_constraints_are_exact():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9_.-]+==[a-z0-9_.+-]+", pin) for pin in pins), pins
    assert {"torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0", "xformers==0.0.35"} <= {
        *pins
    }
