"""`pgbackup backup`."""

import shlex
import sys
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.backup.pgdata.takelocal import LocalSource, stream_local_backup, take_local_backup
from pgbackup.backup.request import BackupRequest
from pgbackup.backup.take import stream_backup, take_backup
from pgbackup.cli import connection, options
from pgbackup.cli.amounts import parse_compression, parse_rate
from pgbackup.cli.document import backup_document
from pgbackup.cli.output import format_size, print_json, progress_bar, say, say_warning
from pgbackup.errors import ExitCode, UsageError
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.repository import Repository
from pgbackup.storage.api import Storage
from pgbackup.storage.registry import open_storage
from pgbackup.stream.compress import MAX_WORKERS, ZstdSettings
from pgbackup.wire.basebackup import MAX_LABEL


class Checkpoint(StrEnum):
    """Values of -c."""

    FAST = "fast"
    SPREAD = "spread"


class ManifestChecksums(StrEnum):
    """Values of --manifest-checksums."""

    NONE = "NONE"
    CRC32C = "CRC32C"
    SHA224 = "SHA224"
    SHA256 = "SHA256"
    SHA384 = "SHA384"
    SHA512 = "SHA512"


def backup(
    *,
    host: connection.Host = None,
    port: connection.Port = None,
    username: connection.User = None,
    dbname: connection.Dbname = None,
    no_password: connection.NoPassword = False,
    password: connection.AskPassword = False,
    repo: options.Repo = options.DEFAULT_REPO,
    target: Annotated[
        str | None,
        typer.Option("-D", metavar="-", help="- writes one tar to standard output, no repository."),
    ] = None,
    checkpoint: Annotated[
        Checkpoint, typer.Option("--checkpoint", "-c", help="How the backup's checkpoint is done.")
    ] = Checkpoint.SPREAD,
    label: Annotated[
        str, typer.Option("--label", "-l", metavar="TEXT", help="A text kept with the backup.")
    ] = "pgbackup base backup",
    max_rate: options.MaxRate = None,
    compress: Annotated[
        str | None,
        typer.Option(
            "--compress",
            "-Z",
            metavar="METHOD",
            help="none or zstd[:level=N][,workers=N]; zstd by default.",
        ),
    ] = None,
    manifest_checksums: Annotated[
        ManifestChecksums,
        typer.Option(case_sensitive=False, help="Checksum of each file in the manifest."),
    ] = ManifestChecksums.CRC32C,
    no_verify_checksums: Annotated[
        bool, typer.Option("--no-verify-checksums", help="Nobody checks the pages' checksums.")
    ] = False,
    pgdata: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Read the data directory of a server on this host, ourselves."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", metavar="N", min=1, max=MAX_WORKERS, help="Threads; default: the cores."
        ),
    ] = None,
    direct_io: Annotated[
        bool, typer.Option("--direct-io", help="With --pgdata: read past the page cache.")
    ] = False,
    progress: options.ProgressWanted = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> int:
    """Back up a server, with the WAL that makes the backup usable."""
    if target not in (None, "-"):
        raise UsageError(
            f'could not write the backup to "{target}": -D takes only "-" here',
            hint="Name the repository with -B, or restore a backup with: pgbackup restore -D DIR",
        )
    if len(label.encode("utf-8", "surrogateescape")) > MAX_LABEL or {"\n", "\r"} & set(label):
        raise UsageError(f"the label has to be one line of at most {MAX_LABEL} bytes")
    default_compression = "zstd" if target is None else "none"
    request = BackupRequest(
        comment=label,
        fast_checkpoint=checkpoint is Checkpoint.FAST,
        max_rate=None if max_rate is None else parse_rate(max_rate),
        checksums=manifest_checksums.value,
        verify_checksums=not no_verify_checksums,
        compression=_with_jobs(parse_compression(compress or default_compression), jobs),
        direct_io=direct_io,
    )
    connector = connection.Connector(
        host, port, username, dbname, never_ask=no_password, ask=password
    )
    run = _Run(connector, pgdata, request, options.wants_progress(progress, quiet))
    if target == "-":
        return run.to_stdout()
    record = run.to_repository(open_storage(repo))
    for warning in record.checksum_failures.warnings:
        say_warning(warning)
    if json:
        print_json({"backup": backup_document(record)})
    elif not quiet:
        _tell(record, repo)
    is_clean = not record.checksum_failures.is_damaged
    return ExitCode.OK if is_clean else ExitCode.WARNINGS


def _with_jobs(compression: ZstdSettings | None, jobs: int | None) -> ZstdSettings | None:
    if compression is None or jobs is None:
        return compression
    return replace(compression, workers=jobs)


class _Run:
    """One backup, of a server or of a data directory."""

    def __init__(
        self,
        connector: connection.Connector,
        pgdata: str | None,
        request: BackupRequest,
        wants_progress: bool | None,
    ) -> None:
        if pgdata is None and request.direct_io:
            raise UsageError("--direct-io needs --pgdata: the server reads its files by itself")
        self._connector = connector
        self._request = request
        self._wants_progress = wants_progress
        self._source: LocalSource | None = None
        if pgdata is not None:
            self._source = LocalSource(
                DataDirectory.open(pgdata),
                connector.connect,
                connector.connect_for_sql,
                estimate=sys.stderr.isatty() if wants_progress is None else wants_progress,
            )

    def to_repository(self, storage: Storage) -> BackupRecord:
        place = storage.features.local_path
        if self._source is not None and place and self._source.data.contains(place):
            raise UsageError(
                f'could not back up into repository "{storage.url}": it lies in the data directory',
                hint="Name a repository elsewhere with -B.",
            )
        open_repository = partial(Repository.open, storage, create=True)
        with progress_bar("backup", self._wants_progress) as bar:
            if self._source is not None:
                return take_local_backup(self._source, open_repository, self._request, bar)
            return take_backup(self._connector.connect, open_repository, self._request, bar)

    def to_stdout(self) -> int:
        if sys.stdout.isatty():
            raise UsageError(
                "could not write a backup to a terminal",
                hint="Redirect standard output, or leave -D out to back up into a repository.",
            )
        descriptor = sys.stdout.fileno()
        with progress_bar("backup", self._wants_progress) as bar:
            if self._source is not None:
                outcome = stream_local_backup(self._source, descriptor, self._request, bar)
            else:
                outcome = stream_backup(self._connector.connect, descriptor, self._request, bar)
        for warning in outcome.warnings:
            say_warning(warning)
        return ExitCode.WARNINGS if outcome.is_damaged else ExitCode.OK


def _tell(record: BackupRecord, repo: str) -> None:
    say(
        f"backup {record.label} of PostgreSQL {record.server_version_text} finished:"
        f" {format_size(record.size)}, stored in {format_size(record.stored_size)},"
        f" {record.duration_seconds:.1f} s"
    )
    prefix = "" if repo == options.DEFAULT_REPO else f" -B {shlex.quote(repo)}"
    say(f"to check it, type: pgbackup verify{prefix} {record.label}")
    if record.checksum_failures.is_damaged:
        say_warning("there are damaged pages; this backup holds them as they are")
