"""Stock pg_basebackup clones out of a repository that is served, in every form it knows.

PGBACKUP_CLONE_FORMS=all takes every pair of options with each client and each server.
"""

import os
import subprocess
from pathlib import Path

import pytest
import zstandard

from tests.account import program_environment
from tests.archiving.acknowledged import hook
from tests.binaries import client_bin, server_majors
from tests.cli.program import succeed
from tests.cluster import Cluster
from tests.fix_cluster import ClusterFactory
from tests.interop.forms import Form, long_forms, short_forms
from tests.interop.servers import check_structure, make_loaded
from tests.interop.serving import Serving
from tests.interop.test_standby import catch_up, make_standby
from tests.waiting import PATIENCE

pytestmark = pytest.mark.interop
TABLES = ("accounts", "branches", "tellers", "history")
CONTENT = " UNION ALL ".join(
    f"SELECT '{name}', count(*), sum(hashtextextended(t::text, 0)) FROM pgbench_{name} AS t"
    for name in TABLES
)


def forms() -> list[Form]:
    choose = long_forms if os.environ.get("PGBACKUP_CLONE_FORMS") == "all" else short_forms
    return choose(server_majors())


class Source:
    """A repository with a backup, and the beginning of a segment that came later.

    content: of the backup; latest: at the end of the WAL.
    """

    def __init__(self, primary: Cluster, directory: Path) -> None:
        self.major = primary.major
        self.spaces = make_loaded(primary)
        self.repo = directory / "repo"
        primary.sql("INSERT INTO pgbench_history SELECT n, n, n, n FROM generate_series(1, 99) n")
        self.content = primary.sql(CONTENT)
        words = ("-B", self.repo, "-d", primary.conninfo(), "-c", "fast", "-q")
        succeed(directory, "backup", *words)
        primary.sql("UPDATE pgbench_tellers SET tbalance = tbalance + 1")
        self.latest = primary.sql(CONTENT)
        words = ("-B", self.repo, "-d", primary.conninfo(), "--synchronous", "--once", "-q")
        succeed(directory, "receive-wal", *words)
        primary.stop()


class Clone:
    """What pg_basebackup made of it."""

    def __init__(self, source: Source, serving: Serving, form: Form, place: Path) -> None:
        self.source = source
        self.serving = serving
        self.form = form
        self.target = place / "data"
        self._taken = place / "taken" if form.format == "tar" else self.target
        self.spaces: dict[str, Path] = {}

    def take(self) -> None:
        words = ["-D", str(self._taken), *self.form.words()]
        if self.form.follows and self.form.wal == "stream":
            words += ["-C", "-S", f"slot_{self.target.parent.name}"]
        if self.form.format == "plain":
            for space in self.source.spaces:
                place = f"{self.target}-{space.name[0]}"
                words += ["-T", f"{str(space).replace('=', chr(92) + '=')}={place}"]
        self.serving.succeed("pg_basebackup", *words, major=self.form.client)

    def unpack(self) -> None:
        """Make a data directory of archives."""
        if self.form.format == "plain":
            return
        for archive in sorted(self._taken.glob("*.tar*"), key=lambda each: "base" not in each.name):
            name = archive.name.partition(".")[0]
            place = {"base": self.target, "pg_wal": self.target / "pg_wal"}.get(name)
            if place is None:
                place = self.spaces[name] = Path(f"{self.target}-{name}")
                (self.target / "pg_tblspc" / name).symlink_to(place)
            place.mkdir(parents=True, exist_ok=True)
            words = ["tar", "-C", place, "--no-same-owner", "--exclude=pg_tblspc/?*", "-x"]
            subprocess.run(words, input=plain(archive), check=True, timeout=PATIENCE)
        manifest = self._taken / "backup_manifest"
        if manifest.exists():
            (self.target / "backup_manifest").write_bytes(manifest.read_bytes())

    def verify(self) -> None:
        """Have it proven by pg_verifybackup, with its WAL where that is there and can be read."""
        assert (self.target / "backup_manifest").exists() is (self.form.manifest != "no")
        if self.form.manifest == "no":
            return
        major = max(15, self.source.major) if self.source.major != 16 else 15
        has_wal = self.form.wal != "none" and major == self.source.major
        done = subprocess.run(
            [client_bin("pg_verifybackup", major), *([] if has_wal else ["-n"]), self.target],
            env=program_environment(), capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def check(self) -> None:
        """Start it, and compare it with the source."""
        if self.spaces:
            lines = "".join(f"{name} {place}\n" for name, place in self.spaces.items())
            (self.target / "tablespace_map").write_text(lines)
        settings: dict[str, str | int | bool] = {}
        if self.form.follows:
            settings["recovery_target_timeline"] = "latest"
            if self.form.client != self.form.server:  # it wrote options that only its own libpq has
                settings["primary_conninfo"] = self.serving.conninfo()
        elif self.form.wal == "none":
            settings["restore_command"] = hook("wal-get", self.source.repo, "%f", "%p")
            (self.target / "recovery.signal").touch()
        major = self.source.major
        with Cluster.open_existing(self.target, major, settings=settings, as_caller=True) as server:
            server.start()
            expected = self.source.content
            if self.form.follows:
                expected = self.source.latest
                server.poll_until("SELECT sum(tbalance)::int FROM pgbench_tellers", 10)
                server.promote()
            server.poll_until("SELECT pg_is_in_recovery()", False)
            assert server.sql(CONTENT) == expected
            check_structure(server)


@pytest.mark.parametrize("major", server_majors(), ids=lambda major: f"pg{major}")
def test_each_form_of_a_clone_is_whole(
    cluster_factory: ClusterFactory, major: int, tmp_path: Path
) -> None:
    source = Source(cluster_factory(major), tmp_path)
    chosen = [form for form in forms() if form.server == major]
    assert chosen
    with Serving(tmp_path, source.repo, major) as serving:
        for number, form in enumerate(chosen):
            place = tmp_path / f"{number}"
            place.mkdir()
            clone = Clone(source, serving, form, place)
            try:
                for step in (clone.take, clone.unpack, clone.verify, clone.check):
                    step()
            except Exception as error:
                error.add_note(f"with {form}")
                raise


@pytest.mark.parametrize("wal", ["fetch", "stream"])
def test_a_backup_of_a_standby_comes_with_its_unfinished_segment(
    cluster_factory: ClusterFactory, tmp_path: Path, wal: str
) -> None:
    primary = cluster_factory(18)
    with make_standby(primary) as standby:
        primary.sql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) AS n")
        catch_up(primary, standby)
        words = ("-B", tmp_path / "repo", "-d", standby.conninfo(), "-c", "fast", "-q")
        succeed(tmp_path, "backup", *words)
    assert list(tmp_path.glob("repo/*/backups/*/*.partial"))
    target = tmp_path / "data"
    with Serving(tmp_path, tmp_path / "repo", 18) as serving:
        serving.succeed("pg_basebackup", "-D", target, "-X", wal, "--no-sync")
    with Cluster.open_existing(target, 18) as restored:
        restored.start()
        assert restored.sql("SELECT count(*) FROM t") == [(1000,)]


def plain(archive: Path) -> bytes:
    data = archive.read_bytes()
    if archive.suffix == ".zst":
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            return reader.read()
    if archive.suffix in (".gz", ".lz4"):
        program = {".gz": "gzip", ".lz4": "lz4"}[archive.suffix]
        return subprocess.run([program, "-dc"], input=data, capture_output=True, check=True).stdout
    return data
