"""`pgbackup verify`."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from pgbackup.backup.verification.pages import PagesReport
from pgbackup.backup.verification.verify import VerifyReport, verify_backup
from pgbackup.cli import options
from pgbackup.cli.amounts import default_workers
from pgbackup.cli.output import format_size, print_json, progress_bar, say
from pgbackup.errors import ExitCode, StorageError, UsageError
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.repository import ClusterRepository
from pgbackup.repo.verifications import Verification, put_verification


def verify(
    label: Annotated[
        str | None,
        typer.Argument(
            metavar="LABEL", help="A label of `pgbackup list`, latest (the default) or oldest."
        ),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Check every backup.")] = False,
    jobs: options.Jobs = None,
    fail_fast: Annotated[
        bool, typer.Option("--exit-on-error", "-e", help="Stop at the first problem.")
    ] = False,
    pages: Annotated[
        bool, typer.Option("--pages", help="Check the checksum of every page, too.")
    ] = False,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    progress: options.ProgressWanted = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> int:
    """Read a backup and its WAL whole, and say everything that is wrong with it."""
    if every and label is not None:
        raise UsageError("--all and a label exclude each other")
    cluster = options.open_repository(repo).only_cluster(options.parse_system(system))
    records, problems = _choose(cluster, label or "latest", every=every)
    reports = []
    for record in records:
        with progress_bar(f"verify {record.label}", options.wants_progress(progress, quiet)) as bar:
            report = verify_backup(
                cluster,
                record,
                jobs=jobs or default_workers(),
                meter=bar,
                fail_fast=fail_fast,
                pages=pages,
            )
        reports.append(report)
        with suppress(StorageError):  # who may only read verifies all the same
            result = Verification(datetime.now(UTC), len(report.problems))
            put_verification(cluster, record, result)
        if not (quiet or json):
            _tell(report)
    if json:
        print_json({"verified": [_document(each) for each in reports], "problems": problems})
    else:
        for problem in problems:
            print(problem)
    is_good = not problems and not any(report.problems for report in reports)
    return ExitCode.OK if is_good else ExitCode.DAMAGED


def _choose(
    cluster: ClusterRepository, label: str, *, every: bool
) -> tuple[list[BackupRecord], list[str]]:
    """The backups to check, and what is wrong with records that can not even be read."""
    if not every:
        return [cluster.catalog.get(label)], []
    problems = [f"{each.label}: {each.reason}" for each in cluster.catalog.damaged()]
    return list(cluster.catalog.list()), problems


def _tell(report: VerifyReport) -> None:
    for problem in report.problems:
        print(f"{report.label}: {problem}")
    verdict = f"{len(report.problems)} PROBLEMS" if report.problems else "ok"
    say(
        f"backup {report.label}: {verdict}; {report.files} files, {format_size(report.size)},"
        f" {report.wal_files} WAL segments,{_pages(report)} {report.seconds:.1f} s"
    )


def _pages(report: VerifyReport) -> str:
    if report.pages is None:
        return ""
    return (
        f" {report.pages.checked} pages," if report.pages.has_checksums else " no page checksums,"
    )


def _document(report: VerifyReport) -> dict[str, Any]:
    return {
        "label": report.label,
        "is_good": not report.problems,
        "problems": list(report.problems),
        "files": report.files,
        "size": report.size,
        "wal_files": report.wal_files,
        "seconds": round(report.seconds, 3),
        "pages": None if report.pages is None else _pages_document(report.pages),
    }


def _pages_document(pages: PagesReport) -> dict[str, Any]:
    return {
        "has_checksums": pages.has_checksums,
        "checked": pages.checked,
        "failed": pages.failed,
        "files": [
            {
                "path": each.path,
                "failed": each.count,
                "first": [bad._asdict() for bad in each.first],
            }
            for each in pages.files
        ],
    }
