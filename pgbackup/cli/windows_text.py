"""How `pgbackup windows` looks in a terminal: tables, and a picture in characters."""

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from pgbackup.cli.gaps import describe
from pgbackup.cli.output import format_time, print_table, printable
from pgbackup.cli.streams import is_utf8
from pgbackup.pg.lsn import Timeline
from pgbackup.pg.walrecord import to_datetime
from pgbackup.repo.moments.chart import Chart, Lane, Mark
from pgbackup.repo.moments.survey import Survey
from pgbackup.repo.moments.windows import EndsBy, Window

HEADINGS = ("TLI", "BACKUPS", "FROM", "UP TO", "FROM TIME", "LAST COMMIT", "ENDS BY")
POINT_HEADINGS = ("RESTORE POINT", "TLI", "LSN", "TIME")
MIN_WIDTH = 40
MAX_WIDTH = 160


class Glyphs(NamedTuple):
    """What the picture is made of."""

    wal: str
    gap: str
    backup: str
    lost: str
    point: str


UNICODE = Glyphs("█", "x", "▲", "△", "◆")
ASCII = Glyphs("#", "x", "^", "!", "*")


def print_windows(survey: Survey) -> None:
    """What can be reached, and which backups reach nothing."""
    rows = window_rows(survey)
    if rows:
        print_table(HEADINGS, rows)
    for label, timeline, missing in unreachable_rows(survey.windows):
        print(f"backup {label} cannot be recovered on timeline {timeline}: {missing} missing")


def window_rows(survey: Survey) -> list[tuple[str, ...]]:
    """One for each end that can be reached, from the oldest backup that gets there."""
    stopped = {record.label: record.stop_time for record in survey.backups}
    groups: dict[tuple[Timeline, int, EndsBy], list[Window]] = {}
    for each in survey.windows:
        if each.is_reachable:
            groups.setdefault((each.timeline, each.end.lsn, each.ends_by), []).append(each)
    return [_row(groups[key], stopped) for key in sorted(groups, key=lambda key: key[:2])]


def unreachable_rows(windows: Sequence[Window]) -> list[tuple[str, str, str]]:
    """Backups whose own WAL is missing: label, timeline, what is missing."""
    return [
        (
            each.label,
            str(each.timeline),
            "its WAL" if each.missing is None else describe(each.missing),
        )
        for each in windows
        if not each.is_reachable
    ]


def _row(group: Sequence[Window], stopped: Mapping[str, datetime]) -> tuple[str, ...]:
    oldest = min(group, key=lambda each: each.start.lsn)
    last = oldest.last_commit
    return (
        str(oldest.timeline),
        str(len(group)),
        str(oldest.start.lsn),
        str(oldest.end.lsn),
        format_time(oldest.after_time or stopped[oldest.label]),
        "-" if last is None else format_time(to_datetime(last.time)),
        describe_end(oldest),
    )


def describe_end(window: Window) -> str:
    """Why a window ends, in words."""
    if window.missing is not None:
        return f"gap of {window.missing.segment_count} from {window.missing.first}"
    return "end of archive" if window.ends_by is EndsBy.ARCHIVE else "fork"


def print_points(survey: Survey) -> None:
    """All restore points, if there are any."""
    rows = point_rows(survey)
    if rows:
        print()
        print_table(POINT_HEADINGS, rows)


def point_rows(survey: Survey) -> list[tuple[str, ...]]:
    """One for each restore point."""
    return [
        (
            printable(event.name),
            str(timeline),
            str(event.lsn),
            format_time(to_datetime(event.time)),
        )
        for timeline, event in survey.restore_points()
    ]


def print_chart(chart: Chart) -> None:
    """The picture, as wide as the terminal."""
    columns = shutil.get_terminal_size((80, 24)).columns
    print()
    for line in chart_lines(chart, columns, UNICODE if is_utf8(sys.stdout) else ASCII):
        print(line)


def chart_lines(chart: Chart, columns: int, glyphs: Glyphs) -> list[str]:
    """The lines of the picture. columns: how wide it may be."""
    labels = [f"timeline {lane.timeline}" for lane in chart.lanes]
    margin = max(map(len, labels)) + 1
    width = max(min(columns, MAX_WIDTH), MIN_WIDTH) - margin - 1
    lines = [" " * margin + _axis(chart, width)]
    for label, lane in zip(labels, chart.lanes, strict=True):
        lines.append(label.ljust(margin) + _bars(chart, lane, width, glyphs))
        lines += [" " * margin + marks for marks in _marks(chart, lane, width, glyphs)]
    legend = [(glyphs.wal, "WAL"), (glyphs.backup, "backup")]
    if any(lane.gaps for lane in chart.lanes):
        legend.insert(1, (glyphs.gap, "missing WAL"))
    if any(not mark.is_good for lane in chart.lanes for mark in lane.backups):
        legend.append((glyphs.lost, "backup without its WAL"))
    if any(lane.points for lane in chart.lanes):
        legend.append((glyphs.point, "restore point"))
    return [*lines, " " * margin + "  ".join(f"{glyph} {text}" for glyph, text in legend)]


def _axis(chart: Chart, width: int) -> str:
    begin, end = _short(chart.begin), _short(chart.end)
    if len(begin) + len(end) + 2 > width:
        return begin[:width].rstrip()
    return begin + end.rjust(width - len(begin))


def _short(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M") + "Z"


def _bars(chart: Chart, lane: Lane, width: int, glyphs: Glyphs) -> str:
    cells = [" "] * width
    for bars, glyph in ((lane.bars, glyphs.wal), (lane.gaps, glyphs.gap)):
        for bar in bars:  # gaps come last: however short, each is seen
            first, last = _cell(chart, bar.begin, width), _cell(chart, bar.end, width)
            cells[first : last + 1] = glyph * (last + 1 - first)
    return "".join(cells).rstrip()


def _marks(chart: Chart, lane: Lane, width: int, glyphs: Glyphs) -> list[str]:
    """A line of backups, and one of restore points, where there are some."""
    good = [mark for mark in lane.backups if mark.is_good]
    lost = [mark for mark in lane.backups if not mark.is_good]
    lines = (((good, glyphs.backup), (lost, glyphs.lost)), ((lane.points, glyphs.point),))
    return [
        text
        for line in lines
        if (text := _line(chart, [(mark, glyph) for marks, glyph in line for mark in marks], width))
    ]


def _line(chart: Chart, marks: Iterable[tuple[Mark, str]], width: int) -> str:
    cells = [" "] * width
    for mark, glyph in marks:
        if chart.begin <= mark.time <= chart.end:
            cells[_cell(chart, mark.time, width)] = glyph
    return "".join(cells).rstrip()


def _cell(chart: Chart, time: datetime, width: int) -> int:
    return min(max(int(chart.place(time) * width), 0), width - 1)
