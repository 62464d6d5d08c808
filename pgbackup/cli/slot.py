"""`pgbackup slot create|drop|show`."""

from enum import StrEnum
from typing import Annotated

import typer

from pgbackup.cli import connection, options
from pgbackup.cli.output import print_facts, print_json, say, say_warning
from pgbackup.errors import ExitCode, UsageError
from pgbackup.replication import client
from pgbackup.replication.libpq import LibpqTransport


class Action(StrEnum):
    """What to do with a slot."""

    CREATE = "create"
    DROP = "drop"
    SHOW = "show"


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
    """Create, drop or show a physical replication slot."""
    if action is not Action.CREATE and (reserve_wal or if_not_exists):
        raise UsageError("--reserve-wal and --if-not-exists go with slot create")
    connector = connection.Connector(
        host, port, username, dbname, never_ask=no_password, ask=password
    )
    transport = connector.connect()
    try:
        if action is Action.SHOW:
            return _show(transport, name, json)
        if action is Action.CREATE:
            is_new = client.create_slot(
                transport, name, reserve_wal=reserve_wal, if_not_exists=if_not_exists
            )
            done = "created" if is_new else "is there already"
        else:
            client.drop_slot(transport, name)
            done = "dropped"
    finally:
        transport.disconnect()
    if json:
        print_json({"slot": {"name": name, "done": done}})
    elif not quiet:
        say(f"slot {name} {done}")
    return ExitCode.OK


def _show(transport: LibpqTransport, name: str, json: bool) -> int:
    state = client.read_slot(transport, name)
    if state is None:
        say_warning(
            f"PostgreSQL {transport.server_major} tells nothing of a slot through the replication"
            " protocol, not even whether it exists; that came with PostgreSQL 15"
        )
        say(f"HINT: Ask pg_replication_slots with psql for slot_name = '{name}'.")
        if json:
            print_json({"slot": {"name": name, "is_known": False}})
        return ExitCode.WARNINGS
    restart = state.restart
    if json:
        position = None if restart is None else str(restart.lsn)
        timeline = None if restart is None else int(restart.timeline)
        facts = {"name": name, "is_known": True, "type": state.kind}
        print_json({"slot": facts | {"restart_lsn": position, "restart_timeline": timeline}})
        return ExitCode.OK
    print_facts(
        [
            ("name", name),
            ("type", state.kind),
            ("restart position", "none: it holds no WAL yet" if restart is None else str(restart)),
        ]
    )
    return ExitCode.OK
