"""A repository: one storage, and the clusters whose backups and WAL it holds.

It comes into being with the first write; nobody has to create it. A place that holds other things
is never made one, and one of a newer format is not touched.
"""

import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from pgbackup.errors import Conflict, CorruptData, NotFound, Refused, UsageError, WrongSystem
from pgbackup.repo import layout
from pgbackup.repo.archive import WalArchive
from pgbackup.repo.fields import Fields
from pgbackup.storage.api import Storage

if TYPE_CHECKING:
    from pgbackup.repo.catalog import Catalog

REPOSITORY_FORMAT = 1

_LIMIT = 1 << 20  # bytes of the two small documents here


class ClusterFacts(NamedTuple):
    """What never changes for a system identifier.

    major:            of the server, 15.
    wal_segment_size: bytes.
    """

    system_identifier: int
    major: int
    wal_segment_size: int


class ClusterRepository:
    """The part of a repository that belongs to one cluster."""

    def __init__(self, storage: Storage, system: int) -> None:
        self.storage = storage
        self.system = system
        self.archive = WalArchive(storage, system)

    @property
    def catalog(self) -> "Catalog":
        """The backups; loaded only when asked for, since the WAL hooks never are."""
        from pgbackup.repo.catalog import Catalog  # noqa: PLC0415

        return Catalog(self.storage, self.system)

    def facts(self) -> ClusterFacts | None:
        """What is known of the cluster; None before the first write.

        Raises: CorruptData, StorageError.
        """
        name = layout.cluster_object(self.system)
        try:
            data = self.storage.read(name, _LIMIT)
        except NotFound:
            return None
        fields = Fields.parse(data, self.storage.locate(name))
        facts = ClusterFacts(
            fields.system("system_identifier"),
            fields.number("major"),
            fields.segment_size("wal_segment_size"),
        )
        if facts.system_identifier != self.system:
            raise CorruptData(
                f'could not read "{self.storage.locate(name)}": it belongs to '
                f"system {facts.system_identifier}"
            )
        return facts

    def bind(self, server_version: int, wal_segment_size: int) -> None:
        """Check before the first byte is written that it belongs here; note it if it is new.

        server_version: as server_version_num, 150018.

        Raises: WrongSystem.
        """
        given = ClusterFacts(self.system, server_version // 10000, wal_segment_size)
        known = self.facts()
        if known is None:
            values = {
                "system_identifier": str(given.system_identifier),
                "major": given.major,
                "wal_segment_size": given.wal_segment_size,
            }
            try:
                self.storage.create(layout.cluster_object(self.system), _encode(values))
            except Conflict:
                known = self.facts()
        if known is not None and known != given:
            raise WrongSystem(
                f'could not write to repository "{self.storage.url}": system {self.system} is '
                f"known with PostgreSQL {known.major} and WAL segments of "
                f"{known.wal_segment_size} bytes",
                detail=f"The server has PostgreSQL {given.major} and segments of "
                f"{given.wal_segment_size} bytes.",
                hint="Use another repository with -B for this server.",
            )


class Repository:
    """An open repository."""

    def __init__(self, storage: Storage, repository_id: str) -> None:
        self.storage = storage
        self.repository_id = repository_id

    @classmethod
    def open(cls, storage: Storage, *, create: bool = False) -> "Repository":
        """Open what is there, or make it a repository.

        create: if nothing is there at all.

        Raises: NotFound, Refused, CorruptData, StorageError.
        """
        try:
            return cls(storage, _read_identity(storage))
        except NotFound:
            if not create:
                raise _no_repository(storage) from None
        _refuse_other_content(storage)
        values = {
            "format": REPOSITORY_FORMAT,
            "repository_id": os.urandom(16).hex(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        with suppress(Conflict):  # somebody else was faster
            storage.create(layout.FORMAT, _encode(values))
        return cls(storage, _read_identity(storage))

    def systems(self) -> list[int]:
        """The system identifiers of all clusters that have something here."""
        found = map(layout.parse_system, self.storage.folders())
        return sorted(
            system
            for system in found
            if system is not None
            and next(iter(self.storage.list(layout.system_folder(system))), None) is not None
        )

    def cluster(self, system_identifier: int) -> ClusterRepository:
        """The part for one cluster, whether it has something already or not."""
        return ClusterRepository(self.storage, system_identifier)

    def only_system(self, system: int | None = None) -> int:
        """The system identifier of the cluster that is meant.

        system: as the user gave it; None means the only one.

        Raises: NotFound; UsageError if there are several to choose from.
        """
        systems = self.systems()
        listed = ", ".join(map(str, systems))
        if system is not None:
            if system not in systems:
                raise NotFound(
                    f'could not find system "{system}": repository "{self.storage.url}" '
                    "has nothing of it",
                    hint=f"Use --system with one of {listed}." if systems else None,
                )
            return system
        if not systems:
            raise NotFound(
                f'could not find a backup: repository "{self.storage.url}" is empty',
                hint='Take the first backup with "pgbackup backup".',
            )
        if len(systems) > 1:
            raise UsageError(
                f'could not choose a system: repository "{self.storage.url}" holds several',
                hint=f"Use --system ID with one of {listed}.",
            )
        return systems[0]

    def only_cluster(self, system: int | None = None) -> ClusterRepository:
        """The part for the cluster that is meant. As only_system."""
        return self.cluster(self.only_system(system))


def _read_identity(storage: Storage) -> str:
    fields = Fields.parse(storage.read(layout.FORMAT, _LIMIT), storage.locate(layout.FORMAT))
    found = fields.number("format")
    if found > REPOSITORY_FORMAT:
        raise Refused(
            f'could not open repository "{storage.url}": it has format {found}, this version '
            f"of pgbackup knows {REPOSITORY_FORMAT}",
            hint="Use the version of pgbackup that made the repository, or a newer one.",
        )
    return fields.text("repository_id")


def _no_repository(storage: Storage) -> NotFound:
    return NotFound(
        f'could not open repository "{storage.url}": there is no {layout.FORMAT}',
        hint='Name the repository with -B, or take its first backup with "pgbackup backup".',
    )


def _refuse_other_content(storage: Storage) -> None:
    found = next(iter(storage.list()), None)
    if found is not None and found.name != layout.FORMAT:
        raise Refused(
            f'could not make "{storage.url}" a repository: it is not empty and has no '
            f"{layout.FORMAT}",
            detail=f'It holds "{found.name}", for example.',
            hint="Name an empty or a new directory with -B.",
        )


def _encode(values: dict[str, object]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
