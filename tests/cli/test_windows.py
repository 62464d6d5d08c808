"""`pgbackup windows` shows what can be reached, in a terminal, as JSON, and as a page."""

import re
import struct
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pgbackup.cli.windows_html import page
from pgbackup.cli.windows_text import ASCII, UNICODE, Glyphs, chart_lines
from pgbackup.pg.history import HistoryEntry, TimelineHistory
from pgbackup.pg.lsn import Lsn, Segment, Timeline
from pgbackup.pg.walrecord import EventKind, WalEvent, from_datetime
from pgbackup.repo.coverage import Gaps, TimelineWal, stretches_of
from pgbackup.repo.moments.chart import draw
from pgbackup.repo.moments.indexpieces import Piece
from pgbackup.repo.moments.survey import Survey
from pgbackup.repo.moments.walindex import SegmentNotes, TimelineIndex, WalIndex
from pgbackup.repo.moments.windows import windows
from pgbackup.repo.repository import Repository
from pgbackup.storage.local import LocalStorage
from tests.backup.wal import WalWriter
from tests.cli.program import run, succeed
from tests.repo.moments.test_recordsearch import COMMIT, RM_XACT, main_data
from tests.repo.samples import MIB, NOON, SYSTEM, record

EVIL = "<script>alert('x')</script>&\x1b[2J"


def survey(backups: int) -> Survey:
    """A backup every ten segments, an hour each; a gap; a second timeline; a restore point."""

    def time(number: float) -> datetime:
        return NOON + timedelta(hours=number / 10)

    def index(timeline: int, numbers: list[int], *events: WalEvent) -> TimelineIndex:
        notes = [
            SegmentNotes(n, 2, 2, us(n), 40, us(n + 0.9), 90, us(n), us(n + 0.9), 1, 2, 900)
            for n in numbers
        ]
        rows = Piece.of_notes(Timeline(timeline), notes, []).rows
        return TimelineIndex(Timeline(timeline), MIB, rows, events)

    def us(number: float) -> int:
        return from_datetime(time(number))

    last = backups * 10 + 10
    numbers = {1: [n for n in range(2, last) if n != 8], 2: list(range(last - 3, last + 9))}
    wal = [
        TimelineWal(Timeline(t), tuple(stretches_of(Timeline(t), n, MIB)), (), True, 0)
        for t, n in numbers.items()
    ]
    point = WalEvent(Lsn(5 * MIB + 500), EventKind.RESTORE_POINT, us(5), EVIL)
    known = WalIndex({Timeline(1): index(1, numbers[1], point), Timeline(2): index(2, numbers[2])})
    records = [
        record(
            time(n).strftime("%Y%m%dT%H%M%SF"),
            timeline=Timeline(1),
            stop_timeline=Timeline(1),
            start_lsn=Lsn(n * MIB + 40),
            stop_lsn=Lsn(n * MIB + 1000),
            start_time=time(n),
            stop_time=time(n + 0.1),
        )
        for n in range(2, backups * 10, 10)
    ]
    fork = TimelineHistory(Timeline(2), (HistoryEntry(Timeline(1), Lsn((last - 3) * MIB + 77)),))
    found = windows(records, {Timeline(2): fork}, wal, known)
    gaps = Gaps(wal[0].holes, ())
    return Survey(SYSTEM, MIB, tuple(records), (), tuple(wal), known, tuple(found), (), gaps)


@pytest.mark.parametrize("glyphs", [ASCII, UNICODE], ids=["ascii", "unicode"])
@pytest.mark.parametrize("columns", [20, 60, 100, 1000])
def test_the_picture_fits_and_shows_every_gap(columns: int, glyphs: Glyphs) -> None:
    chart = draw(survey(30))
    assert chart is not None
    lines = chart_lines(chart, columns, glyphs)
    first = next(line for line in lines if line.startswith("timeline 1"))
    assert 1 <= first.count("x") <= 2
    assert all(len(line) <= max(40, min(columns, 160)) for line in lines[:-1])
    if glyphs is ASCII:
        assert "".join(lines).isascii()


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("backups", [1, 300])
def test_the_page_is_whole_and_takes_nothing_from_outside(backups: int) -> None:
    what = survey(backups)
    text = page(what, draw(what), NOON)
    found = Page(text)
    assert found.open == []
    assert "script" not in found.tags
    assert not {"src", "href", "onclick", "srcset"} & {name for name, _ in found.attributes}
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text
    kinds = [value for name, value in found.attributes if name == "class"]
    assert kinds.count("mark") == backups
    assert kinds.count("gap") == 2  # on the lane and in the legend


def test_the_page_of_an_empty_repository_is_whole() -> None:
    what = Survey(SYSTEM, MIB, (), (), (), WalIndex({}), (), (), Gaps((), ()))
    assert Page(page(what, draw(what), NOON)).open == []


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A repository with segments 5 to 7, a commit each minute, ten in each segment."""
    cluster = Repository.open(LocalStorage(tmp_path / "pgbackup-repo"), create=True).cluster(SYSTEM)
    cluster.bind(150000, MIB)
    writer = WalWriter(Segment(Timeline(1), 5, MIB), SYSTEM)
    for minute in range(30):
        time = from_datetime(NOON + timedelta(minutes=minute))
        writer.add(main_data(struct.pack("<q", time)), COMMIT, RM_XACT)
        if minute % 10 == 9:
            writer.switch()
    for segment, data in writer.segments().items():
        with cluster.archive.segment_writer(segment, 1) as file:
            file.write(data)
            file.commit()
    cluster.catalog.put(
        record(
            timeline=Timeline(1),
            stop_timeline=Timeline(1),
            start_lsn=Lsn(5 * MIB + 40),
            stop_lsn=Lsn(5 * MIB + 400),
            histories=(),
        )
    )
    return tmp_path


@pytest.mark.parametrize(
    ("before", "found"),
    [
        ("2026-11-22T12:15:30Z", "2026-11-22T12:15:00.000000Z"),
        ("2026-11-22 12:15Z", "2026-11-22T12:15:00.000000Z"),
        ("2026-11-22T14:15:00+02:00", "2026-11-22T12:15:00.000000Z"),
        ("2026-11-22T12:20:59Z", "2026-11-22T12:20:00.000000Z"),
        ("2030-01-01 00:00Z", "2026-11-22T12:29:00.000000Z"),
    ],
    ids=["between", "at-without-seconds", "with-zone", "first-of-segment", "behind-all"],
)
def test_the_nearest_commit_before_a_time_is_told(archive: Path, before: str, found: str) -> None:
    document = succeed(archive, "windows", "--before", before, "--json").document
    (nearest,) = document["before"]
    assert (nearest["time"], nearest["timeline"]) == (found, 1)


def test_a_time_before_all_backups_is_not_reachable(archive: Path) -> None:
    assert run(archive, "windows", "--before", "2026-11-22T11:00Z").status == 9
    assert run(archive, "windows", "--before", "yesterday").status == 2


def test_the_text_and_the_page_are_written(archive: Path) -> None:
    answer = succeed(archive, "windows", "--html", "page.html")
    text = answer.out.decode()
    assert re.search(r"^1 +1 +0/500190 +0/800000 .* 12:29:00 UTC +end of archive$", text, re.M)
    assert "timeline 1" in text
    assert Page((archive / "page.html").read_text()).open == []
    (window,) = succeed(archive, "windows", "--json").document["windows"]
    assert (window["ends_by"], window["before_time"]) == ("archive", "2026-11-22T12:29:00.000000Z")


def test_a_gap_is_told_with_its_first_segment(archive: Path) -> None:
    next((archive / "pgbackup-repo").glob("*/wal/*06*")).unlink()
    text = succeed(archive, "windows").out.decode()
    assert "gap of 1 from 000000010000000000000006" in text


def test_a_page_that_cannot_be_written_is_an_error(archive: Path) -> None:
    answer = run(archive, "windows", "--html", "no/such/page.html")
    assert answer.status == 1
    assert "could not write file" in answer.err
