"""`pgbackup list`."""

from pgbackup.cli import options
from pgbackup.cli.document import backup_document
from pgbackup.cli.output import format_size, format_time, print_json, print_table, say, say_warning
from pgbackup.errors import ExitCode
from pgbackup.repo.catalog import BackupRecord

HEADINGS = ("LABEL", "KIND", "STARTED", "TOOK", "SIZE", "STORED", "SERVER", "START LSN", "PAGES")


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
    records: list[BackupRecord] = []
    damaged: list[str] = []
    for identifier in systems:
        catalog = repository.cluster(identifier).catalog
        records += catalog.list()
        damaged += [f"{each.label}: {each.reason}" for each in catalog.damaged()]
    if json:
        print_json({"backups": [backup_document(record) for record in records]})
    else:
        _print(records, show_system=len(systems) > 1)
    for text in damaged:
        say_warning(f"backup {text}")
    return ExitCode.WARNINGS if damaged else ExitCode.OK


def _print(records: list[BackupRecord], *, show_system: bool) -> None:
    if not records:
        say("there are no backups; take one with: pgbackup backup")
        return
    headings = (*HEADINGS, "SYSTEM") if show_system else HEADINGS
    print_table(headings, [_row(record)[: len(headings)] for record in records])


def _row(record: BackupRecord) -> tuple[str, ...]:
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
        str(record.system_identifier),
    )
