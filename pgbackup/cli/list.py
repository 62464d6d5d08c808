"""`pgbackup list`."""

from typing import Any

from pgbackup.cli import options
from pgbackup.cli.document import backup_document
from pgbackup.cli.output import format_size, format_time, print_json, print_table, say, say_warning
from pgbackup.errors import ExitCode
from pgbackup.repo.catalog import BackupRecord, DamagedBackup, Pin

HEADINGS = (
    "LABEL",
    "KIND",
    "STARTED",
    "TOOK",
    "SIZE",
    "STORED",
    "SERVER",
    "START LSN",
    "PAGES",
    "PIN",
)


def list_backups(
    *,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    json: options.Json = False,
) -> int:
    """List the backups in a repository."""
    repository = options.open_repository(repo)
    wanted = options.parse_system(system)
    systems = repository.systems() if wanted is None else [repository.only_system(wanted)]
    backups: list[tuple[BackupRecord, Pin | None]] = []
    damaged: list[tuple[int, DamagedBackup]] = []
    for identifier in systems:
        catalog = repository.cluster(identifier).catalog
        records, unreadable = catalog.read_all()
        pins = catalog.pins()
        backups += [(record, pins.get(record.label)) for record in records]
        damaged += [(identifier, each) for each in unreadable]
    if json:
        print_json(
            {
                "backups": [backup_document(record, pin) for record, pin in backups],
                "damaged": [_damaged_document(*each) for each in damaged],
            }
        )
    else:
        _print(backups, show_system=len(systems) > 1, is_empty=not damaged)
    for _, each in damaged:
        say_warning(f"backup {each.label}: {each.reason}")
    return ExitCode.WARNINGS if damaged else ExitCode.OK


def _damaged_document(system: int, damaged: DamagedBackup) -> dict[str, Any]:
    return {
        "label": damaged.label,
        "system_identifier": str(system),
        "reason": damaged.reason.message,
    }


def _print(
    backups: list[tuple[BackupRecord, Pin | None]], *, show_system: bool, is_empty: bool
) -> None:
    if not backups:
        if is_empty:
            say("there are no backups; take one with: pgbackup backup")
        return
    headings = (*HEADINGS, "SYSTEM") if show_system else HEADINGS
    print_table(headings, [_row(record, pin)[: len(headings)] for record, pin in backups])


def _row(record: BackupRecord, pin: Pin | None) -> tuple[str, ...]:
    return (
        record.label,
        record.kind,
        format_time(record.start_time),
        f"{record.duration_seconds:.0f} s",
        format_size(record.size),
        format_size(record.stored_size),
        record.server_version_text,
        f"{record.start_lsn} tli {record.timeline}",
        "DAMAGED" if record.checksum_failures.is_damaged else "ok",
        "-" if pin is None else pin.reason or "yes",
        str(record.system_identifier),
    )
