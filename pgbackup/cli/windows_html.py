"""The page that `pgbackup windows --html` writes: one file, nothing from outside, no scripts.

All text from a repository is escaped, restore points' names above all: any user of the server who
may make one chooses what it is called.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from html import escape

from pgbackup.cli.gaps import describe
from pgbackup.cli.output import format_size, format_time, printable
from pgbackup.cli.windows_style import STYLE
from pgbackup.cli.windows_text import (
    HEADINGS,
    POINT_HEADINGS,
    point_rows,
    unreachable_rows,
    window_rows,
)
from pgbackup.pg.walrecord import to_datetime
from pgbackup.repo.moments.chart import Bar, Chart, Lane, Mark
from pgbackup.repo.moments.survey import Survey

_MANY = 100  # backups on a lane, from which on their marks are thinner
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_TICKS = 8  # at most
_DAY = 24 * 3600
_STEPS = tuple(
    timedelta(seconds=seconds)
    for seconds in (
        *(1, 5, 15, 60, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600),
        *(days * _DAY for days in (1, 2, 7, 14, 28, 56, 112, 364, 1820)),
    )
)


def page(survey: Survey, chart: Chart | None, now: datetime) -> str:
    """The whole page. now: when it is made, UTC."""
    title = f"Backups and WAL of system {survey.system}"
    sections = [
        _section("Backups and WAL", "" if chart is None else _chart(chart)),
        _section("What can be restored", _table(HEADINGS, window_rows(survey))),
        _section(
            "Backups that cannot be recovered",
            _table(("BACKUP", "TLI", "MISSING"), unreachable_rows(survey.windows)),
        ),
        _section("Restore points", _table(POINT_HEADINGS, point_rows(survey))),
        _section("Backups", _table(("LABEL", "ENDED", "TLI", "LSN", "SIZE"), _backups(survey))),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p>As of {format_time(now)}</p>\n"
        f"{_facts(survey)}\n{''.join(sections)}</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>\n" if content else ""


def _facts(survey: Survey) -> str:
    commits = [each.last_commit.time for each in survey.windows if each.last_commit]
    missing = sum(hole.segment_count for hole in survey.gaps.holes)
    facts = [
        ("Backups", str(len(survey.backups)), ""),
        ("Newest backup", format_time(survey.backups[-1].stop_time) if survey.backups else "-", ""),
        ("Last commit in reach", format_time(to_datetime(max(commits))) if commits else "-", ""),
        ("Timelines", str(len(survey.timelines)), ""),
        ("Missing segments", str(missing) if missing else "none", "bad" if missing else ""),
    ]
    cells = (
        f'<div><dt>{escape(name)}</dt><dd class="{kind}">{escape(value)}</dd></div>'
        for name, value, kind in facts
    )
    return f"<dl>{''.join(cells)}</dl>"


def _chart(chart: Chart) -> str:
    lanes = "".join(
        f'<div class="name">Timeline {lane.timeline}</div>{_lane(chart, lane)}'
        for lane in chart.lanes
    )
    return f'<div class="chart">{lanes}<div></div>{_axis(chart)}</div>{_legend(chart)}'


def _lane(chart: Chart, lane: Lane) -> str:
    bars = "".join(
        f'<span class="{kind}" style="{_span(chart, bar)}" title="{escape(_title(kind, bar))}">'
        "</span>"
        for kind, bars in (("wal", lane.bars), ("gap", lane.gaps))
        for bar in bars
    )
    marks = [_mark(chart, each, "" if each.is_good else " lost") for each in lane.backups]
    points = [_mark(chart, each, " point") for each in lane.points]
    kind = "lane dense" if len(lane.backups) > _MANY else "lane"
    return f'<div class="{kind}"><div class="track">{bars}</div>{"".join(marks + points)}</div>'


def _title(kind: str, bar: Bar) -> str:
    what = "missing" if kind == "gap" else "WAL"
    return f"{what}: {describe(bar.stretch)}, {format_time(bar.begin)} to {format_time(bar.end)}"


def _span(chart: Chart, bar: Bar) -> str:
    left, right = chart.place(bar.begin), chart.place(bar.end)
    return f"left:{left:.3%};width:{right - left:.3%}"


def _mark(chart: Chart, mark: Mark, kind: str) -> str:
    if not chart.begin <= mark.time <= chart.end:
        return ""
    title = f"{printable(mark.name)}, {format_time(mark.time)}, {mark.lsn}"
    place = f"left:{chart.place(mark.time):.3%}"
    return f'<span class="mark{kind}" style="{place}" title="{escape(title)}"></span>'


def _axis(chart: Chart) -> str:
    ticks = list(_ticks(chart.begin, chart.end))
    is_long = chart.end - chart.begin > timedelta(days=_TICKS)
    is_short = chart.end - chart.begin < timedelta(minutes=_TICKS)
    form = "%Y-%m-%d" if is_long else "%H:%M:%S" if is_short else "%m-%d %H:%M"
    parts = []
    for tick in ticks:
        place = chart.place(tick)
        edge = ' class="first"' if place < 0.04 else ' class="last"' if place > 0.96 else ""
        parts.append(f'<span{edge} style="left:{place:.3%}">{tick.strftime(form)}</span>')
    return f'<div class="axis">{"".join(parts)}</div>'


def _ticks(begin: datetime, end: datetime) -> Iterable[datetime]:
    """Round times between two, not too many of them."""
    step = next((each for each in _STEPS if (end - begin) / each < _TICKS), (end - begin) / _TICKS)
    if not step:
        return [begin]
    origin = datetime(2001, 1, 1, tzinfo=UTC)  # a Monday
    first = -(-(begin - origin) // step)
    return [origin + number * step for number in range(first, (end - origin) // step + 1)]


def _legend(chart: Chart) -> str:
    entries = [("wal", "WAL"), ("tick", "backup")]
    if any(lane.gaps for lane in chart.lanes):
        entries.insert(1, ("gap", "missing WAL"))
    if any(not mark.is_good for lane in chart.lanes for mark in lane.backups):
        entries.append(("lost", "backup without its WAL"))
    if any(lane.points for lane in chart.lanes):
        entries.append(("diamond", "restore point"))
    parts = (f'<span><i class="{kind}"></i>{text}</span>' for kind, text in entries)
    return f'<div class="legend">{"".join(parts)}<span>times in UTC</span></div>'


def _backups(survey: Survey) -> list[tuple[str, ...]]:
    return [
        (
            each.label,
            format_time(each.stop_time),
            str(each.timeline),
            str(each.stop_lsn),
            format_size(each.size),
        )
        for each in reversed(survey.backups)
    ]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = _cells("th", [each.capitalize() if len(each) > 3 else each for each in headings])
    body = "".join(f"<tr>{_cells('td', row)}</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
