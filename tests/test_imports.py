"""Importing costs little, and changes nothing."""

import json
import subprocess
import sys

from safetensors.torch import save_file

import zoo

HEAVY = {"torch", "numpy", "timm", "monai", "open_clip", "huggingface_hub", "rich", "sklearn"}
LOOK = """
import json, logging, os, sys, threading
before = (dict(os.environ), list(logging.root.handlers), threading.active_count())
{code}
after = (dict(os.environ), list(logging.root.handlers), threading.active_count())
print("\\n" + json.dumps([before == after, sorted(sys.modules)]))
"""


def look(code):
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(code=code)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_listing_loads_nothing_heavy():
    code = "import zoo; zoo.list_models('mae*', modality='vision'); zoo.card('mae'); dir(zoo)"
    unchanged, modules = look(code)
    assert unchanged
    assert not HEAVY & set(modules)
    assert "zoo.registry.catalogue" in modules


def test_list_and_card_commands_load_nothing_heavy():
    for words in (["list", "mae*"], ["card", "mae"], ["--help"]):
        code = f"import sys; sys.argv = ['zoo', *{words!r}]; from zoo.cli import main; main()"
        _, modules = look(code)
        assert not HEAVY & set(modules)


def test_loading_needs_no_other_library():
    """Encoders are torch and safetensors: timm alone would triple the start-up."""
    _, modules = look("import zoo; zoo.create('mae-base', depth=1, dim=32, heads=2)")
    assert not {"timm", "torchvision", "monai", "open_clip", "xformers"} & set(modules)


def test_loading_does_not_import_the_compiler(tmp_path):
    """Drawing on the meta device would: three seconds, for weights that are replaced."""
    for name, size in (("digits-mae", {}), ("stdlib-mlm", {"vocab_size": 320})):
        path = tmp_path / f"{name}.safetensors"
        save_file(zoo.create(name, **size).state_dict(), path)
        code = f"import zoo; zoo.load({name!r}, weights={str(path)!r}, **{size!r})"
        assert "torch._dynamo" not in look(code)[1]


def test_import_with_torch_changes_nothing():
    unchanged, _ = look("import zoo; zoo.create")
    assert unchanged
