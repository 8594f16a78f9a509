"""The `zoo` command: one small file a verb, loaded when it is used."""

import os
import sys
import warnings
from typing import TextIO

import click

from zoo.cli.verbs import Verbs
from zoo.errors import ZooError, unexpected

__all__ = ["main"]

COMMANDS = {
    "list": "zoo.cli.list",
    "card": "zoo.cli.card",
    "catalogue": "zoo.cli.catalogue",
    "load-check": "zoo.cli.load_check",
    "plan": "zoo.cli.plan",
    "pretrain": "zoo.cli.pretrain",
    "export": "zoo.cli.export",
    "publish": "zoo.cli.publish",
    "convert": "zoo.cli.convert",
    "embed": "zoo.cli.embed",
    "probe": "zoo.cli.probe",
    "shards": "zoo.cli.shards",
    "report": "zoo.cli.report",
    "bench": "zoo.cli.bench",
    "demo": "zoo.cli.demo",
    "doctor": "zoo.cli.doctor",
}


cli = Verbs(
    "zoo",
    places=COMMANDS,
    help="Pretrained encoders of many modalities, and the engine that pretrains them.",
)
cli.params += [
    click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
]
cli = click.version_option(package_name="zoo")(cli)


def main() -> None:
    """Runs the command; errors become one line on stderr and an exit code (2 usage, 1 failure)."""
    warnings.showwarning = _warn
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
        _say(unexpected(error))
        return 1
    _say(str(error))
    running = "pretrain" in sys.argv[1:3]
    if running and error.run_exit_code is not None:
        return error.run_exit_code
    return error.exit_code


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Without the line of zoo's code that gave it, which says nothing to a user."""
    _say(f"warning: {message}")


def _say(line: str) -> None:
    click.echo(f"zoo: {' '.join(line.split())}", err=True)
