"""`pgbackup slot create|drop|show`, on every host of the connection string, or in a repository."""

import os
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import typer

from pgbackup.cli import connection, options
from pgbackup.cli.document import SLOT_HEADINGS, slot_document, slot_row
from pgbackup.cli.output import format_size, print_json, print_table, say_error
from pgbackup.errors import ExitCode, NotFound, PgbackupError, UsageError
from pgbackup.replication import client
from pgbackup.replication.slotstate import SlotState, closing, look_at_slot
from pgbackup.repo.slots import read_slots
from pgbackup.serve.slots import drop_unused

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
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            callback=options.checked_slot,
            help="Name of the slot; show with -B: all without it.",
        ),
    ] = None,
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
    repo: Annotated[
        str | None,
        typer.Option(
            "--repo",
            "-B",
            metavar="REPO",
            help="show, drop: slots of this repository's own clients.",
        ),
    ] = None,
    system: options.System = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> int:
    """Create, drop or show a physical replication slot, on every host that is named.

    With several hosts (-h db1,db2), each gets its turn whatever becomes of the others; the exit
    status is that of the first that failed. With -B, show and drop look after the slots of the
    repository's own clients, and no server is asked.
    """
    if action is not Action.CREATE and (reserve_wal or if_not_exists):
        raise UsageError("--reserve-wal and --if-not-exists go with slot create")
    if repo is not None:
        return _in_repository(repo, system, action, name, quiet=quiet, json=json)
    if name is None:
        raise UsageError(f"slot {action} needs the name of a slot")
    connector = connection.Connector(
        host, port, username, dbname, never_ask=no_password, ask=password
    )

    wanted = name

    def create(at: connection.Connector) -> str:
        with closing(at.connect()) as transport:
            is_new = client.create_slot(
                transport, wanted, reserve_wal=reserve_wal, if_not_exists=if_not_exists
            )
        return "created" if is_new else "is there already"

    def drop(at: connection.Connector) -> str:
        with closing(at.connect()) as transport:
            client.drop_slot(transport, wanted)
        return "dropped"

    def show(at: connection.Connector) -> SlotState:
        return look_at_slot(at.connect_quietly, at.connect, wanted)

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


def _in_repository(
    repo: str, system: str | None, action: Action, name: str | None, *, quiet: bool, json: bool
) -> int:
    if action is Action.CREATE or (action is Action.DROP and name is None):
        raise UsageError("-B goes with slot show, and with slot drop NAME")
    cluster = options.open_repository(repo).only_cluster(options.parse_system(system))
    if action is Action.DROP and name is not None:
        drop_unused(cluster, name, os.getpid())
        found = []
    else:
        found = [each for each in read_slots(cluster) if name in (None, each[0].name)]
        if name is not None and not found:
            raise NotFound(
                f'could not find replication slot "{name}": the repository has none of that name',
                hint=f"See all slots with: pgbackup slot show -B {repo}",
            )
    if json:
        print_json({"slots": [slot_document(*each) for each in found]})
    elif action is Action.SHOW:
        print_table(SLOT_HEADINGS, [slot_row(*each) for each in found])
    elif not quiet:
        print(f"slot {name} dropped")
    return ExitCode.OK


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
