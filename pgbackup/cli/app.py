"""The program: its verbs, and the only place where errors become messages and exit codes."""

import gc
import json
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer
from typer.exceptions import TyperException

import pgbackup
from pgbackup.cli import backup, listing, restore, show
from pgbackup.cli.output import say, say_error
from pgbackup.errors import ExitCode, Interrupted, PgbackupError

EXIT_STATUS = """
\b
Exit status: 0 ok; 1 failed; 2 usage; 3 connection or authentication;
4 repository unreachable or denied; 5 not found; 6 locked or conflict;
7 verification failed; 8 refused for safety; 9 WAL missing or target not
reachable; 10 finished with warnings; 130 interrupted.
"""

app = typer.Typer(
    name="pgbackup",
    help="Base backups and WAL archiving for PostgreSQL, in standard formats." + EXIT_STATUS,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-?"]},
)

for _name, _function in (
    ("backup", backup.backup),
    ("list", listing.list_backups),
    ("show", show.show),
    ("restore", restore.restore),
):
    app.command(_name, help=(_function.__doc__ or "") + EXIT_STATUS)(_function)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pgbackup {pgbackup.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns: its exit status. Every PgbackupError ends here, in one sentence.
    """
    os.umask(0o077)
    _interrupt_on_sigterm()
    try:
        status = app(list(arguments), standalone_mode=False)
        sys.stdout.flush()
    except TyperException as error:
        say_error(error.format_message(), hint=_help_hint(arguments))
        return ExitCode.USAGE
    except PgbackupError as error:
        _report(error, as_json="--json" in arguments)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        say("pgbackup: interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return ExitCode.FAILED
    finally:
        gc.enable()
    return status if isinstance(status, int) else ExitCode.OK


def _help_hint(arguments: Sequence[str]) -> str:
    verbs = [name for name in arguments[:1] if not name.startswith("-")]
    return f"Type: pgbackup {' '.join([*verbs, '--help'])}"


def _report(error: PgbackupError, *, as_json: bool) -> None:
    if as_json:
        document = {
            "message_type": "exit_error",
            "code": int(error.exit_code),
            "message": error.message,
            "detail": error.detail,
            "hint": error.hint,
        }
        say(json.dumps(document, ensure_ascii=False))
    else:
        say_error(error.message, detail=error.detail, hint=error.hint)


def _interrupt_on_sigterm() -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted("the command was terminated by a signal")

    signal.signal(signal.SIGTERM, interrupt)


def _forget_stdout() -> None:
    # The reader has gone; without this the interpreter complains once more at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
