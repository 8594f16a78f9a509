"""The `zoo` command: one small file a verb, loaded when it is used."""

import importlib
import os
import sys

import click

from zoo.errors import UnknownNameError, ZooError

__all__ = ["main"]

COMMANDS = {
    "list": "zoo.cli.list",
    "card": "zoo.cli.card",
    "load-check": "zoo.cli.load_check",
    "pretrain": "zoo.cli.pretrain",
    "embed": "zoo.cli.embed",
    "probe": "zoo.cli.probe",
    "demo": "zoo.cli.demo",
    "doctor": "zoo.cli.doctor",
}


class _Verbs(click.Group):
    """Imports a verb's module only when that verb is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            raise UnknownNameError("command", cmd_name, COMMANDS, "zoo --help shows all")
        command = importlib.import_module(COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="zoo")
def cli(debug: bool) -> None:
    """Pretrained encoders of many modalities, and the engine that pretrains them."""


def main() -> None:
    """Runs the command; errors become one line on stderr and an exit code (2 usage, 1 failure)."""
    try:
        cli.main(standalone_mode=False)
        sys.stdout.flush()
        return
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        code = 130
    except BrokenPipeError:  # the reader left: `zoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        code = _explain(error)
    sys.exit(code)


def _explain(error: Exception) -> int:
    if not isinstance(error, ZooError):
        kind = type(error).__name__
        _say(
            f"internal error, {kind}: {error}; please report it with the output of zoo --debug ..."
        )
        return 1
    _say(str(error))
    running = "pretrain" in sys.argv[1:3]
    if running and error.run_exit_code is not None:
        return error.run_exit_code
    return error.exit_code


def _say(line: str) -> None:
    click.echo(f"zoo: {' '.join(line.split())}", err=True)
