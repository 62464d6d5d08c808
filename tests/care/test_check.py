"""Every misconfiguration that is planted is found, and its fix is named."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pgbackup.care.archiving import judge_clock
from pgbackup.care.finding import Severity
from pgbackup.care.lastrun import LastRun, put_last_run
from pgbackup.repo.repository import ClusterRepository, Repository
from pgbackup.storage.local import LocalStorage
from tests.cli import program
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.waiting import wait_for

MAJOR = 17
ARCHIVED = "cp %p {}/%f"


class Scene(NamedTuple):
    """A server, and a repository that is all right for it."""

    server: Cluster
    directory: Path

    @property
    def repo(self) -> Path:
        return self.directory / "pgbackup-repo"

    @property
    def cluster(self) -> ClusterRepository:
        return Repository.open(LocalStorage(self.repo)).only_cluster()

    def run(self, *words: object) -> program.Answer:
        return program.run(self.directory, *words, "-d", self.server.conninfo("postgres"))

    def alter(self, setting: str) -> None:
        self.server.sql(f"ALTER SYSTEM SET {setting}")
        self.server.sql("SELECT pg_reload_conf()")

    def one(self, pattern: str) -> Path:
        return next(self.repo.glob(pattern))


@pytest.fixture(scope="module")
def server(module_cluster_factory: ClusterFactory) -> Cluster:
    made = module_cluster_factory(
        MAJOR,
        settings={"archive_mode": True, "max_slot_wal_keep_size": "1GB"},
    )
    made.account.make_directory(made.pgdata.parent / "archive")
    made.sql("CREATE ROLE bystander LOGIN")
    return made


@pytest.fixture(scope="module")
def stored(server: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a repository in which all is well."""
    directory = tmp_path_factory.mktemp("stored")
    words = ("-d", server.conninfo())
    program.succeed(directory, "backup", *words, "-c", "fast")
    program.succeed(directory, "verify")
    return directory


@pytest.fixture
def scene(server: Cluster, stored: Path, tmp_path: Path) -> Iterator[Scene]:
    """A copy of the repository, and the server with its good settings."""
    shutil.copytree(
        stored / "pgbackup-repo", tmp_path / "pgbackup-repo", copy_function=shutil.copy2
    )
    hba = (server.pgdata / "pg_hba.conf").read_text()
    made = Scene(server, tmp_path)
    made.alter(f"archive_command = 'cp %p {server.pgdata.parent}/archive/%f'")
    server.sql("SELECT pg_stat_reset_shared('archiver')")
    yield made
    (server.pgdata / "pg_hba.conf").write_text(hba)
    for name in (
        "archive_command", "archive_library", "restore_command", "synchronous_standby_names",
        "max_slot_wal_keep_size", "full_page_writes", "fsync",
    ):  # fmt: skip
        program_sql(server, f"ALTER SYSTEM RESET {name}")
    program_sql(server, "SELECT pg_reload_conf()")
    program_sql(
        server,
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active",
    )


def program_sql(server: Cluster, text: str) -> None:
    """A statement that does not wait for a standby."""
    with server.connect(options="-c synchronous_commit=local") as connection:
        connection.execute(text)  # type: ignore[call-overload]


def findings(answer: program.Answer) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for each in answer.document["findings"]:
        found.setdefault(each["subject"], []).append(each)
    return found


def test_where_all_is_well_nothing_is_found(scene: Scene) -> None:
    answer = scene.run("check", "--json")
    wrong = [f["subject"] for f in answer.document["findings"] if f["severity"] != "ok"]
    assert wrong == ["fsync"], "which servers of tests run without"
    assert answer.status == 1
    assert len(answer.document["findings"]) > 15


def test_checking_changes_nothing(scene: Scene) -> None:
    before = everything(scene.repo)
    scene.run("check", "-S", "nobody")
    assert everything(scene.repo) == before


def everything(place: Path) -> list[tuple[str, int, int]]:
    found = [(path, path.stat()) for path in place.rglob("*")]
    return sorted((str(p), s.st_size, 0 if p.is_dir() else s.st_mtime_ns) for p, s in found)


def archive(command: str) -> Callable[[Scene], None]:
    return lambda scene: scene.alter(f"archive_command = '{command}'")


def both_ways(scene: Scene) -> None:
    scene.alter("archive_library = 'basic_archive'")


def failing_archiver(scene: Scene) -> None:
    scene.alter("archive_command = 'test ! -e %p'")
    wait_for(lambda: has_failed(scene.server))


def has_failed(server: Cluster) -> bool:
    """Give the archiver one more file, and tell whether it failed with one."""
    server.sql("SELECT pg_logical_emit_message(false, 'x', 'x')")
    server.sql("SELECT pg_switch_wal()")
    ((failed,),) = server.sql("SELECT failed_count FROM pg_stat_archiver")
    return bool(failed)


def no_replication_in_hba(scene: Scene) -> None:
    hba = scene.server.pgdata / "pg_hba.conf"
    lines = [line for line in hba.read_text().splitlines() if "replication" not in line]
    hba.write_text("\n".join(lines) + "\n")
    scene.server.sql("SELECT pg_reload_conf()")


def idle_slot(scene: Scene) -> None:
    scene.server.sql("SELECT pg_create_physical_replication_slot('pgbackup', true)")


def unlimited_slot(scene: Scene) -> None:
    idle_slot(scene)
    scene.alter("max_slot_wal_keep_size = -1")


def lost_slot(scene: Scene) -> None:
    idle_slot(scene)
    scene.alter("max_slot_wal_keep_size = '1MB'")
    for _ in range(4):
        scene.server.sql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1500000))")
        scene.server.sql("SELECT pg_switch_wal()")
    scene.server.sql("CHECKPOINT")
    scene.server.poll_until("SELECT wal_status = 'lost' FROM pg_replication_slots")


def no_backup(scene: Scene) -> None:
    shutil.rmtree(scene.one("*/backups"))


def damaged_record(scene: Scene) -> None:
    record = scene.one("*/backups/*/backup.json")
    record.write_text(record.read_text().replace("fast", "slow").replace('"full"', '"Full"'))


def damaged_backup(scene: Scene) -> None:
    stored = scene.one("*/backups/*/base.tar.zst")
    with open(stored, "r+b") as file:
        file.seek(stored.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    assert program.run(scene.directory, "verify").status == 7


def unverified(scene: Scene) -> None:
    scene.one("*/backups-verified.json").unlink()


def hole(scene: Scene) -> None:
    first = scene.one("*/wal/*.zst")
    first.unlink()


def conflict(scene: Scene) -> None:
    folder = scene.one("*/wal").parent / "conflict"
    folder.mkdir()
    (folder / "000000010000000000000001").write_bytes(b"other")


def unfinished_conflict(scene: Scene) -> None:
    folder = scene.one("*/wal").parent / "conflict"
    folder.mkdir()
    (folder / "000000010000000000000001.partial").write_bytes(b"other")


def leftover(scene: Scene) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = os.uname().nodename
    (scene.one("*/wal") / f".0.tmp-{host}-{dead.pid}-abcdef").write_bytes(b"x")


def unfinished(scene: Scene) -> None:
    folder = scene.one("*/backups") / "20200101T000000F"
    folder.mkdir()
    (folder / "base.tar.zst").write_bytes(b"x")


def open_to_all(scene: Scene) -> None:
    scene.repo.chmod(0o755)


def other_system(scene: Scene) -> None:
    folder = scene.one("*/wal").parent
    folder.rename(folder.with_name("7000000000000000001"))
    facts = scene.one("*/cluster.json")
    document = json.loads(facts.read_text()) | {"system_identifier": "7000000000000000001"}
    facts.write_text(json.dumps(document))


def other_major(scene: Scene) -> None:
    facts = scene.one("*/cluster.json")
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"major": 15}))


def busy_server(scene: Scene) -> None:
    scene.server.sql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 4000000))")
    for path in scene.one("*/wal").iterdir():
        os.utime(path, (0, 1_700_000_000))


def failed_cron(scene: Scene) -> None:
    damaged_backup(scene)
    assert program.run(scene.directory, "cron", "--no-server").status == 7


def forgotten_cron(scene: Scene) -> None:
    put_last_run(scene.cluster, LastRun(datetime.now(UTC) - timedelta(days=9), 0, "", False))


def nothing(scene: Scene) -> None:
    pass


SLOT = ("-S", "pgbackup")

PLANTED = [
    (archive(""), (), "archive_command", "critical", "wal-push -B"),
    (archive("/bin/true"), (), "archive_command", "critical", "wal-push -B"),
    (archive("cp x /tmp"), (), "archive_command", "critical", "wal-push -B"),
    (archive("pgbackup wal-push %p"), (), "archive_command", "critical", "wal-push -B"),
    (archive("pgbackup wal-push -B /else %p"), (), "archive_command", "warning", "wal-push -B"),
    (failing_archiver, (), "archiver", "critical", "test ! -e pg_wal/0000"),
    (lambda s: s.alter("restore_command = 'cp'"), (), "restore_command", "warning", "RESET"),
    (lambda s: s.alter("full_page_writes = off"), (), "full_page_writes", "warning", "= on"),
    (
        lambda s: s.alter("synchronous_standby_names = 'paris'"), (),
        "synchronous_standby_names", "critical", "RESET",
    ),
    (nothing, ("-U", "bystander"), "connection", "critical", "ALTER ROLE bystander REPLICATION"),
    (nothing, ("-U", "stranger"), "connection", "critical", "user name"),
    (nothing, ("-p", "1"), "connection", "critical", "server runs"),
    (no_replication_in_hba, (), "connection", "critical", "pg_hba.conf"),
    (nothing, SLOT, "slot", "critical", "slot create --reserve-wal pgbackup"),
    (idle_slot, SLOT, "slot", "warning", "receive-wal -S pgbackup"),
    (unlimited_slot, SLOT, "max_slot_wal_keep_size", "warning", "max_slot_wal_keep_size ="),
    (lost_slot, SLOT, "slot", "critical", "slot drop pgbackup"),
    (idle_slot, (), "idle_slot", "warning", "slot drop pgbackup"),
    (no_backup, (), "backup_age", "critical", "pgbackup backup"),
    (nothing, ("--max-backup-age", "1s"), "backup_age", "critical", "pgbackup backup"),
    (damaged_record, (), "backup_record", "critical", "pgbackup backup"),
    (damaged_backup, (), "backup_verified", "critical", "pgbackup verify 2"),
    (unverified, (), "backup_verified", "warning", "pgbackup verify 2"),
    (hole, (), "wal_gaps", "critical", "wal fill"),
    (conflict, (), "wal_conflict", "critical", "stop one of them"),
    (unfinished_conflict, (), "wal_conflict", "warning", "unless the old one is wanted: rm"),
    (leftover, (), "leftovers", "warning", "pgbackup backup"),
    (unfinished, (), "unfinished_backup", "warning", "pgbackup backup"),
    (open_to_all, (), "permissions", "warning", "chmod 700"),
    (other_system, (), "system_identifier", "critical", "-B"),
    (other_major, (), "system_identifier", "critical", "-B DIR"),
    (busy_server, ("--max-wal-age", "1s"), "wal_age", "critical", "receive-wal --once"),
    (nothing, ("-B", "elsewhere"), "repository", "critical", "pgbackup backup"),
    (failed_cron, (), "cron", "warning", "by hand"),
    (forgotten_cron, (), "cron", "warning", "list-timers"),
    # Last: the archiver has gone, and comes back after a minute.
    (both_ways, (), "archive_library", "critical", "RESET archive_library"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("plant", "words", "subject", "severity", "fix"),
    PLANTED,
    ids=[
        "empty-archive_command", "wasting-archive_command", "archive_command-without-file",
        "wal-push-without-repository", "wal-push-elsewhere",
        "failing-archiver", "restore_command-left-over", "full_page_writes-off",
        "synchronous-with-nobody", "role-without-replication", "no-such-role", "no-such-server",
        "no-replication-in-pg_hba", "no-such-slot", "idle-slot", "unlimited-slot", "lost-slot",
        "slot-of-nobody", "no-backup", "old-backup", "damaged-record", "damaged-backup",
        "unverified-backup", "hole-in-wal", "two-servers-as-one", "promoted-server",
        "leftover-file", "unfinished-backup", "open-repository", "other-system", "other-major",
        "archive-behind", "no-repository", "failed-cron", "forgotten-cron", "library-and-command",
    ],
)  # fmt: skip
def test_what_is_planted_is_found_with_its_fix(
    scene: Scene,
    plant: Callable[[Scene], None],
    words: tuple[str, ...],
    subject: str,
    severity: str,
    fix: str,
) -> None:
    before = findings(scene.run("check", "--json"))
    assert all(each["severity"] == "ok" for each in before.get(subject, []))
    plant(scene)
    answer = program.run(
        scene.directory, "check", "--json", "-d", conninfo(scene, words), *words_of(words)
    )
    found = findings(answer)[subject]
    worst = max(found, key=lambda each: ["ok", "warning", "critical"].index(each["severity"]))
    assert worst["severity"] == severity
    assert fix in worst["fix"]
    assert answer.status == (1 if answer.document["severity"] == "critical" else 10)


def conninfo(scene: Scene, words: tuple[str, ...]) -> str:
    """The server, as far as options do not name it."""
    given = dict(zip(words[::2], words[1::2], strict=True))
    extra: dict[str, Any] = {}
    if "-U" in given:
        extra["user"] = given["-U"]
    if "-p" in given:
        extra["port"] = given["-p"]
    return scene.server.conninfo("postgres", **extra)


def words_of(words: tuple[str, ...]) -> tuple[str, ...]:
    return () if words[:1] in (("-U",), ("-p",)) else words


def test_a_slot_that_cron_receives_with_is_idle_between_its_runs(scene: Scene) -> None:
    idle_slot(scene)
    put_last_run(scene.cluster, LastRun(datetime.now(UTC), 0, "", catches_up=True))
    found = findings(scene.run("check", "--json", *SLOT))
    assert [each["severity"] for each in found["slot"]] == ["ok"]
    assert "idle_slot" not in found


def test_sql_is_run_in_the_database_that_the_environment_names(scene: Scene) -> None:
    words = ("check", "--json", "-d", scene.server.conninfo())
    found = findings(program.run(scene.directory, *words, PGDATABASE="template1"))
    assert "clock" in found, found["sql"]


BAD_SETTINGS = {
    "max_wal_senders": 2,
    "max_replication_slots": 0,
    "archive_mode": False,
}


@pytest.fixture(scope="module")
def badly_set(module_cluster_factory: ClusterFactory, tmp_path_factory: Any) -> Any:
    server = module_cluster_factory(MAJOR, checksums=False, settings=BAD_SETTINGS)
    place = tmp_path_factory.mktemp("empty")
    words = ("-d", server.conninfo("postgres"), "-B", place)
    return findings(program.run(place, "check", "--json", *words))


@pytest.mark.parametrize(
    ("subject", "severity", "fix"),
    [
        ("data_checksums", "warning", "pg_checksums --enable"),
        ("max_wal_senders", "warning", "max_wal_senders = 10"),
        ("max_replication_slots", "critical", "max_replication_slots = 10"),
        ("archive_mode", "critical", "receive-wal"),
        ("repository", "critical", "pgbackup backup"),
    ],
)
def test_what_only_a_restart_can_mend_is_found(
    badly_set: Any, subject: str, severity: str, fix: str
) -> None:
    (found,) = badly_set[subject]
    assert found["severity"] == severity
    assert fix in found["fix"]


def test_a_server_with_too_little_wal_is_told_what_it_needs(
    cluster_factory: ClusterFactory, tmp_path: Path
) -> None:
    server = cluster_factory(15, settings={"wal_level": "minimal", "max_wal_senders": 0})
    answer = program.run(tmp_path, "check", "--json", "-d", server.conninfo("postgres"))
    (found,) = findings(answer)["connection"]
    assert "wal_level = replica" in found["fix"]


@pytest.fixture
def small_disk(scene: Scene) -> Iterator[Path]:
    """The repository on a file system of its own, with hardly any space."""
    place = scene.directory / "small"
    place.mkdir()
    size = sum(path.stat().st_size for path in scene.repo.rglob("*")) // 1024 + 600
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", place], check=True)
    shutil.copytree(scene.repo, place / "repo", copy_function=shutil.copy2)
    yield place / "repo"
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_disk_too_small_for_the_next_backup_is_found(scene: Scene, small_disk: Path) -> None:
    found = findings(scene.run("check", "--json", "-B", small_disk))
    assert [each["severity"] for each in found["space"]] == ["critical"]
    assert "pgbackup expire" in found["space"][0]["fix"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_repository_that_cannot_be_written_to_is_found(scene: Scene, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk.parent], check=True)
    found = findings(scene.run("check", "--json", "-B", small_disk))
    assert [each["severity"] for each in found["repository_write"]] == ["critical"]
    assert found["repository_write"][0]["fix"]


@pytest.mark.parametrize(
    ("ahead", "severity"),
    [
        (0.1, Severity.OK),
        (-4.9, Severity.OK),
        (5.0, Severity.WARNING),
        (-59.0, Severity.WARNING),
        (61.0, Severity.CRITICAL),
        (-7200.0, Severity.CRITICAL),
    ],
)
def test_clocks_that_differ_are_found(ahead: float, severity: Severity) -> None:
    (found,) = judge_clock(ahead)
    assert found.severity is severity
    assert ("set-ntp" in found.fix) == (severity is not Severity.OK)


def test_without_a_server_the_repository_is_checked(scene: Scene) -> None:
    unfinished(scene)
    answer = program.run(scene.directory, "check", "--no-server", "--json")
    assert "connection" not in findings(answer)
    assert answer.status == 10


@pytest.mark.parametrize(
    ("plant", "status", "word"),
    [(nothing, 0, "OK"), (open_to_all, 1, "WARNING"), (no_backup, 2, "CRITICAL")],
    ids=["ok", "warning", "critical"],
)
def test_nagios_gets_one_line_and_its_status(
    scene: Scene, plant: Callable[[Scene], None], status: int, word: str
) -> None:
    plant(scene)
    answer = program.run(scene.directory, "check", "--nagios", "--no-server")
    assert answer.status == status
    text, _, performance = answer.out.decode().strip().partition(" | ")
    assert "\n" not in text
    assert text.startswith(f"PGBACKUP {word} - ")
    assert performance.startswith("ok=")
    assert (plant is nothing) == ("warning=0 critical=0" in performance)


def test_nagios_is_told_what_could_not_be_found_out(scene: Scene) -> None:
    answer = scene.run("check", "--nagios", "--max-backup-age", "soon")
    assert answer.status == 3
    assert answer.out.startswith(b"PGBACKUP UNKNOWN - ")
