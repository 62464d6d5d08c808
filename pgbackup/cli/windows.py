"""`pgbackup windows`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from pgbackup.cli import options
from pgbackup.cli.gaps import stretch_document
from pgbackup.cli.output import (
    ProgressBar,
    format_time,
    print_json,
    progress_bar,
    say,
    say_warning,
)
from pgbackup.cli.windows_html import page
from pgbackup.cli.windows_text import print_chart, print_points, print_windows
from pgbackup.errors import ExitCode, PgbackupError
from pgbackup.pg.walrecord import from_datetime, to_datetime
from pgbackup.repo.moments.chart import draw
from pgbackup.repo.moments.survey import Survey, commit_before, read_survey
from pgbackup.repo.moments.walindex import Commit
from pgbackup.repo.moments.windows import Window
from pgbackup.repo.repository import ClusterRepository
from pgbackup.restore.moment import parse_moment

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"

Before = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Tell the last commit up to this time; without a zone it is local time.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page for a browser to this file."),
]


def windows(
    *,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    before: Before = None,
    html: Html = None,
    json: options.Json = False,
    progress: options.ProgressWanted = False,
    quiet: options.Quiet = False,
) -> int:
    """Show which moments can be restored, on each timeline, and what WAL and backups there are.

    WAL that was not looked into before is read first, and what was found is kept in the repository.
    """
    time = None if before is None else parse_moment(before)
    cluster = options.open_repository(repo).only_cluster(options.parse_system(system))
    with progress_bar("reading WAL", options.wants_progress(progress, quiet)) as bar:
        survey = _read(cluster, bar)
    if html is not None:
        _write(html, page(survey, draw(survey), datetime.now(UTC)))
    found = [] if time is None else _find(cluster, survey, time)
    if json:
        document = _document(survey)
        if time is not None:
            document["before"] = [
                {"timeline": int(window.timeline), "label": window.label, **_commit(commit)}
                for window, commit in found
            ]
        print_json(document)
    elif time is not None:
        _print_found(found, time)
    else:
        _print(survey)
    _warn(survey)
    if time is not None and not found:
        return ExitCode.NOT_REACHABLE
    return ExitCode.WARNINGS if survey.damaged or survey.unread else ExitCode.OK


def _read(cluster: ClusterRepository, bar: ProgressBar) -> Survey:
    return read_survey(cluster, bar.begin, bar.advance)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise PgbackupError(f'could not write file "{path}": {error.strerror}') from error


def _find(
    cluster: ClusterRepository, survey: Survey, time: datetime
) -> list[tuple[Window, Commit]]:
    """On each timeline, from the newest backup that gets there."""
    found: dict[int, tuple[Window, Commit]] = {}
    for window in survey.windows:
        commit = commit_before(cluster, survey.timelines, survey.index, window, from_datetime(time))
        if commit is not None:
            found[window.timeline] = (window, commit)
    return [found[timeline] for timeline in sorted(found)]


def _print(survey: Survey) -> None:
    if not survey.backups:
        say("there are no backups, so nothing can be restored; take one with: pgbackup backup")
    print_windows(survey)
    print_points(survey)
    chart = draw(survey)
    if chart is not None:
        print_chart(chart)


def _print_found(found: list[tuple[Window, Commit]], time: datetime) -> None:
    if not found:
        say(f"no backup can be recovered to a commit before {format_time(time)}")
    for window, commit in found:
        print(
            f"timeline {window.timeline}: committed {to_datetime(commit.time).isoformat()} "
            f"at {commit.lsn}, from backup {window.label}"
        )


def _warn(survey: Survey) -> None:
    for each in survey.damaged:
        say_warning(f"backup {each.label}: {each.reason}")
    for unread in survey.unread:
        say_warning(f"no commits are known of segment {unread.segment}: {unread.reason}")


def _document(survey: Survey) -> dict[str, Any]:
    return {
        "system_identifier": str(survey.system),
        "windows": [_window(each) for each in survey.windows],
        "restore_points": [
            {
                "name": event.name,
                "timeline": int(timeline),
                "lsn": str(event.lsn),
                "time": to_datetime(event.time).strftime(TIME_FORMAT),
            }
            for timeline, event in survey.restore_points()
        ],
        "timelines": [
            {
                "timeline": int(each.timeline),
                "stretches": [stretch_document(part) for part in each.stretches],
                "holes": [stretch_document(part) for part in each.holes],
            }
            for each in survey.timelines
        ],
        "unread_segments": [each.segment.name for each in survey.unread],
    }


def _window(window: Window) -> dict[str, Any]:
    last = window.last_record
    return {
        "label": window.label,
        "timeline": int(window.timeline),
        "is_reachable": window.is_reachable,
        "start_timeline": int(window.start.timeline),
        "start_lsn": str(window.start.lsn),
        "end_timeline": int(window.end.timeline),
        "end_lsn": str(window.end.lsn),
        "ends_by": window.ends_by.value,
        "missing": None if window.missing is None else stretch_document(window.missing),
        "last_record_lsn": None if last is None else str(last),
        "first_commit": None if window.first_commit is None else _commit(window.first_commit),
        "last_commit": None if window.last_commit is None else _commit(window.last_commit),
        "after_time": _time(window.after_time),
        "before_time": _time(window.before_time),
    }


def _commit(commit: Commit) -> dict[str, Any]:
    return {"lsn": str(commit.lsn), "time": to_datetime(commit.time).strftime(TIME_FORMAT)}


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.strftime(TIME_FORMAT)
