"""The program: its verbs, and the only place where errors become messages and exit codes."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import Annotated

import typer
from typer.exceptions import TyperException

import pgbackup
from pgbackup.cli.output import json_text, say_error
from pgbackup.cli.streams import prepare_streams
from pgbackup.errors import ExitCode, Interrupted, PgbackupError, UsageError
from pgbackup.interrupts import ENDING_SIGNALS, held_back

EXIT_STATUS = """
\b
Exit status:
  0 ok                               6 locked or conflict
  1 failed                           7 verification failed
  2 usage                            8 refused for safety
  3 connection or authentication     9 WAL missing, target not reachable
  4 repository unreachable          10 finished with warnings
  5 not found                      130 interrupted
"""

VERBS = {
    "backup": "backup",
    "list": "list_backups",
    "show": "show",
    "expire": "expire",
    "pin": "pin",
    "unpin": "unpin",
    "verify": "verify",
    "restore": "restore",
    "wal-push": "wal_push",
    "wal-get": "wal_get",
    "receive-wal": "receive_wal",
    "serve": "serve",
    "serve-user": "serve_user",
    "slot": "slot",
    "wal": "wal",
    "status": "status",
    "windows": "windows",
    "check": "check",
    "cron": "cron",
}
"""Each verb and its function, or group of them, in the module of its name with underscores."""


_AGAIN = 0.001
"""Seconds after which a signal is raised again that came while a finalizer ran."""


class _Ended(BaseException):
    """A signal asks the command to end. No library that catches every Exception swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns: its exit status. Every PgbackupError ends here, in one sentence.
    """
    os.umask(0o077)
    prepare_streams()
    _interrupt_on_signals()
    try:
        _check_directory()
        with held_back():  # an import that is cut in half can be taken for a missing library
            app = build_app(arguments)
        status = app(list(arguments), standalone_mode=False)
        sys.stdout.flush()
    except _Ended as end:
        interrupted = Interrupted(f"the command was interrupted by {end.signal.name}")
        _report(interrupted, as_json="--json" in arguments)
        return interrupted.exit_code
    except TyperException as error:
        message = " ".join(error.format_message().split())
        message = message.rstrip(".").replace("Value error, ", "")
        mistake = UsageError(message[:1].lower() + message[1:], hint=_help_hint(arguments))
        _report(mistake, as_json="--json" in arguments)
        return mistake.exit_code
    except PgbackupError as error:
        _report(error, as_json="--json" in arguments)
        return error.exit_code
    except typer.Abort:
        say_error("the input ended")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.FAILED
    finally:
        with suppress(PgbackupError, BrokenPipeError):  # beside another error, which counts
            sys.stdout.flush()
        _end_at_signals()
    return status if isinstance(status, int) else ExitCode.OK


def _check_directory() -> None:
    """Raises: UsageError if there is nothing that a relative path could be relative to."""
    try:
        os.getcwd()  # noqa: PTH109 - a look
    except OSError as error:
        raise UsageError(
            "could not find the current directory: it was removed",
            hint="Change to another one with: cd /",
        ) from error


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The command line, with the verb that is asked for, or all when help has to name them.

    One verb alone starts a tenth of a second sooner than all of them.
    """
    app = typer.Typer(
        name="pgbackup",
        help="Base backups and WAL archiving for PostgreSQL, in standard formats.",
        epilog=EXIT_STATUS,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-?"]},
    )
    app.callback()(_options)
    wanted = [name for name in VERBS if name in arguments[:1]]
    for name in wanted or VERBS:
        module = import_module(_module(name))
        epilog = getattr(module, "EXIT_STATUS", EXIT_STATUS)
        verb = getattr(module, VERBS[name])
        if isinstance(verb, typer.Typer):
            _add_group(app, name, verb)
        else:
            app.command(name, epilog=epilog)(verb)
    return app


def _add_group(app: typer.Typer, name: str, group: typer.Typer) -> None:
    for command in group.registered_commands:
        command.epilog = EXIT_STATUS
    app.add_typer(group, name=name, epilog=EXIT_STATUS)


def _print_version(wanted: bool) -> None:
    if wanted:
        from pgbackup.pg.page import KERNEL  # noqa: PLC0415 - most verbs check no pages

        typer.echo(f"pgbackup {pgbackup.__version__} (page checks: {KERNEL})")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def _help_hint(arguments: Sequence[str]) -> str:
    verbs = [name for name in arguments[:1] if name in VERBS]
    group = getattr(import_module(_module(verbs[0])), VERBS[verbs[0]]) if verbs else None
    if isinstance(group, typer.Typer):
        commands = {each.name for each in group.registered_commands}
        verbs += [word for word in arguments[1:2] if word in commands]
    return f"Type: pgbackup {' '.join([*verbs, '--help'])}"


def _module(verb: str) -> str:
    return f"pgbackup.cli.{verb.replace('-', '_')}"


def _report(error: PgbackupError, *, as_json: bool) -> None:
    if as_json:
        document = {
            "message_type": "exit_error",
            "code": int(error.exit_code),
            "message": error.message,
            "detail": error.detail,
            "hint": error.hint,
        }
        print(json_text(document, sys.stderr), file=sys.stderr, flush=True)
    else:
        say_error(error.message, detail=error.detail, hint=error.hint)


def _interrupt_on_signals() -> None:
    """Let what asks the program to end be an error, so that everything is cleaned up."""
    asked: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGALRM:
            asked.append(number)
        raise _Ended(asked[-1])

    def raise_again(lost: "sys.UnraisableHookArgs") -> None:
        """A finalizer cannot pass an error on; raise it again when it has returned."""
        if isinstance(lost.exc_value, _Ended):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            sys.__unraisablehook__(lost)

    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as it is under nohup
            signal.signal(number, interrupt)
    signal.signal(signal.SIGALRM, interrupt)
    sys.unraisablehook = raise_again


def _end_at_signals() -> None:
    """Nothing is left to clean up, and nobody to take an error."""
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    sys.unraisablehook = sys.__unraisablehook__
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
