"""A server that is worth backing up, a repository, and what must hold there after every fault."""

from dataclasses import dataclass
from pathlib import Path

from pgbackup.errors import NotFound
from pgbackup.repo.repository import Repository
from pgbackup.storage.local import LocalStorage
from tests.cli.program import Answer, Running, begin, run, succeed
from tests.cluster import Cluster

ROWS = 30000
STREAMING = (
    "SELECT count(*) FROM pg_stat_replication"
    " WHERE application_name = 'pgbackup' AND state IN ('streaming', 'backup')"
)


@dataclass
class Scene:
    """A server with a tablespace, and the directory in which the program runs.

    space:    the tablespace's place; its archive is complete before the main one begins.
    is_local: backups read the data directory by themselves.
    """

    server: Cluster
    directory: Path
    space: Path
    is_local: bool = False

    @classmethod
    def set_up(cls, server: Cluster, directory: Path, *, is_local: bool = False) -> "Scene":
        space = server.account.make_directory(server.pgdata.parent / "space")
        server.sql(f"CREATE TABLESPACE apart LOCATION '{space}'")
        server.sql("CREATE TABLE near AS SELECT 1 AS n")
        server.sql(
            "CREATE TABLE far TABLESPACE apart AS SELECT n, md5(n::text) AS text"
            f" FROM generate_series(1, {ROWS}) AS n"
        )
        return cls(server, directory, space, is_local)

    @property
    def repository(self) -> Path:
        return self.directory / "pgbackup-repo"

    def backup(self, *options: object) -> Answer:
        return run(self.directory, *self.words, *options)

    def begin_backup(self, *options: object) -> Running:
        return begin(self.directory, *self.words, *options)

    @property
    def words(self) -> tuple[object, ...]:
        """The command line of a backup."""
        local = ("--pgdata", self.server.pgdata) if self.is_local else ()
        return ("backup", "-d", self.server.conninfo(), "-c", "fast", *local)

    def begin_slow_backup(self) -> Running:
        """A backup that takes some time; returns when archives and WAL are flowing."""
        under_way = self.begin_backup("-r", "4M" if self.is_local else "1M")
        self.server.poll_until(STREAMING, 1 if self.is_local else 2)
        return under_way

    def labels(self) -> list[str]:
        """What list would show, which must all be readable; faster."""
        try:
            opened = Repository.open(LocalStorage(self.repository))
        except NotFound:
            return []
        catalogs = [opened.cluster(system).catalog for system in opened.systems()]
        assert not [each for catalog in catalogs for each in catalog.damaged()]
        return [record.label for catalog in catalogs for record in catalog.list()]

    def verify(self, label: str) -> None:
        succeed(self.directory, "verify", label)

    def begin_restore(self, target: Path) -> Running:
        return begin(self.directory, "restore", "-D", target, *self._mapping(target))

    def restore(self, target: Path) -> None:
        succeed(self.directory, "restore", "-D", target, *self._mapping(target))

    def _mapping(self, target: Path) -> tuple[str, str]:
        return ("-T", f"{self.space}={target}.space")

    def check_restored(self, target: Path) -> None:
        """Start what was restored and look at its data."""
        with Cluster.open_existing(target, self.server.major) as restored:
            restored.start()
            assert restored.sql(
                "SELECT count(*), sum(n), bool_and(text = md5(n::text)) FROM far"
            ) == [(ROWS, ROWS * (ROWS + 1) // 2, True)]
            assert restored.sql("SELECT n FROM near") == [(1,)]

    def unfinished(self) -> list[str]:
        """Everything in the repository that is no part of a complete backup or of the archive."""
        found = []
        for path in self.repository.rglob("*"):
            name = str(path.relative_to(self.repository))
            folder = path.parent
            is_part = path.is_file() and folder.parent.name == "backups"
            if path.name.startswith(".") or (is_part and not (folder / "backup.json").exists()):
                found.append(name)
        return found
