"""Takes the commands of one client that was admitted, one after the other, until it leaves.

An error of a command is told to the client, and the next one may come; what ends a connection is
the loss of it, an end of the protocol, or the end of the server.

Source: walsender.c, exec_replication_command; postgres.c, PostgresMain (PostgreSQL 18)
"""

import threading

from pgbackup.errors import ClientError, ConnectionFailed, PgbackupError, ProtocolViolation
from pgbackup.pg.lsn import WalPosition
from pgbackup.serve.cancellation import Cancellable, Cancellation, Terminated
from pgbackup.serve.entry.connection import Connection
from pgbackup.serve.entry.users import Right, User
from pgbackup.serve.offer import Offer
from pgbackup.serve.sendbackup import send_backup
from pgbackup.serve.slots import Slots
from pgbackup.serve.standbys.clients import Attendance
from pgbackup.serve.wal.walnews import WalNews
from pgbackup.serve.walsender import WalSender
from pgbackup.wire import backend, frontend, results
from pgbackup.wire.basebackup import BaseBackup
from pgbackup.wire.commands import (
    AlterSlot,
    Command,
    CreateLogicalSlot,
    CreatePhysicalSlot,
    DropSlot,
    IdentifySystem,
    ReadSlot,
    Show,
    StartLogicalReplication,
    StartPhysicalReplication,
    TimelineHistory,
    UploadManifest,
)
from pgbackup.wire.grammar import parse_command

LOOK_INTERVAL = 0.2
"""Seconds between two looks whether the server ends, while a client says nothing."""


class Handler:
    """One client's commands.

    attendance: where others see what is done for the client.
    stopping:   set when the server ends.
    """

    def __init__(
        self,
        connection: Connection,
        offer: Offer,
        user: User,
        attendance: Attendance,
        news: WalNews,
        cancellation: Cancellation,
        stopping: threading.Event,
    ) -> None:
        self._connection = connection
        self._offer = offer
        self._user = user
        self._attendance = attendance
        self._news = news
        self._cancellation = cancellation
        self._stopping = stopping
        self._slots = Slots(offer.cluster, attendance.status.pid)

    def run(self) -> None:
        """Return when the client has left. Raises: ConnectionFailed when it is lost."""
        try:
            while (message := self._next()) is not None:
                if not self._answer(message):
                    return
        except (ClientError, ProtocolViolation) as error:
            self._connection.send(backend.error_response(error, fatal=True))
        finally:
            self._slots.drop_temporary()

    def _next(self) -> frontend.Message | None:
        """The next message; None when the client leaves. Raises: as run."""
        while True:
            message = self._connection.message(LOOK_INTERVAL)
            self._cancellation.check_termination()
            if message is not None and message.kind == frontend.TERMINATE:
                return None
            if self._stopping.is_set() and (message or not self._attendance.takes_backup):
                raise Terminated
            if message is not None:
                return message

    def _answer(self, message: frontend.Message) -> bool:
        """Answer a message; return whether to go on."""
        if message.kind == frontend.QUERY:
            return self._query(message.body)
        if message.kind in frontend.EXTENDED_QUERY:
            self._refuse("extended query protocol")
            return self._skip_to_sync()
        if message.kind == frontend.FUNCTION_CALL:
            self._refuse("fastpath function calls")
            self._connection.send(backend.ready_for_query())
        elif message.kind == frontend.SYNC:
            self._connection.send(backend.ready_for_query())
        elif message.kind == frontend.PASSWORD:
            raise ClientError("invalid frontend message type 112", sqlstate="08P01")
        return True

    def _refuse(self, what: str) -> None:
        """Source: postgres.c, forbidden_in_wal_sender (PostgreSQL 18)"""
        text = f"{what} not supported in a replication connection"
        self._slots.drop_temporary()
        self._connection.send(backend.error_response(ClientError(text, sqlstate="08P01")))

    def _skip_to_sync(self) -> bool:
        """Skip what belongs to an extended query; return whether the client stays.

        Source: postgres.c, PostgresMain (PostgreSQL 18)
        """
        while (message := self._next()) is not None:
            if message.kind == frontend.SYNC:
                self._connection.send(backend.ready_for_query())
                return True
        return False

    def _query(self, body: bytes) -> bool:
        """Do a command; return whether another one may come."""
        self._cancellation.forget()
        try:
            command = parse_command(frontend.query_text(body), self._offer.major)
            try:
                goes_on = self._execute(command)
            finally:
                self._attendance.end_command()
            if not goes_on:
                return False
        except (ConnectionFailed, ProtocolViolation, Terminated):
            raise
        except PgbackupError as error:
            self._slots.drop_temporary()
            self._connection.send(backend.error_response(error), backend.ready_for_query())
        else:
            self._connection.send(backend.ready_for_query())
        return True

    def _execute(self, command: Command) -> bool:
        """Do a command; return whether another one may come. Raises: PgbackupError."""
        offer, send = self._offer, self._connection.send
        match command:
            case IdentifySystem():
                position = offer.position()
                send(results.identify_system(offer.cluster.system, position, offer.major))
            case Show(name):
                self._show(name)
            case TimelineHistory(timeline):
                send(results.timeline_history(timeline, offer.history(timeline), offer.major))
            case ReadSlot(name):
                self._check(Right.WAL, Right.SLOTS)
                slot = self._slots.read(name)
                restart = None if slot is None else slot.restart
                send(results.slot_state(restart, exists=slot is not None))
            case CreatePhysicalSlot():
                self._create_slot(command)
            case DropSlot(name, wait):
                self._check(Right.SLOTS)
                self._slots.drop(name, self._pause if wait else None)
                self._complete("DROP_REPLICATION_SLOT")
            case AlterSlot(name):
                self._check(Right.SLOTS)
                self._slots.alter(name, self._pause)
            case BaseBackup():
                self._check(Right.BASE_BACKUP)
                client = Cancellable(self._connection, self._cancellation)
                self._attendance.begin_backup()
                send_backup(client, offer, command)
                self._complete("BASE_BACKUP")
            case StartPhysicalReplication():
                self._check(Right.WAL)
                return self._send_wal(command)
            case CreateLogicalSlot() | StartLogicalReplication():
                raise ClientError(
                    "logical decoding requires a database connection", sqlstate="55000"
                )
            case UploadManifest():
                raise ClientError("incremental backups are not served", sqlstate="0A000")
            case _:
                raise TypeError(f"no answer to {command!r}")
        return True

    def _send_wal(self, command: StartPhysicalReplication) -> bool:
        sender = WalSender(
            self._connection,
            self._offer,
            self._slots,
            self._attendance,
            self._news,
            self._cancellation,
            self._stopping,
        )
        return sender.run(command)

    def _check(self, *rights: Right) -> None:
        """Raises: ClientError if the user has got none of some rights."""
        if not any(self._user.may(right, self._offer.cluster.system) for right in rights):
            raise ClientError(
                f'permission denied for user "{self._user.name}"',
                sqlstate="42501",
                detail=f'The user has not got the right "{rights[0]}".',
            )

    def _show(self, name: str) -> None:
        value = self._offer.settings().get(name.lower())
        if value is None:
            raise ClientError(f'unrecognized configuration parameter "{name}"', sqlstate="42704")
        self._connection.send(results.show(name.lower(), value))

    def _create_slot(self, command: CreatePhysicalSlot) -> None:
        self._check(Right.SLOTS)
        reserve = self._oldest_needed() if command.reserve_wal else None
        self._slots.create(command.name, is_temporary=command.temporary, reserve=reserve)
        self._connection.send(results.new_slot(command.name))

    def _oldest_needed(self) -> WalPosition:
        """What a slot holds at once: the WAL since the backup that a client can have."""
        record = self._offer.usable_record()
        if record is None:
            return self._offer.position()
        return WalPosition(record.timeline, record.start_lsn)

    def _pause(self, seconds: float) -> None:
        """Wait, or find that it is of no use any more. Raises: ConnectionFailed, ClientError."""
        if self._stopping.is_set():
            raise Terminated
        self._cancellation.check()
        self._connection.receive(seconds)

    def _complete(self, tag: str) -> None:
        self._connection.send(backend.command_complete(tag))
