"""The command line: one file, one command. No command holds arithmetic."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from typing import Any

import click

from joulemeter.errors import JoulemeterError


class Suggesting(click.Group):
    """A group that names the nearest command where a name is misspelt."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near or "Did you mean" in error.message:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", ctx) from None


class Commands(Suggesting):
    """The commands are the files of this folder; a file is imported when its command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(
            module.name.replace("_", "-")
            for module in pkgutil.iter_modules(__path__)
            if module.name[0] != "_"
        )

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="joulemeter")
def command() -> None:
    """Where the joules go: energy of deep-learning code, with origin and interval.

    \b
    First steps:
      joulemeter doctor               which meters this machine has
      joulemeter run train.py         run a script and see where its joules went
      joulemeter report RUN           the same table again, or JSON, from its run folder

    \b
    Then:
      joulemeter report RUN --format html -o run.html       a page for the browser
      joulemeter run --level api,module train.py            by layer as well
      joulemeter isolate torch:mm --setup … --args …        one call, known better
      joulemeter run --repeat 5 -o after train.py           several times, for
      joulemeter compare before after --fail-above 3%       a verdict

    \b
    Before anything runs:
      joulemeter bench -o machine/                          what kernels cost here
      joulemeter predict net.onnx --predictor machine/      what a network will cost

    Exit statuses: 0 done; 1 a foreseen fault; 2 usage; 3 meter; 4 run folder; 5 data set; 6 network file;
    7 predictor; 10 `compare --fail-above` found more. `run` ends with the exit status of the script.
    """


def main() -> None:
    """Runs the command line; foreseen faults become one line on stderr and their exit status."""
    if os.environ.get("NO_COLOR"):
        command.context_settings["color"] = False
    try:
        status = command.main(standalone_mode=False)
    except click.exceptions.Abort:
        status = 130
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except JoulemeterError as error:
        click.echo(f"joulemeter: {error}", err=True)
        status = error.exit_status
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if not extra:
            raise
        remedy = f"pip install 'joulemeter[{extra}]'"
        click.echo(f"joulemeter: this needs {error.name}, which is not installed. Try: {remedy}", err=True)
        status = 1
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing more to say, and not at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status if isinstance(status, int) else 0)


def extra_of(module: str) -> str:
    """The extra of joulemeter that brings a module; empty where none does."""
    import re
    from importlib import metadata

    name = module.partition(".")[0]
    wanted = {"sklearn": "scikit-learn"}.get(name, name).replace("_", "-").lower()
    for line in metadata.requires("joulemeter") or ():
        found = re.match(r"([\w.-]+).*extra == [\"'](\w+)[\"']", line)
        if found and found[2] not in ("demo", "test", "docs"):
            package = found[1].replace("_", "-").lower()
            if package == wanted or package.startswith(f"{wanted}-"):
                return found[2]
    return ""
