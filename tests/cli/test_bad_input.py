"""Every mistake is one sentence with a hint and the exit status for it; nothing is left behind."""

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pgbackup.storage.local import LocalStorage
from tests.backup.sample import sample
from tests.cli.program import Answer, checked, command, environment, run, succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory

MIB = 1 << 20
USAGE, CONNECTION, REPOSITORY, NOT_FOUND, REFUSED = 2, 3, 4, 5, 8


@pytest.fixture(scope="module")
def server(module_cluster_factory: ClusterFactory) -> Cluster:
    """Trusts who comes through its socket; asks for a password on its port."""
    cluster = module_cluster_factory(16, tcp=True)
    cluster.sql("CREATE ROLE plain LOGIN; CREATE ROLE keeper LOGIN REPLICATION PASSWORD 'right'")
    hba = cluster.pgdata / "pg_hba.conf"
    hba.write_text(
        "local all all trust\nlocal replication all trust\n"
        "host replication keeper 127.0.0.1/32 scram-sha-256\n"
    )
    cluster.reload()
    cluster.poll_until("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL", 0)
    return cluster


@pytest.fixture
def stored(server: Cluster, tmp_path: Path) -> Path:
    """A directory in whose default repository there is a backup."""
    succeed(tmp_path, "backup", *local(server), "-c", "fast", "-Z", "zstd:1")
    return tmp_path


def local(server: Cluster, user: str = "postgres") -> tuple[str, ...]:
    return ("-h", str(server.run_directory), "-p", str(server.port), "-U", user)


def check(answer: Answer, status: int, message: str, hint: str) -> None:
    found, advice = answer.error()
    assert (answer.status, answer.out) == (status, b""), answer.err
    assert message in found
    assert hint in advice


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("-h", "no-such-host.invalid"), "could not connect to the server", "Check the host name"),
        (("-h", "127.0.0.1", "-p", "1"), "Connection refused", "Check that the server runs"),
        (("-h", "/nonexistent"), "No such file or directory", "Check that the server runs"),
        (("-d", "host=/nonexistent port=1"), "No such file", "Check that the server runs"),
        (("-d", "service=nowhere"), "definition of service", ""),
        (("-h", "/nonexistent", "-p", "x"), 'invalid integer value "x"', ""),
    ],
    ids=["unknown-host", "nobody-listens", "no-socket", "string", "no-service", "no-port"],
)
def test_a_server_that_cannot_be_reached(
    tmp_path: Path, words: tuple[str, ...], message: str, hint: str
) -> None:
    check(run(tmp_path, "backup", "-w", *words), CONNECTION, message, hint)
    assert not (tmp_path / "pgbackup-repo").exists()


@pytest.mark.parametrize(
    ("user", "password", "message", "hint"),
    [
        ("keeper", "wrong", "password authentication failed", "Check the password"),
        ("keeper", "", "no password supplied", "Put the password into ~/.pgpass"),
        ("plain", "right", "no pg_hba.conf entry", "Add a line"),
        ("nobody", "right", "no pg_hba.conf entry", "Add a line"),
    ],
)
def test_a_server_that_does_not_let_us_in(
    server: Cluster, tmp_path: Path, user: str, password: str, message: str, hint: str
) -> None:
    port = ("-h", "127.0.0.1", "-p", str(server.port), "-U", user)
    extra = {"PGPASSWORD": password} if password else {}
    check(run(tmp_path, "backup", *port, **extra), CONNECTION, message, hint)
    assert not (tmp_path / "pgbackup-repo").exists()


def test_the_right_password_from_a_file_is_enough(server: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{server.port}:*:keeper:right\n")
    file.chmod(0o600)
    words = ("-h", "127.0.0.1", "-p", server.port, "-U", "keeper", "-c", "fast", "-q")
    answer = succeed(tmp_path, "backup", *words, PGPASSFILE=str(file))
    assert (answer.out, answer.err) == (b"", "")


@pytest.mark.parametrize(
    ("user", "message", "hint"),
    [
        ("plain", "permission denied to start WAL sender", "ALTER ROLE plain REPLICATION"),
        ("ghost", 'role "ghost" does not exist', "Check the user name"),
    ],
)
def test_a_role_that_may_not_replicate(
    server: Cluster, tmp_path: Path, user: str, message: str, hint: str
) -> None:
    check(run(tmp_path, "backup", *local(server, user)), CONNECTION, message, hint)
    assert not (tmp_path / "pgbackup-repo").exists()


@pytest.mark.parametrize("major", [13, 18], ids=["pg13", "pg18"])
@pytest.mark.parametrize(
    ("settings", "status", "message", "hint"),
    [
        (
            {"wal_level": "minimal", "max_wal_senders": 0},
            CONNECTION, "max_wal_senders", "wal_level = replica",
        ),
        ({"max_wal_senders": 0}, CONNECTION, "max_wal_senders", "Raise max_wal_senders"),
        ({"max_wal_senders": 1}, CONNECTION, "max_wal_senders", "a backup needs two connections"),
        (
            {"max_replication_slots": 0},
            1, "all replication slots are in use", "max_replication_slots",
        ),
    ],
    ids=["wal_level-minimal", "no-walsender", "one-walsender", "no-slot"],
)  # fmt: skip
def test_a_server_that_cannot_be_backed_up(
    cluster_factory: ClusterFactory,
    tmp_path: Path,
    major: int,
    settings: dict[str, object],
    status: int,
    message: str,
    hint: str,
) -> None:
    server = cluster_factory(major, settings=settings)
    check(run(tmp_path, "backup", *local(server), "-c", "fast"), status, message, hint)
    assert not list(tmp_path.glob("pgbackup-repo/*/backups"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-d", "nonsense=1"), "could not read the connection string"),
        (("-d", "postgresql://[::1"), "could not read the connection string"),
        (("-w", "-W"), "exclude each other"),
        (("-Z", "none:1"), "does not accept options"),
        (("-Z", "zstd:level=99"), "must be between 1 and"),
        (("-r", "31"), "is out of range"),
        (("-r", "fast"), "is not a valid value"),
        (("-c", "slow"), "'slow' is not one of 'fast', 'spread'"),
        (("-l", "x" * 2000), "the label has to be one line"),
        (("-l", "two\nlines"), "the label has to be one line"),
        (("-D", "somewhere"), '-D takes only "-" here'),
        (("--manifest-checksums", "MD5"), "'MD5' is not one of"),
        (("-B", "s3x://bucket"), 'no driver for "s3x://"'),
        (("-B", ""), "the path is empty"),
        (("--pgdata", ""), "the name is empty"),
        (("-l", "two\rlines"), "the label has to be one line"),
        (("-h", "\udcff"), "is not UTF-8"),
        (("--compress",), "requires an argument"),
        (("--fast",), "no such option"),
        (("extra",), "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value)[:30].replace("\n", " ") if isinstance(value, tuple) else "",
)
def test_a_backup_that_makes_no_sense_is_refused_before_anything_is_done(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    check(run(tmp_path, "backup", "-h", str(tmp_path), *words), USAGE, message, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ((), USAGE, "missing command"),
        (("bogus",), USAGE, "no such command"),
        (("restore",), USAGE, "missing option"),
        (("restore", "-D", ""), USAGE, "the name is empty"),
        (("restore", "-D", "new", "-j", "0"), USAGE, "'-j'"),
        (("restore", "-D", "new", "-T", "a"), USAGE, "OLDDIR=NEWDIR"),
        (("restore", "-D", "new", "-T", "=/b"), USAGE, "OLDDIR=NEWDIR"),
        (("restore", "-D", "new", "-T", "/a="), USAGE, "OLDDIR=NEWDIR"),
        (("restore", "-D", "new", "-T", "/a=/b=/c"), USAGE, "more than one"),
        (("restore", "-D", "new", "-T", "a=/b"), USAGE, "not an absolute path"),
        (("restore", "-D", "new", "-T", "/a=b"), USAGE, "not an absolute path"),
        (("restore", "-D", "new", "-T", "/a=/b"), USAGE, "the backup has none there"),
        (("restore", "-D", "new", "--target-time", "soon"), USAGE, "not of the form"),
        (("restore", "-D", "new", "--target-lsn", "x"), USAGE, "not two hexadecimal numbers"),
        (("restore", "-D", "new", "--target-xid", "x"), USAGE, "not a number of 64 bits"),
        (("restore", "-D", "new", "--target-timeline", "x"), USAGE, "neither latest"),
        (("restore", "-D", "new", "--target-xid", "9", "--target-latest"), USAGE, "one target"),
        (("restore", "-D", "new", "--target-action", "promote"), USAGE, "there is no target"),
        (("restore", "-D", "new", "--target-inclusive"), USAGE, "they belong to"),
        (("restore", "-D", "new", "-S", "slot"), USAGE, "they are for a standby"),
        (("restore", "-D", "new", "-R", "-S", "A slot"), USAGE, "not the name of a replication"),
        (("restore", "-D", "new", "--target-latest", "--restore-command", ""), USAGE, "is empty"),
        (("restore", "-D", "pgbackup-repo/new"), REFUSED, "it lies in the repository"),
        (("restore", "-D", "pgbackup-repo", "--plan"), REFUSED, "it lies in the repository"),
        (
            ("slot", "create", "A slot", "-h", "/nonexistent"),
            USAGE,
            "not the name of a replication",
        ),
        (("check", "--no-server", "-S", "slot"), USAGE, "needs a server"),
        (("cron", "--no-server", "--keep", ""), USAGE, 'could not use --keep ""'),
        (("expire", "--keep-full", "1", "--keep", ""), USAGE, 'could not use --keep ""'),
        (("slot",), USAGE, "missing argument 'action'. Choose from: create, drop, show"),
        (("windows", "--before", "9999-99-99"), USAGE, "could not use time"),
        (("restore", "-D", "new", "-R", "--target-latest"), USAGE, "a standby goes on"),
        (("restore", "-D", "."), REFUSED, "is not empty"),
        (("restore", "20200101T000000F", "-D", "new"), NOT_FOUND, "no such backup"),
        (("restore", "yesterday", "-D", "new"), USAGE, "could not use backup label"),
        (("restore", "../../etc", "-D", "new"), USAGE, "could not use backup label"),
        (("show", "20200101T000000F"), NOT_FOUND, "no such backup"),
        (("verify", "20200101T000000F"), NOT_FOUND, "no such backup"),
        (("show", "--system", "12"), NOT_FOUND, "has nothing of it"),
        (("show", "--system", "9" * 5000), USAGE, "is not a system identifier"),
        (("list", "--system", "x"), USAGE, "is not a system identifier"),
        (("list", "-B", "nowhere"), NOT_FOUND, "could not open repository"),
        (("show", "-B", "nowhere"), NOT_FOUND, "could not open repository"),
        (("restore", "-B", "nowhere", "-D", "new"), NOT_FOUND, "could not open repository"),
    ],
    ids=lambda value: " ".join(value)[:40].replace("/", "_") if isinstance(value, tuple) else "",
)
def test_other_verbs_that_make_no_sense_are_refused_before_anything_is_done(
    stored: Path, words: tuple[str, ...], status: int, message: str
) -> None:
    before = sorted(path.name for path in stored.iterdir())
    answer = run(stored, *words)
    check(answer, status, message, "")
    assert sorted(path.name for path in stored.iterdir()) == before
    if "--json" not in words and words:
        document = run(stored, *words, "--json")
        error = json.loads(document.err)
        assert (document.status, document.out, error["code"]) == (status, b"", status)
        assert error.keys() == {"message_type", "code", "message", "detail", "hint"}
        assert error["message_type"] == "exit_error"
        assert error["message"] == answer.error()[0]


# -- repositories that cannot be used --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("/dev/null/x", "ot a directory"),
        ("plain file", "ot a directory"),
        ("/sys/pgbackup-repo", "/sys/pgbackup-repo"),
    ],
    ids=["below-a-device", "a-file", "not-writable"],
)
def test_a_repository_that_cannot_be_made(
    server: Cluster, tmp_path: Path, repo: str, message: str
) -> None:
    (tmp_path / "plain file").touch()
    check(run(tmp_path, "backup", *local(server), "-B", repo), REPOSITORY, message, "")
    assert [path.name for path in tmp_path.iterdir()] == ["plain file"]


def test_a_directory_with_other_content_never_becomes_a_repository(
    server: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    answer = run(tmp_path, "backup", *local(server), "-B", "home")
    check(answer, REFUSED, "it is not empty", "Name an empty or a new directory with -B")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter"]


def test_a_server_of_a_known_identifier_and_another_major_is_refused(
    server: Cluster, stored: Path
) -> None:
    (document,) = stored.glob("pgbackup-repo/*/cluster.json")
    facts = json.loads(document.read_text())
    document.write_text(json.dumps(facts | {"major": 15}))
    answer = run(stored, "backup", *local(server), "-c", "fast")
    check(answer, REFUSED, "known with PostgreSQL 15", "another repository")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount; the limit on file sizes is tested for everyone")
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", place], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_repository_keeps_nothing_of_the_backup(server: Cluster, small_disk: Path) -> None:
    answer = run(
        small_disk.parent, "backup", *local(server), "-B", small_disk, "-c", "fast", "-Z", "none"
    )
    check(answer, REPOSITORY, "no space left on device", "")
    assert not list(small_disk.glob("*/backups/*"))
    assert not list(small_disk.rglob(".*"))


def test_a_full_repository_gives_what_it_has_and_makes_room(
    small_disk: Path, tmp_path: Path
) -> None:
    sample().put(LocalStorage(small_disk / "repo"))
    with suppress(OSError), (small_disk / "fill").open("wb", buffering=0) as fill:
        while True:
            fill.write(bytes(4096))
    here = ("-B", small_disk / "repo")
    for words in ("verify", "wal verify", "windows", "restore -D new", "expire --keep-full 1"):
        succeed(tmp_path, *words.split(), *here)
    answer = run(tmp_path, "pin", "latest", *here)
    check(answer, REPOSITORY, "no space left on device", "expire --dry-run")


def test_nobody_is_asked_for_a_password_without_a_terminal(tmp_path: Path) -> None:
    done = subprocess.run(
        command("backup", "-h", "/nonexistent", "-W"), cwd=tmp_path, env=environment(),
        stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, check=False,
    )  # fmt: skip
    answer = checked(done.returncode, done.stdout, done.stderr)
    check(answer, USAGE, "there is no terminal to ask for a password on", "~/.pgpass")
    assert len(answer.lines) == 2


def test_an_object_that_cannot_be_written_to_its_end_keeps_nothing(
    server: Cluster, tmp_path: Path
) -> None:
    done = subprocess.run(
        command("backup", *local(server), "-c", "fast", "-Z", "none"),
        cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MIB, 4 * MIB)),
        check=False,
    )  # fmt: skip
    check(checked(done.returncode, done.stdout, done.stderr), REPOSITORY, "ile too large", "")
    assert not list(tmp_path.glob("pgbackup-repo/*/backups/*"))
    listed = succeed(tmp_path, "list", "--json").document
    assert listed == {"backups": [], "damaged": []}
