"""The forwarding link, and `feed`."""

import pytest

from pgbackup.stream.sink import End, Sink, Tablespace, feed
from tests.stream.checked_sink import CheckedSink, backup_state
from tests.stream.link_contract import LinkContract


class TestSink(LinkContract):
    def link(self, successor: Sink) -> Sink:
        return Sink(successor)


class TestManySinks(LinkContract):
    def link(self, successor: Sink) -> Sink:
        return Sink(Sink(Sink(successor)))


def test_a_link_lends_the_buffer_of_its_successor() -> None:
    end = CheckedSink()
    assert Sink(Sink(end)).buffer is end.buffer


def test_an_end_that_lends_no_buffer_is_not_finished() -> None:
    with pytest.raises(NotImplementedError):
        _ = End().buffer


@pytest.mark.parametrize("sizes", [[1], [7], [512], [1, 2, 3], [99999]])
def test_feed_fills_buffers_of_any_size(sizes: list[int]) -> None:
    end = CheckedSink(sizes)
    end.begin_backup(backup_state())
    end.begin_archive("base.tar")
    feed(end, memoryview(bytes(range(256)) * 5))
    end.end_archive()
    assert end.archives["base.tar"] == bytes(range(256)) * 5


def test_feed_of_nothing_calls_nothing() -> None:
    end = CheckedSink()
    feed(end, memoryview(b""))
    assert end.calls == []


@pytest.mark.parametrize(("oid", "name"), [(None, "base.tar"), (16384, "16384.tar")])
def test_archives_are_named_by_tablespace(oid: int | None, name: str) -> None:
    assert Tablespace(oid, "", None).archive_name == name
