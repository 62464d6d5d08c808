"""`pgbackup wal fill`."""

from pgbackup.archiving.receiver.fill import Filled, FillReport, fill_gaps
from pgbackup.cli import connection, options, receiving
from pgbackup.cli.gaps import (
    describe,
    gaps_document,
    gaps_status,
    print_gaps,
    stretch_document,
    warn_of_unread,
)
from pgbackup.cli.output import print_json, say_warning
from pgbackup.replication.transport import Host


def fill_wal(
    *,
    host: connection.Host = None,
    port: connection.Port = None,
    username: connection.User = None,
    dbname: connection.Dbname = None,
    no_password: connection.NoPassword = False,
    password: connection.AskPassword = False,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    compress: receiving.Compress = "zstd",
    json: options.Json = False,
) -> int:
    """Fetch WAL that is missing in the archive from servers that still have it.

    Every host of a connection string with several is asked, primary or standby.
    """
    level = receiving.parse_level(compress)
    connector = connection.Connector(
        host, port, username, dbname, never_ask=no_password, ask=password
    )
    cluster = options.open_repository(repo).only_cluster(options.parse_system(system))
    hosts = [Host(name, each.connect) for name, each in connector.each_host()]
    report = fill_gaps(cluster, hosts, level)
    if json:
        _print_document(cluster.system, report)
    else:
        for filled in report.filled:
            _print(filled)
        print_gaps(report.inventory, report.gaps)
    for name, error in report.failures:
        say_warning(f"{name}: {error.message}")
    warn_of_unread(report.inventory)
    return gaps_status(report.inventory, report.gaps)


def _print(filled: Filled) -> None:
    for timeline in filled.histories:
        print(f"timeline {timeline}: {timeline.history_name} filled from {filled.host}")
    for stretch in filled.stretches:
        print(f"timeline {stretch.timeline}: {describe(stretch)} filled from {filled.host}")


def _print_document(system: int, report: FillReport) -> None:
    print_json(
        {
            "system_identifier": str(system),
            "filled": [
                {
                    "host": each.host,
                    "stretches": [stretch_document(stretch) for stretch in each.stretches],
                    "histories": [timeline.history_name for timeline in each.histories],
                }
                for each in report.filled
            ],
            "failures": [
                {"host": name, "reason": error.message} for name, error in report.failures
            ],
            **gaps_document(report.inventory, report.gaps),
        }
    )
