"""`cron`: what is due now, in one entry for a timer.

Started again and again; each run does what is due and no more, so that any run may be missed,
killed or repeated. Steps are independent but for one rule: nothing is expired unless the newest
backup is known to be good. One run at a time for each cluster, by a lock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from pgbackup.archiving.receiver.heldslot import Servers
from pgbackup.archiving.receiver.receive import ReceiveOptions, WalReceiver
from pgbackup.archiving.receiver.stopping import StopRequest
from pgbackup.archiving.scan import WalScan
from pgbackup.backup.request import BackupRequest
from pgbackup.backup.take import take_backup
from pgbackup.backup.verification.verify import verify_backup
from pgbackup.care.lastrun import LastRun, put_last_run
from pgbackup.care.schedule import Schedule
from pgbackup.care.serverview import Connect
from pgbackup.care.status import find_receiver
from pgbackup.errors import ExitCode, Locked, NotFound, PgbackupError, WrongSystem
from pgbackup.replication import client
from pgbackup.repo import layout
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.inventory import read_segment_size, read_timelines
from pgbackup.repo.moments.indexing import bring_up_to_date
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.repo.retention.expire import run_expire
from pgbackup.repo.retention.policy import Policy
from pgbackup.repo.verifications import Verification, put_verification, read_verifications
from pgbackup.storage.api import Storage
from pgbackup.stream.progress import Meter


@dataclass(frozen=True, slots=True)
class CronRequest:
    """What may be done.

    connect:    opens a replication connection; None leaves the server alone.
    servers:    how the receiver looks after its slot.
    receive:    how to catch up with WAL; None does not.
    full_every: when a backup is due; None takes none.
    policy:     what to keep; an empty one expires nothing.
    jobs:       threads of a verification.
    system:     as the user gave it.
    """

    connect: Connect | None
    servers: Servers | None
    receive: ReceiveOptions | None
    full_every: Schedule | None
    backup: BackupRequest
    policy: Policy
    jobs: int
    system: int | None = None


class Step(NamedTuple):
    """What became of one step. exit_code: of the verb that it stands for."""

    name: str
    text: str
    exit_code: int = ExitCode.OK
    is_skipped: bool = False


class CronReport(NamedTuple):
    """A run."""

    system: int
    steps: tuple[Step, ...]

    @property
    def exit_code(self) -> int:
        """Of the first step that failed, else of the first that warned."""
        codes = [step.exit_code for step in self.steps if step.exit_code]
        return next((code for code in codes if code != ExitCode.WARNINGS), codes[0] if codes else 0)

    @property
    def summary(self) -> str:
        """One line."""
        return "; ".join(f"{step.name}: {step.text}" for step in self.steps)


def run_cron(storage: Storage, request: CronRequest, meter: Meter) -> CronReport:
    """Do what is due. A repository that is not there is made, if the server answers.

    Raises: Locked if another run is under way; whatever hinders the choice of a cluster.
    """
    system: int | None = None
    unreachable: PgbackupError | None = None
    try:
        system = _identify(request)
    except PgbackupError as error:
        unreachable = error
    try:
        repository = Repository.open(storage, create=system is not None)
        system = system or repository.only_system(request.system)
    except NotFound as error:
        raise unreachable or error from None
    cluster = repository.cluster(system)
    with cluster.storage.lock(layout.cron_lock(system), {"command": "cron"}):
        run = _Run(repository, cluster, request, meter, unreachable)
        report = CronReport(system, tuple(run.steps()))
        _remember(cluster, request, report)
    return report


def _identify(request: CronRequest) -> int | None:
    if request.connect is None:
        return None
    transport = request.connect()
    try:
        found = client.identify_system(transport).system_identifier
    finally:
        transport.disconnect()
    if request.system not in (None, found):
        raise WrongSystem(f"the server is of system {found}, not {request.system}")
    return found


def _remember(cluster: ClusterRepository, request: CronRequest, report: CronReport) -> None:
    if cluster.facts() is None:
        return
    catches_up = request.receive is not None and request.connect is not None
    last = LastRun(datetime.now(UTC), report.exit_code, report.summary, catches_up)
    try:
        put_last_run(cluster, last)
    except PgbackupError:  # a full disk is told by the steps
        return


class _Run:
    """One run, under its lock."""

    def __init__(
        self,
        repository: Repository,
        cluster: ClusterRepository,
        request: CronRequest,
        meter: Meter,
        unreachable: PgbackupError | None,
    ) -> None:
        self._repository = repository
        self._cluster = cluster
        self._request = request
        self._meter = meter
        self._unreachable = unreachable
        self._good: set[str] = set()

    def steps(self) -> Sequence[Step]:
        """All steps in their order."""
        received = self._try("receive", self._catch_up)
        backup = self._try("backup", self._back_up)
        if not backup.is_skipped and received.exit_code == ExitCode.OK:
            # Up to where the backup began to archive WAL itself, or a hole stays till the next run.
            received = self._try("receive", self._catch_up)
        return [
            received,
            backup,
            self._try("verify", self._verify_backups),
            self._try("wal verify", self._verify_wal),
            self._try("expire", self._expire),
            self._try("index", self._index),
        ]

    def _try(self, name: str, work: Callable[[], Step]) -> Step:
        try:
            return work()
        except PgbackupError as error:
            return Step(name, f"FAILED, {error.message}", error.exit_code)

    def _catch_up(self) -> Step:
        connect, options = self._request.connect, self._request.receive
        servers = self._request.servers
        if connect is None or options is None or servers is None:
            return Step("receive", "not wanted", is_skipped=True)
        if find_receiver(self._cluster) is not None:
            return Step("receive", "a receiver is running", is_skipped=True)
        self._expect_server()
        with StopRequest() as stop:
            try:
                WalReceiver(connect, self._repository, options, stop, _forget, servers).run()
            except Locked:
                return Step("receive", "a receiver is running", is_skipped=True)
        return Step("receive", "caught up")

    def _back_up(self) -> Step:
        connect, schedule = self._request.connect, self._request.full_every
        if connect is None or schedule is None:
            return Step("backup", "not wanted", is_skipped=True)
        records = self._cluster.catalog.list()
        last = records[-1].start_time if records else None
        if not schedule.is_due(last, datetime.now().astimezone()):
            return Step("backup", "not due", is_skipped=True)
        running = self._cluster.catalog.under_way()
        if running:
            return Step("backup", f"{running[-1]} is under way", is_skipped=True)
        self._expect_server()
        record = take_backup(connect, lambda: self._repository, self._request.backup, self._meter)
        code = ExitCode.WARNINGS if record.checksum_failures.is_damaged else ExitCode.OK
        return Step("backup", f"{record.label} taken", code)

    def _verify_backups(self) -> Step:
        known = read_verifications(self._cluster)
        records = self._cluster.catalog.list()
        fresh = [record for record in records if record.label not in known]
        bad = [label for label, each in known.items() if each.problems]
        self._good = {label for label, each in known.items() if not each.problems}
        bad += [record.label for record in fresh if self._verify(record)]
        damaged = [each.label for each in self._cluster.catalog.damaged()]
        if bad or damaged:
            text = f"FAILED, {', '.join(sorted({*bad, *damaged}))} damaged"
            return Step("verify", text, ExitCode.DAMAGED)
        if not fresh:
            return Step("verify", "nothing new", is_skipped=True)
        return Step("verify", f"{', '.join(record.label for record in fresh)} good")

    def _verify(self, record: BackupRecord) -> int:
        """Verify and remember; return the number of problems."""
        report = verify_backup(self._cluster, record, jobs=self._request.jobs, meter=self._meter)
        problems = len(report.problems)
        if not problems:
            self._good.add(record.label)
        put_verification(self._cluster, record, Verification(datetime.now(UTC), problems))
        return problems

    def _verify_wal(self) -> Step:
        if self._cluster.facts() is None:
            return Step("wal verify", "nothing there", is_skipped=True)
        scan = WalScan(self._cluster, every=False)
        scanned = scan.run(self._meter.advance)
        damages = [damage for each in scanned for damage in each.damages]
        if damages:
            names = ", ".join(sorted({damage.segment.name for damage in damages}))
            return Step("wal verify", f"FAILED, {names} damaged", ExitCode.DAMAGED)
        return Step("wal verify", f"{sum(each.checked for each in scanned)} segments good")

    def _expire(self) -> Step:
        if self._request.policy.is_empty:
            return Step("expire", "no policy", is_skipped=True)
        records = self._cluster.catalog.list()
        if not records or records[-1].label not in self._good:
            text = "nothing, because the newest backup is not known to be good"
            return Step("expire", text, is_skipped=True)
        outcome = run_expire(self._cluster, self._request.policy, datetime.now(UTC))
        text = f"{len(outcome.backups)} backups and {len(outcome.files)} files of WAL removed"
        code = ExitCode.WARNINGS if outcome.notes else ExitCode.OK
        return Step("expire", "; ".join((text, *outcome.notes)), code)

    def _index(self) -> Step:
        """So that nobody waits for it who wants to restore. Damage is told by `wal verify`."""
        if self._cluster.facts() is None:
            return Step("index", "nothing there", is_skipped=True)
        size = read_segment_size(self._cluster)
        unread = bring_up_to_date(self._cluster, read_timelines(self._cluster), size).unread
        return Step("index", f"{len(unread)} segments unreadable" if unread else "up to date")

    def _expect_server(self) -> None:
        if self._unreachable is not None:
            raise self._unreachable


def _forget(text: str) -> None:
    """Sentences of the receiver; a run has one line."""
