"""The command line: one file a command, parsing and printing only.

Exit status: 0 done; 1 a stage failed or a gate refused; 2 bad input or usage; 130 Ctrl-C. A user
error is one line on stderr; ``--debug`` shows where it came from.
"""

from __future__ import annotations

import errno
import importlib
import sys
import traceback

import typer

from edgestill.cli.interrupt import forget_interrupt, remember_interrupts
from edgestill.errors import EdgestillError

_COMMANDS = (  # in the order of the help page; each file has an add_to(app)
    "quickstart",
    "init",
    "run",
    "distill",
    "export",
    "quantize",
    "bundle",
    "evaluate",
    "bench",
    "compare",
    "chat",
    "runner",
    "devices",
    "deploy",
    "apps",
    "plan",
    "report",
    "doctor",
)

app = typer.Typer(
    help="Take a language model from a teacher to a device: distil, export, quantise, prove, pack, measure.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in _COMMANDS:
    importlib.import_module(f"edgestill.cli.{_command}").add_to(app)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    if version:
        import importlib.metadata

        typer.echo(f"edgestill {importlib.metadata.version('edgestill')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    sys.exit(_status([word for word in given if word != "--debug"], debug))


def _status(arguments: list[str], debug: bool) -> int:
    remember_interrupts()
    try:
        result = app(arguments, prog_name="edgestill", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        forget_interrupt()
        _say("stopped; what was finished is kept, the same command continues from there")
        return 130
    except EdgestillError as error:
        return _fail(str(error), error.exit_status, debug)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(f"disk full ({error.filename or 'while writing'}); free some room and run again", 1, debug)
        return _fail(f"{error.strerror or error}: {error.filename or ''}; run with --debug for details", 1, debug)
    except Exception as error:  # noqa: BLE001 - the outermost frame: anything else is a bug, said in one line
        # typer's own usage errors carry their message and exit status.
        message = getattr(error, "format_message", None)
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help page
            _say(str(message()) if message is not None else str(error))
            return 2
        if message is not None:
            return _fail(str(message()), int(getattr(error, "exit_code", 2)), debug)
        kind = type(error).__name__
        return _fail(f"internal error: {kind}: {' '.join(str(error).split())}; --debug shows where", 1, debug)


def _fail(message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _say("error: " + " ".join(message.split()))
    return status


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
