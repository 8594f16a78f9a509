"""A group of commands, each imported only when it is asked for."""

import importlib
from collections.abc import Mapping

import click

from zoo.errors import UnknownNameError

__all__ = ["Verbs"]


class Verbs(click.Group):
    """Verbs by the module that holds each as `command`."""

    def __init__(self, name: str, *, places: Mapping[str, str], help: str) -> None:
        super().__init__(name, help=help, context_settings={"help_option_names": ["-h", "--help"]})
        self.places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help."""
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb; an unknown one is refused with the nearest names."""
        if cmd_name not in self.places:
            hint = f"{ctx.command_path} --help shows all"
            raise UnknownNameError("command", cmd_name, self.places, hint)
        command = importlib.import_module(self.places[cmd_name]).command
        assert isinstance(command, click.Command)
        return command
