"""Judges the backups of a cluster: whether there is a young one, and whether they are good."""

from collections.abc import Mapping
from datetime import UTC, datetime

from pgbackup.care.finding import Findings, critical, fine, warning
from pgbackup.care.lastrun import LastRun
from pgbackup.repo.catalog import BackupRecord
from pgbackup.repo.repository import ClusterRepository
from pgbackup.repo.verifications import Verification, read_verifications

CRON_AGE = 2 * 86400
"""Seconds after which a cron that ran once must have run again."""


def judge_backups(cluster: ClusterRepository, max_age: float) -> Findings:
    """max_age: seconds within which there must be a backup."""
    catalog = cluster.catalog
    records = catalog.list()
    yield from _judge_age(records[-1] if records else None, max_age)
    for each in catalog.damaged():
        yield critical(
            "backup_record",
            f"backup {each.label}: its record is damaged: {each.reason.message}",
            "take a new one: pgbackup backup",
        )
    for record in records:
        if record.checksum_failures.is_damaged:
            yield warning(
                "page_checksums",
                f"backup {record.label}: the server found pages with wrong checksums",
                f"see them with: pgbackup show {record.label}; restore those tables elsewhere",
            )
    verifications = read_verifications(cluster)
    for record in records:
        yield from _judge_verification(record.label, verifications)
    labels = list(catalog.unfinished())
    if labels:
        yield warning(
            "unfinished_backup",
            f"a killed backup left its folder: {', '.join(labels)}",
            "the next one removes it: pgbackup backup",
        )


def judge_last_run(last: LastRun | None) -> Findings:
    """How cron does, if it ever ran."""
    if last is None:
        return
    age = (datetime.now(UTC) - last.time).total_seconds()
    if age > CRON_AGE:
        yield warning(
            "cron",
            f"pgbackup cron last ran {age / 86400:.1f} days ago",
            "look at: systemctl list-timers 'pgbackup-cron@*', or crontab -l",
        )
    elif last.exit_code:
        yield warning(
            "cron",
            f"the last pgbackup cron ended with {last.exit_code}: {last.summary}",
            "run pgbackup cron by hand, with the options of the crontab",
        )
    else:
        yield fine("cron", f"pgbackup cron ran {age:.0f} s ago")


def _judge_age(last: BackupRecord | None, max_age: float) -> Findings:
    if last is None:
        yield critical("backup_age", "there is no backup", "pgbackup backup")
        return
    age = (datetime.now(UTC) - last.stop_time).total_seconds()
    text = f"the last backup, {last.label}, is {age / 3600:.1f} hours old"
    measure = f"backup_age={age:.0f}s;;{max_age:.0f};0"
    if age > max_age:
        fix = "pgbackup backup, or pgbackup cron --full-every 1d"
        yield critical("backup_age", text, fix)._replace(measure=measure)
    elif age < 0:
        yield warning(
            "clock",
            f"the last backup, {last.label}, is from the future",
            "set this host's clock: timedatectl set-ntp true",
        )
    else:
        yield fine("backup_age", text)._replace(measure=measure)


def _judge_verification(label: str, verifications: Mapping[str, Verification]) -> Findings:
    last = verifications.get(label)
    if last is None:
        yield warning(
            "backup_verified",
            f"backup {label} was never verified",
            f"pgbackup verify {label}",
        )
    elif last.problems:
        yield critical(
            "backup_verified",
            f"backup {label} is damaged: verify found {last.problems} problems",
            f"take a new one: pgbackup backup; see them with: pgbackup verify {label}",
        )
    else:
        yield fine("backup_verified", f"backup {label} was verified and is good")
