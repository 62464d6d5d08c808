"""`check`: looks at a server and at a repository, and finds what will bring trouble.

A table of contents of the judges. What cannot be reached is a finding, not an error, so that the
rest is looked at all the same. Reads only, but for the write test.
"""

from dataclasses import dataclass, replace

from pgbackup.care.archiving import (
    judge_activity,
    judge_arrival,
    judge_conflicts,
    judge_gaps,
    judge_identity,
    judge_receiver,
)
from pgbackup.care.backups import judge_backups, judge_last_run
from pgbackup.care.finding import Finding, Findings, Severity, critical, fine
from pgbackup.care.lastrun import read_last_run
from pgbackup.care.place import (
    judge_leftovers,
    judge_permissions,
    judge_space,
    judge_writing,
    wal_rate,
)
from pgbackup.care.serverview import (
    Connect,
    ServerView,
    read_activity,
    read_server,
)
from pgbackup.care.settings import (
    judge_archiving,
    judge_recovery_settings,
    judge_settings,
)
from pgbackup.care.slots import judge_clients, judge_no_slot, judge_slot
from pgbackup.care.status import RunningReceiver, find_receiver, newest_wal
from pgbackup.errors import ConnectionFailed, NotFound, PgbackupError, ServerError
from pgbackup.replication.slotstate import closing, look_at_slot
from pgbackup.repo.inventory import read_inventory
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.storage.api import Storage


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What to look at.

    connect:         opens a replication connection; None looks at the repository alone.
    connect_for_sql: opens one that runs SQL.
    slot:            the one that keeps WAL for us.
    system:          as the user gave it.
    max_backup_age, max_wal_age: seconds.
    """

    connect: Connect | None = None
    connect_for_sql: Connect | None = None
    slot: str | None = None
    system: int | None = None
    max_backup_age: float = 2 * 86400
    max_wal_age: float = 3600

    def with_server(self, connect: Connect, connect_for_sql: Connect) -> "CheckRequest":
        """The same, and the server too."""
        return replace(self, connect=connect, connect_for_sql=connect_for_sql)


def run_check(storage: Storage, request: CheckRequest) -> list[Finding]:
    """Look at everything. Raises nothing that is a finding."""
    return list(_Check(storage, request).run())


class _Check:
    """One look at everything."""

    def __init__(self, storage: Storage, request: CheckRequest) -> None:
        self._storage = storage
        self._request = request
        self._root = storage.features.local_path
        self._server: ServerView | None = None

    def run(self) -> Findings:
        if self._request.connect is not None:
            yield from self._learn_server(self._request.connect)
        cluster, receiver = None, None
        try:
            repository = Repository.open(self._storage)
            yield from judge_writing(self._storage)
            if self._root is not None:
                yield from judge_permissions(self._root)
            cluster = self._choose(repository)
            receiver = find_receiver(cluster)
            if self._server is not None:
                yield from judge_identity(self._server, cluster, repository.systems())
            yield from self._look_at_cluster(cluster, receiver)
        except PgbackupError as error:
            yield _from_error("repository", error, "take the first backup: pgbackup backup")
        if self._server is not None:
            yield from self._look_at_server(self._server, cluster, receiver)

    def _learn_server(self, connect: Connect) -> Findings:
        try:
            with closing(connect()) as transport:
                self._server = read_server(transport)
            yield fine("connection", "the server lets us replicate")
        except (ConnectionFailed, ServerError) as error:
            yield _from_error("connection", error, "check -h, -p, -U and pg_hba.conf")

    def _choose(self, repository: Repository) -> ClusterRepository:
        if self._server is not None:
            return repository.cluster(self._server.identity.system_identifier)
        return repository.only_cluster(self._request.system)

    def _look_at_cluster(
        self, cluster: ClusterRepository, receiver: RunningReceiver | None
    ) -> Findings:
        yield from judge_backups(cluster, self._request.max_backup_age)
        yield from judge_receiver(receiver)
        yield from judge_clients(cluster)
        if cluster.facts() is not None:
            yield from judge_gaps(read_inventory(cluster))
        yield from judge_conflicts(cluster)
        yield from judge_leftovers(cluster)
        yield from judge_last_run(read_last_run(cluster))
        if self._root is not None:
            records = cluster.catalog.list()
            last = records[-1] if records else None
            yield from judge_space(self._root, last, wal_rate(cluster))

    def _look_at_server(
        self,
        server: ServerView,
        cluster: ClusterRepository | None,
        receiver: RunningReceiver | None,
    ) -> Findings:
        yield from judge_settings(server)
        last_run = None if cluster is None else read_last_run(cluster)
        has_timer = last_run is not None and last_run.catches_up
        is_received = receiver is not None or has_timer
        yield from judge_archiving(server, self._root, is_received=is_received)
        if cluster is not None:
            newest = newest_wal(cluster, server.segment_size)
            yield from judge_arrival(server, newest, receiver, self._request.max_wal_age)
        yield from self._look_at_activity(server)
        if self._request.slot is not None:
            yield from self._look_at_slot(server, self._request.slot, has_timer=has_timer)

    def _look_at_activity(self, server: ServerView) -> Findings:
        assert self._request.connect_for_sql is not None
        try:
            with closing(self._request.connect_for_sql()) as transport:
                activity = read_activity(transport)
        except (ConnectionFailed, ServerError) as error:
            yield Finding(
                Severity.OK,
                "sql",
                f"archiver, clock and standbys were not looked at: {error.message}",
                "let pg_hba.conf admit the role to a database too, and name it with -d",
            )
            return
        yield from judge_activity(server, activity, self._request.slot)
        yield from judge_recovery_settings(server, is_in_recovery=activity.is_in_recovery)

    def _look_at_slot(self, server: ServerView, name: str, *, has_timer: bool) -> Findings:
        assert self._request.connect is not None
        assert self._request.connect_for_sql is not None
        try:
            slot = look_at_slot(self._request.connect_for_sql, self._request.connect, name)
        except NotFound:
            yield from judge_no_slot(name)
        except (ConnectionFailed, ServerError) as error:
            yield _from_error("slot", error, f"pgbackup slot show {name}")
        else:
            keep_size = server.setting("max_slot_wal_keep_size")
            yield from judge_slot(slot, keep_size, has_timer=has_timer)


def _from_error(subject: str, error: PgbackupError, fix: str) -> Finding:
    return critical(subject, error.message, error.hint or fix)
