"""Progress: what has passed, in plain bytes."""

from pgbackup.stream.progress import Progress, SilentMeter
from pgbackup.stream.sink import Sink
from tests.stream.checked_sink import CheckedSink, backup_state, send
from tests.stream.link_contract import ARCHIVES, MANIFEST, LinkContract


class CountingMeter:
    def __init__(self) -> None:
        self.totals: list[int | None] = []
        self.steps: list[int] = []

    def begin(self, total: int | None) -> None:
        self.totals.append(total)

    def advance(self, length: int) -> None:
        self.steps.append(length)


class TestProgress(LinkContract):
    def link(self, successor: Sink) -> Sink:
        return Progress(successor, SilentMeter())


def test_the_meter_hears_of_every_archive_byte_and_of_no_manifest_byte() -> None:
    meter = CountingMeter()
    end = CheckedSink([1000])
    progress = Progress(end, meter)
    send(progress, ARCHIVES, MANIFEST)
    assert meter.totals == [None]
    assert sum(meter.steps) == sum(map(len, ARCHIVES.values()))
    assert max(meter.steps) <= 1000
    assert progress.archive_sizes == {name: len(data) for name, data in ARCHIVES.items()}
    assert end.state is not None
    assert end.state.bytes_done == sum(meter.steps)


def test_the_meter_learns_the_estimate() -> None:
    meter = CountingMeter()
    state = backup_state()
    state.bytes_total = 12345
    Progress(CheckedSink(), meter).begin_backup(state)
    assert meter.totals == [12345]


def test_an_empty_archive_has_the_size_zero() -> None:
    progress = Progress(CheckedSink(), SilentMeter())
    send(progress, {"base.tar": b""})
    assert progress.archive_sizes == {"base.tar": 0}
