"""`pgbackup show`."""

from typing import Annotated

import typer

from pgbackup.cli import options
from pgbackup.cli.document import backup_document
from pgbackup.cli.output import format_size, format_time, print_facts, print_json
from pgbackup.repo.catalog import BackupRecord, Pin


def show(
    label: Annotated[
        str, typer.Argument(metavar="LABEL", help="A label of `pgbackup list`, latest or oldest.")
    ] = "latest",
    *,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    json: options.Json = False,
) -> None:
    """Show all that is known of one backup."""
    repository = options.open_repository(repo)
    identifier = repository.only_system(options.parse_system(system))
    catalog = repository.cluster(identifier).catalog
    record = catalog.get(label)
    pin = catalog.pin_of(record.label)
    if json:
        print_json({"backup": backup_document(record, pin)})
        return
    print_facts(_facts(record) + _pin_facts(pin))
    for warning in record.checksum_failures.warnings:
        print(f"  {warning}")


def _facts(record: BackupRecord) -> list[tuple[str, str]]:
    facts = [
        ("label", record.label),
        ("kind", record.kind),
        ("comment", record.comment),
        ("system identifier", str(record.system_identifier)),
        ("server version", record.server_version_text),
        ("started", format_time(record.start_time)),
        ("finished", format_time(record.stop_time)),
        ("took", f"{record.duration_seconds:.1f} s"),
        ("size", f"{format_size(record.size)}, stored in {format_size(record.stored_size)}"),
        ("compression", record.compression),
        ("start", f"{record.start_lsn} on timeline {record.timeline}"),
        ("stop", f"{record.stop_lsn} on timeline {record.stop_timeline}"),
        ("manifest checksums", record.checksum_algorithm),
        ("pages", "DAMAGED, see below" if record.checksum_failures.is_damaged else "ok"),
    ]
    facts += [("WAL segments", f"{wal.first} to {wal.last}") for wal in record.wal]
    if record.tail is not None:
        facts.append(("unfinished segment", record.tail))
    facts += [(f"tablespace {each.oid}", each.location) for each in record.tablespaces]
    return facts


def _pin_facts(pin: Pin | None) -> list[tuple[str, str]]:
    if pin is None:
        return []
    since = "" if pin.since is None else f"since {format_time(pin.since)}"
    return [("pinned", ": ".join(filter(None, [since, pin.reason])))]
