"""The command line: the commands, and the one place where an error becomes a message."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from ppokit import __version__
from ppokit.cli import inspect, plugins, ratings, reward
from ppokit.cli.evaluate import evaluate
from ppokit.cli.gain import gain
from ppokit.cli.generate import generate
from ppokit.cli.leaving import Leaving
from ppokit.cli.new_plugin import new
from ppokit.cli.rate import rate
from ppokit.cli.report import list_runs, report
from ppokit.cli.rescore import rescore
from ppokit.cli.supervised import go_on_in_child
from ppokit.cli.train import train
from ppokit.errors import Interrupted, PpokitError, PpokitWarning, printable

# Names too long, full disks, too many open files: of the machine or the input, not of the program.
_OF_THE_SYSTEM = {errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EIO}

_PLAIN: dict[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "add_completion": False,
    "no_args_is_help": True,
}


class Command(TyperCommand):
    """A command that prints its errors as one paragraph on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; `--debug`, where it has that option, adds the traceback."""
        # Of several processes that train, one prints them.
        quiet = ctx.info_name == "train" and os.environ.get("RANK", "0") != "0"
        warnings.formatwarning = _WarningFormat(quiet)
        try:
            return super().invoke(ctx)
        except PpokitError as error:
            _fail(ctx, f"error: {error}")
            raise typer.Exit(error.exit_code) from error
        except Interrupted as stop:
            message = f"ppokit: stopped by {signal.Signals(stop.signum).name}"
            typer.echo(". ".join([message, *getattr(stop, "__notes__", ())]), err=True)
            raise typer.Exit(stop.exit_code) from stop
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except OSError as error:
            if error.errno not in _OF_THE_SYSTEM:
                self._bug(ctx, error)
            _fail(ctx, f"error: {error}")
            raise typer.Exit(PpokitError.exit_code) from error
        except (Exception, SystemExit) as error:
            self._bug(ctx, error)
        finally:
            warnings.formatwarning = _python_format

    def _bug(self, ctx: Any, error: BaseException) -> NoReturn:
        _fail(
            ctx,
            f"error: a bug in ppokit: {type(error).__name__}: {error}"
            + ("" if ctx.params.get("debug") else " (--debug shows the traceback)"),
        )
        raise typer.Exit(1) from error


_python_format = warnings.formatwarning


class _WarningFormat:
    """Formats ppokit's own warnings once each, without the line of code that gave them."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.printed: set[str] = set()

    def __call__(self, message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> str:
        if not issubclass(category, PpokitWarning):
            return _python_format(message, category, *args, **kwargs)
        text = str(message)
        if self.quiet or text in self.printed:
            return ""
        self.printed.add(text)
        return "ppokit: warning: " + printable(text, keep="\n") + "\n"


def _fail(ctx: Any, message: str) -> None:
    if ctx.params.get("debug"):
        traceback.print_exc()
    typer.echo(printable(f"ppokit: {message}", keep="\n"), err=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ppokit {__version__}")
        raise typer.Exit()


app = typer.Typer(name="ppokit", **_PLAIN)
plugin_commands = typer.Typer(**_PLAIN)
app.add_typer(plugin_commands, name="plugins", help="Plugins: what is installed, new ones, and checks.")


@app.callback()
def _ppokit(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Fine-tune language models with PPO: plugins for the parts, a YAML recipe for the run."""


app.command(cls=Command)(train)
app.command(cls=Command)(generate)
app.command(cls=Command)(evaluate)
app.command(cls=Command)(rescore)
app.command(cls=Command)(report)
app.command("runs", cls=Command)(list_runs)
app.command(cls=Command)(inspect.validate)
app.command(cls=Command)(inspect.schema)
plugin_commands.command("list", cls=Command)(plugins.list_plugins)
plugin_commands.command("new", cls=Command)(new)
plugin_commands.command("check", cls=Command)(plugins.check)
app.command(cls=Command)(rate)
ratings_commands = typer.Typer(**_PLAIN)
app.add_typer(ratings_commands, name="ratings", help="People's ratings: check, measure, convert them.")
for _name, _command in ratings.COMMANDS.items():
    ratings_commands.command(_name, cls=Command)(_command)
reward_commands = typer.Typer(**_PLAIN)
app.add_typer(reward_commands, name="reward", help="Reward models from people's ratings.")
reward_commands.command("fit", cls=Command)(reward.fit)
reward_commands.command("gain", cls=Command)(gain)


def main() -> None:
    """The program `ppokit`."""
    leaving = Leaving()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a model may write what a terminal cannot show
    if sys.argv[1:3] == ["plugins", "check"]:
        go_on_in_child()
    try:
        app(prog_name="ppokit")
    except SystemExit as end:
        leaving.with_code(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
