"""The judge of the chain tests has to be able to say no."""

from collections.abc import Callable

import pytest

from pgbackup.errors import StorageError
from tests.stream.checked_sink import STOP, CheckedSink, backup_state, send

Call = Callable[[CheckedSink], object]

BEGIN: Call = lambda sink: sink.begin_backup(backup_state())  # noqa: E731
ARCHIVE: Call = lambda sink: sink.begin_archive("base.tar")  # noqa: E731
CONTENTS: Call = lambda sink: sink.archive_contents(1)  # noqa: E731
END_ARCHIVE: Call = lambda sink: sink.end_archive()  # noqa: E731
MANIFEST: Call = lambda sink: sink.begin_manifest()  # noqa: E731
MANIFEST_CONTENTS: Call = lambda sink: sink.manifest_contents(1)  # noqa: E731
END_MANIFEST: Call = lambda sink: sink.end_manifest()  # noqa: E731
END: Call = lambda sink: sink.end_backup(STOP)  # noqa: E731
CLEANUP: Call = lambda sink: sink.cleanup()  # noqa: E731


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([ARCHIVE], id="archive-before-backup"),
        pytest.param([BEGIN, BEGIN], id="two-backups"),
        pytest.param([BEGIN, CONTENTS], id="contents-of-nothing"),
        pytest.param([BEGIN, ARCHIVE, ARCHIVE], id="archive-within-archive"),
        pytest.param([BEGIN, ARCHIVE, MANIFEST], id="manifest-within-archive"),
        pytest.param([BEGIN, ARCHIVE, MANIFEST_CONTENTS], id="manifest-contents-in-archive"),
        pytest.param([BEGIN, ARCHIVE, END], id="end-within-archive"),
        pytest.param([BEGIN, ARCHIVE, END_ARCHIVE, ARCHIVE], id="same-archive-twice"),
        pytest.param([BEGIN, MANIFEST, END_MANIFEST, ARCHIVE], id="archive-after-manifest"),
        pytest.param([BEGIN, MANIFEST, END_MANIFEST, MANIFEST], id="two-manifests"),
        pytest.param([BEGIN, END, ARCHIVE], id="archive-after-end"),
        pytest.param([BEGIN, CLEANUP, END], id="end-after-cleanup"),
        pytest.param([CLEANUP, CLEANUP], id="cleanup-twice"),
        pytest.param([BEGIN, ARCHIVE, lambda s: s.archive_contents(0)], id="no-bytes"),
        pytest.param([BEGIN, ARCHIVE, lambda s: s.archive_contents(8193)], id="too-many-bytes"),
    ],
)
def test_a_call_out_of_order_is_refused(calls: list[Call]) -> None:
    sink = CheckedSink()
    for call in calls[:-1]:
        call(sink)
    with pytest.raises(AssertionError):
        calls[-1](sink)


def test_a_buffer_that_was_handed_in_cannot_be_used_again() -> None:
    sink = CheckedSink()
    BEGIN(sink)
    ARCHIVE(sink)
    stale = sink.buffer
    sink.archive_contents(1)
    with pytest.raises(ValueError, match="released"):
        stale[0] = 1


def test_it_fails_at_the_call_that_was_asked_for() -> None:
    sink = CheckedSink(fail_at=3)
    with pytest.raises(StorageError):
        send(sink, {"base.tar": b"x"})
    assert sink.calls[-1] == "end_archive"
    assert sink.is_clean
