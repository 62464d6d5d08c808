"""`pgbackup check`."""

from typing import Annotated

import typer

from pgbackup.care.check import CheckRequest, run_check
from pgbackup.care.finding import Finding, Severity, worst
from pgbackup.care.schedule import parse_span
from pgbackup.cli import connection, options
from pgbackup.cli.output import print_json
from pgbackup.errors import ExitCode, PgbackupError, UsageError
from pgbackup.storage.registry import open_storage

UNKNOWN = 3
"""What a Nagios plugin ends with that could not find out."""

_STATUS = {
    Severity.OK: ExitCode.OK,
    Severity.WARNING: ExitCode.WARNINGS,
    Severity.CRITICAL: ExitCode.FAILED,
}


def check(
    *,
    host: connection.Host = None,
    port: connection.Port = None,
    username: connection.User = None,
    dbname: connection.Dbname = None,
    no_password: connection.NoPassword = False,
    password: connection.AskPassword = False,
    no_server: Annotated[
        bool, typer.Option("--no-server", help="Look at the repository alone.")
    ] = False,
    slot: Annotated[
        str | None,
        typer.Option(
            "--slot",
            "-S",
            metavar="NAME",
            callback=options.checked_slot,
            help="Replication slot that keeps WAL for us.",
        ),
    ] = None,
    max_backup_age: Annotated[
        str, typer.Option(metavar="SPAN", help="A backup has to be younger: 90min, 36h, 8d.")
    ] = "2d",
    max_wal_age: Annotated[
        str,
        typer.Option(
            metavar="SPAN", help="WAL of a busy server has to be archived within this time."
        ),
    ] = "1h",
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    nagios: Annotated[
        bool, typer.Option("--nagios", help="One line and exit status of a Nagios plugin.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what is wrong.")] = False,
    json: options.Json = False,
) -> int:
    """Look at the server and the repository, and name what is wrong and what to type against it.

    Ends with 0 if all is well, 10 after warnings, 1 if anything is critical.
    """
    if no_server and slot is not None:
        raise UsageError("-S (--slot) needs a server: leave --no-server out")
    try:
        request = CheckRequest(
            slot=slot,
            system=options.parse_system(system),
            max_backup_age=parse_span(max_backup_age),
            max_wal_age=parse_span(max_wal_age),
        )
        if not no_server:
            connector = connection.Connector(
                host, port, username, dbname, never_ask=no_password, ask=password
            )
            request = request.with_server(connector.connect, connector.connect_quietly)
        findings = run_check(open_storage(repo), request)
    except PgbackupError as error:
        if not nagios:
            raise
        print(f"PGBACKUP UNKNOWN - {_one_line(error.message)}")
        return UNKNOWN
    found = worst(findings)
    if nagios:
        print(_nagios_line(findings, found))
        return int(found)
    if json:
        print_json({"severity": found.name.lower(), "findings": [_document(f) for f in findings]})
    else:
        _print(findings, quiet=quiet)
    return _STATUS[found]


def _print(findings: list[Finding], *, quiet: bool) -> None:
    for each in sorted(findings, key=lambda each: -each.severity):
        if quiet and each.severity is Severity.OK:
            continue
        print(f"{each.severity.name.lower():8}  {each.subject}: {each.text}")
        if each.fix:
            print(f"{'':8}  fix: {each.fix}")


def _nagios_line(findings: list[Finding], found: Severity) -> str:
    bad = [each for each in findings if each.severity is found and found is not Severity.OK]
    others = sum(Severity.OK < each.severity < found for each in findings)
    text = "; ".join(f"{each.text} (fix: {each.fix})" for each in bad)
    if others:
        text += f"; {others} warnings"
    counts = {
        severity.name.lower(): sum(each.severity is severity for each in findings)
        for severity in Severity
    }
    performance = " ".join(f"{name}={number}" for name, number in counts.items())
    measured = [each.measure for each in findings if each.measure]
    text = text or f"{len(findings)} checks, nothing is wrong"
    return _one_line(f"PGBACKUP {found.name} - {text}") + f" | {' '.join([performance, *measured])}"


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _document(finding: Finding) -> dict[str, str | None]:
    return {
        "severity": finding.severity.name.lower(),
        "subject": finding.subject,
        "text": finding.text,
        "fix": finding.fix or None,
    }
