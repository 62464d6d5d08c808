"""`pgbackup slot create|drop|show`, on every host of the connection string."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import typer

from pgbackup.cli import connection, options
from pgbackup.cli.output import format_size, print_json, print_table, say_error
from pgbackup.errors import ExitCode, PgbackupError, UsageError
from pgbackup.replication import client
from pgbackup.replication.slotstate import SlotState, closing, look_at_slot

HEADINGS = ("HOST", "TYPE", "ACTIVE", "WAL STATUS", "RESTART", "RETAINED", "SAFE")

Act = Callable[[connection.Connector], str | SlotState]

UNKNOWN = "?"
NOTHING = "-"


class Action(StrEnum):
    """What to do with a slot."""

    CREATE = "create"
    DROP = "drop"
    SHOW = "show"


class Answer(NamedTuple):
    """What came of it on one host."""

    host: str
    done: str | SlotState | PgbackupError


def slot(
    action: Annotated[Action, typer.Argument(help="What to do.")],
    name: Annotated[str, typer.Argument(help="Name of the slot.")],
    *,
    host: connection.Host = None,
    port: connection.Port = None,
    username: connection.User = None,
    dbname: connection.Dbname = None,
    no_password: connection.NoPassword = False,
    password: connection.AskPassword = False,
    reserve_wal: Annotated[
        bool,
        typer.Option("--reserve-wal", help="create: hold WAL at once, not from first use on."),
    ] = False,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="create: a slot of that name is fine.")
    ] = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> int:
    """Create, drop or show a physical replication slot, on every host that is named.

    With several hosts (-h db1,db2), each gets its turn whatever becomes of the others; the exit
    status is that of the first that failed.
    """
    if action is not Action.CREATE and (reserve_wal or if_not_exists):
        raise UsageError("--reserve-wal and --if-not-exists go with slot create")
    connector = connection.Connector(
        host, port, username, dbname, never_ask=no_password, ask=password
    )

    def create(at: connection.Connector) -> str:
        with closing(at.connect()) as transport:
            is_new = client.create_slot(
                transport, name, reserve_wal=reserve_wal, if_not_exists=if_not_exists
            )
        return "created" if is_new else "is there already"

    def drop(at: connection.Connector) -> str:
        with closing(at.connect()) as transport:
            client.drop_slot(transport, name)
        return "dropped"

    def show(at: connection.Connector) -> SlotState:
        return look_at_slot(at.connect_quietly, at.connect, name)

    acts: dict[Action, Act] = {Action.CREATE: create, Action.DROP: drop, Action.SHOW: show}
    hosts = connector.each_host()
    answers = [_ask(acts[action], *each, is_only=len(hosts) == 1) for each in hosts]
    if json:
        print_json({"slot": name, "hosts": [_document(each) for each in answers]})
    elif action is Action.SHOW:
        print_table(HEADINGS, [_row(each) for each in answers])
    elif not quiet:
        _print_done(name, answers)
    return _tell_failures(answers)


def _ask(
    act: Act,
    host: str,
    connector: connection.Connector,
    *,
    is_only: bool,
) -> Answer:
    try:
        return Answer(host, act(connector))
    except PgbackupError as error:
        if is_only:
            raise
        return Answer(host, error)


def _tell_failures(answers: list[Answer]) -> int:
    status: int = ExitCode.OK
    for each in answers:
        if isinstance(each.done, PgbackupError):
            error = each.done
            say_error(f"{each.host}: {error.message}", detail=error.detail, hint=error.hint)
            status = status or error.exit_code
    return status


def _print_done(name: str, answers: list[Answer]) -> None:
    for each in answers:
        if isinstance(each.done, str):
            print(f"{each.host}: slot {name} {each.done}")


def _row(answer: Answer) -> tuple[str, ...]:
    state = answer.done
    if not isinstance(state, SlotState):
        return (answer.host, "FAILED", *[NOTHING] * (len(HEADINGS) - 2))
    is_active = {None: UNKNOWN, True: "yes", False: "no"}[state.is_active]
    safe = NOTHING if state.safe_size is None else format_size(max(0, state.safe_size))
    if state.restart is None:
        restart, status = NOTHING, NOTHING
    else:
        restart, status = str(state.restart), UNKNOWN
    if state.status is not None:
        status = state.status.value
    retained = format_size(state.retained)
    return (answer.host, state.kind, is_active, status, restart, retained, safe)


def _document(answer: Answer) -> dict[str, Any]:
    done = answer.done
    if isinstance(done, PgbackupError):
        error = {"code": int(done.exit_code), "message": done.message, "hint": done.hint}
        return {"host": answer.host, "error": error}
    if isinstance(done, str):
        return {"host": answer.host, "done": done}
    return {
        "host": answer.host,
        "type": done.kind,
        "active": done.is_active,
        "wal_status": done.status,
        "restart_lsn": None if done.restart is None else str(done.restart),
        "retained_bytes": done.retained,
        "safe_wal_size": done.safe_size,
        "server_lsn": str(done.server_end),
    }
