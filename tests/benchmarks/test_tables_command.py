"""One face for the tables: names, and where the model may stand."""

import click
import pytest
from click.testing import CliRunner
from zoo.benchmarks.tables import birdset
from zoo.benchmarks.tables.command import command


@pytest.mark.parametrize("name", command.places)
def test_every_table_has_a_command_for_a_model(name):
    found = command.get_command(None, name)
    assert found.params[0].name == "model"
    assert isinstance(found.params[0], click.Argument)


@pytest.mark.parametrize("words", [["tiny", "--seeds", "2"], ["--seeds", "2", "--model", "tiny"]])
def test_the_model_may_be_an_option(words, monkeypatch):
    seen = {}
    monkeypatch.setattr(birdset.command, "callback", lambda **options: seen.update(options))
    done = CliRunner().invoke(command, ["birdset", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (seen["model"], seen["seeds"]) == ("tiny", 2)
