"""WAL out of a repository, byte for byte: whole, compressed, unfinished, and across timelines."""

import os
import select
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pgbackup.errors import ClientError, CorruptData
from pgbackup.pg.lsn import Lsn, Segment, Timeline, WalPosition
from pgbackup.replication.published import PositionsWriter
from pgbackup.repo import layout
from pgbackup.serve.wal import walnews
from pgbackup.serve.wal.walnews import WalNews
from pgbackup.serve.wal.walsource import WalSource
from pgbackup.serve.wal.walstream import PIECE_SIZE, WalStream
from pgbackup.storage.local import LocalStorage
from tests.repo.retention.expiring import make_cluster
from tests.repo.samples import MIB, SYSTEM
from tests.serve.wal.streaming import pieces

PAGE = 8192


def content(number: int, timeline: int = 1) -> bytes:
    """What a made-up segment holds."""
    block = bytes(zlib.crc32(f"{number} {timeline} {at}".encode()) & 0xFF for at in range(4096))
    return block * (MIB // len(block))


class Scene:
    """A made-up archive, with segments of 1 MiB."""

    def __init__(self, path: Path) -> None:
        self.cluster = make_cluster(LocalStorage(path))
        self.path = path
        self.news = WalNews(self.cluster)
        self._writer: PositionsWriter | None = None

    def put(self, number: int, timeline: int = 1, data: bytes | None = None) -> None:
        """A whole segment, of even numbers compressed."""
        segment = Segment(Timeline(timeline), number, MIB)
        with self.cluster.archive.segment_writer(segment, 1 if number % 2 == 0 else None) as writer:
            writer.write(content(number, timeline) if data is None else data)
            writer.commit()

    def partial(self, number: int, timeline: int = 1) -> Path:
        name = Segment(Timeline(timeline), number, MIB).name + ".partial"
        path = self.path / layout.wal_object(SYSTEM, name, compressed=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number, timeline))
        return path

    def publish(self, flushed: int, timeline: int = 1) -> None:
        if self._writer is None:
            path = self.path / layout.receiver_positions(SYSTEM)
            self._writer = PositionsWriter(path, SYSTEM)
        position = WalPosition(Timeline(timeline), Lsn(flushed))
        self._writer.publish(position, Lsn(flushed), Lsn(flushed))

    def history(self, timeline: int, *entries: tuple[int, int]) -> None:
        lines = [f"{line}\t{Lsn(switch)}\tno reason\n" for line, switch in entries]
        self.cluster.archive.put_history(Timeline(timeline), "".join(lines).encode())

    def stream(
        self, start: int, timeline: int | None = None, end: WalPosition | None = None
    ) -> WalStream:
        source = WalSource(self.cluster, None if timeline is None else Timeline(timeline), end)
        return WalStream(source, Lsn(start), self.news)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with closing(Scene(tmp_path / "repo")) as made, made.news:
        yield made


def read(stream: WalStream, start: int, end: int | None = None) -> bytes:
    """As read_wal, of an archive in which nothing comes meanwhile."""
    found = bytearray()
    for piece in pieces(stream, start, end):
        found += piece
        position = start + len(found)
        assert position % PAGE == 0 or position in (end, stream.source.flushed)
    return bytes(found)


@pytest.mark.parametrize("offset", [0, 1, 5 * PAGE + 24, PIECE_SIZE, MIB - 1])
def test_whole_segments_come_from_any_position_on(scene: Scene, offset: int) -> None:
    for number in range(3, 7):
        scene.put(number)
    expected = b"".join(content(number) for number in range(3, 7))
    with scene.stream(3 * MIB + offset) as stream:
        assert read(stream, 3 * MIB + offset, 7 * MIB) == expected[offset:]
        assert stream.source.flushed == 7 * MIB
        assert stream.take() == []


def test_of_an_unfinished_segment_comes_what_is_flushed(scene: Scene) -> None:
    scene.put(3)
    path = scene.partial(4)
    flushed = 4 * MIB + 3 * PAGE + 100
    scene.publish(flushed)
    with scene.stream(3 * MIB) as stream:
        assert read(stream, 3 * MIB, flushed) == (content(3) + content(4))[: flushed - 3 * MIB]
        assert stream.take() == []
        scene.publish(flushed + 1)
        assert read(stream, flushed, flushed + 1) == content(4)[flushed % MIB :][:1]
        scene.put(4)
        path.unlink()
        scene.partial(5)
        scene.publish(5 * MIB + 7)
        expected = (content(4) + content(5))[flushed + 1 - 4 * MIB : MIB + 7]
        assert read(stream, flushed + 1, 5 * MIB + 7) == expected


def test_an_archive_without_a_receiver_goes_on_by_segments(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walnews, "LONG_INTERVAL", 0.01)
    scene.put(3)
    scene.partial(4)
    with scene.stream(3 * MIB) as stream:
        read(stream, 3 * MIB, 4 * MIB)
        scene.put(4)
        assert read(stream, 4 * MIB, 5 * MIB) == content(4)


def test_a_segment_that_is_gone_is_named_as_the_server_does(scene: Scene) -> None:
    scene.put(3)
    scene.put(5)
    with scene.stream(3 * MIB) as stream, pytest.raises(ClientError) as caught:
        read(stream, 3 * MIB, 6 * MIB)
    name = "000000010000000000000004"
    assert caught.value.message == f"requested WAL segment {name} has already been removed"
    assert caught.value.sqlstate == "58P01"


def test_a_segment_that_a_receiver_is_at_is_waited_for(scene: Scene) -> None:
    """A backup may have stored whole segments far ahead of the receiver."""
    scene.put(3)
    scene.put(8)
    scene.partial(4)
    scene.publish(4 * MIB)
    with scene.stream(3 * MIB) as stream:
        read(stream, 3 * MIB, 4 * MIB)
        assert stream.take() == []
        scene.publish(4 * MIB + PAGE)
        assert read(stream, 4 * MIB, 4 * MIB + PAGE) == content(4)[:PAGE]


@pytest.mark.parametrize("place", [0.5, 0.9999])
def test_a_damaged_segment_is_never_completed(scene: Scene, place: float) -> None:
    noise = b"".join(os.urandom(PAGE) for _ in range(MIB // PAGE))
    scene.put(4, data=noise)
    stored = scene.path / layout.wal_object(SYSTEM, "000000010000000000000004", compressed=True)
    data = bytearray(stored.read_bytes())
    data[int(len(data) * place)] ^= 1
    stored.write_bytes(data)
    with scene.stream(4 * MIB) as stream:
        assert take_until_damage(stream) <= MIB - PIECE_SIZE


def take_until_damage(stream: WalStream) -> int:
    taken = 0
    while select.select([stream.fileno()], [], [], 30)[0]:
        try:
            pieces = stream.take()
        except CorruptData:
            return taken
        for piece in pieces:
            taken += len(piece.data)
            piece.buffer.release()
    raise AssertionError("nothing came for half a minute")


def test_a_timeline_that_was_left_ends_where_it_was_left(scene: Scene) -> None:
    switch = 5 * MIB + 2 * PAGE + 40
    for number in (3, 4):
        scene.put(number)
    common = content(5)[: switch % MIB]
    scene.put(5, 2, common + content(5, 2)[len(common) :])
    scene.history(2, (1, switch))
    with scene.stream(3 * MIB, timeline=1) as stream:
        assert read(stream, 3 * MIB) == content(3) + content(4) + common
        assert stream.is_over
        assert (stream.source.switch, stream.source.next_timeline) == (switch, 2)
        assert stream.source.flushed == switch
    source = WalSource(scene.cluster)
    assert (source.timeline, source.flushed, source.switch) == (2, 6 * MIB, None)


def test_the_last_segment_may_have_been_left_twice(scene: Scene) -> None:
    """Neither timeline 1 nor 2 ever finished it."""
    scene.put(5, 3)
    scene.partial(5, 1)
    scene.partial(5, 2)
    scene.history(2, (1, 5 * MIB + 100))
    scene.history(3, (1, 5 * MIB + 100), (2, 5 * MIB + 300))
    for timeline, switch in ((1, 100), (2, 300)):
        with scene.stream(5 * MIB, timeline) as stream:
            assert read(stream, 5 * MIB) == content(5, 3)[:switch]
            assert stream.source.next_timeline == timeline + 1


def test_a_new_history_ends_a_stream_even_behind_the_switch(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walnews, "LONG_INTERVAL", 0.01)
    scene.put(3)
    scene.partial(4)
    scene.publish(4 * MIB + 500)
    with scene.stream(3 * MIB) as stream:
        read(stream, 3 * MIB, 4 * MIB + 500)
        scene.history(2, (1, 4 * MIB + 300))
        assert read(stream, 4 * MIB + 500) == b""
        assert stream.source.switch == 4 * MIB + 300


def test_a_history_that_comes_between_limits_what_is_flushed(scene: Scene) -> None:
    scene.partial(4)
    scene.publish(4 * MIB + 100)
    with scene.stream(4 * MIB) as stream:
        read(stream, 4 * MIB, 4 * MIB + 100)
        scene.history(2, (1, 4 * MIB + 300))
        scene.publish(4 * MIB + 900)
        assert len(read(stream, 4 * MIB + 100)) == 200


@pytest.mark.parametrize("offset", [0, 300, PAGE, MIB - 1])
def test_a_client_gets_wal_up_to_the_end_that_it_wants(scene: Scene, offset: int) -> None:
    for number in range(3, 6):
        scene.put(number)
    end = 4 * MIB + offset
    with scene.stream(3 * MIB, end=WalPosition(Timeline(1), Lsn(end))) as stream:
        found = read(stream, 3 * MIB, end)
        assert found == (content(3) + content(4))[: MIB + offset]
        assert (stream.source.flushed, stream.take()) == (end, [])
    with pytest.raises(ClientError, match="is ahead of the WAL flush position"):
        stream.source.check_reached(Lsn(end + 1))


def test_a_timeline_goes_on_for_whom_it_was_not_left_yet(scene: Scene) -> None:
    """Its last segment is only in the file of the timeline that went on."""
    scene.put(3)
    common = content(4)[: 2 * PAGE]
    scene.put(4, 2, common + content(4, 2)[len(common) :])
    scene.history(2, (1, 4 * MIB + 2 * PAGE))
    for end in (4 * MIB + PAGE, 4 * MIB + 2 * PAGE):
        with scene.stream(3 * MIB, end=WalPosition(Timeline(1), Lsn(end))) as stream:
            source = stream.source
            assert (source.timeline, source.switch, source.next_timeline) == (1, None, None)
            assert read(stream, 3 * MIB, end) == (content(3) + content(4))[: end - 3 * MIB]
            assert not stream.is_over
    end_of_first = WalPosition(Timeline(1), Lsn(4 * MIB))
    with pytest.raises(ClientError, match="timeline 2 is not in this server's history"):
        WalSource(scene.cluster, Timeline(2), end_of_first)
    later = WalPosition(Timeline(2), Lsn(5 * MIB))
    assert WalSource(scene.cluster, Timeline(1), later).switch == 4 * MIB + 2 * PAGE


@pytest.mark.parametrize(
    ("timeline", "start", "message", "detail"),
    [
        (3, 0, "requested timeline 3 is not in this server's history", None),
        (
            1, 5 * MIB + 1,
            "requested starting point 0/500001 on timeline 1 is not in this server's history",
            "This server's history forked from timeline 1 at 0/500000.",
        ),
    ],
)  # fmt: skip
def test_what_is_not_in_the_history_is_refused(
    scene: Scene, timeline: int, start: int, message: str, detail: str | None
) -> None:
    scene.put(4)
    scene.put(5, 2)
    scene.history(2, (1, 5 * MIB))
    with pytest.raises(ClientError) as caught:
        scene.stream(start, timeline)
    assert (caught.value.message, caught.value.detail) == (message, detail)
    with scene.stream(5 * MIB, 1) as stream:
        assert read(stream, 5 * MIB) == b""


def test_a_start_behind_the_end_is_refused(scene: Scene) -> None:
    scene.put(4)
    source = WalSource(scene.cluster)
    source.check_reached(Lsn(5 * MIB))
    with pytest.raises(ClientError, match="0/500001 is ahead of the WAL flush position of this"):
        source.check_reached(Lsn(5 * MIB + 1))


def test_a_stream_that_nobody_takes_from_can_be_ended(scene: Scene) -> None:
    for number in range(3, 7):
        scene.put(number)
    with scene.stream(3 * MIB) as stream:
        select.select([stream.fileno()], [], [], 30)
    assert stream.take() == []
