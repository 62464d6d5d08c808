"""The manifest as the last member of the only archive."""

import io
import tarfile

import pytest

from pgbackup.errors import CorruptData, Refused, StorageError
from pgbackup.stream.manifestmember import ManifestMember
from tests.stream.checked_sink import CheckedSink, send
from tests.stream.link_contract import MANIFEST
from tests.stream.tars import MEMBERS, archive, file


def members(content: bytes) -> list[tuple[str, bytes]]:
    """What Python's tarfile finds; it reads on behind damage only if there is none."""
    assert content.endswith(bytes(1024))
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        found = [(each.name, tar.extractfile(each)) for each in tar]
        assert tar.offset == len(content) - 1024
        return [(name, data.read()) for name, data in found if data is not None]


@pytest.mark.parametrize("blocks", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    "manifest", [b"", b"{}\n", MANIFEST, bytes(512)], ids=["empty", "short", "long", "block"]
)
def test_the_manifest_comes_last_and_the_archive_is_whole(manifest: bytes, blocks: int) -> None:
    """Buffers hold whole blocks, as those of every end do."""
    end = CheckedSink([512 * blocks])
    send(ManifestMember(end), {"base.tar": archive()}, manifest)
    assert members(end.archives["base.tar"]) == [*MEMBERS, ("backup_manifest", manifest)]
    assert end.manifest is None
    assert end.is_complete


def test_deferred_contents_pass() -> None:
    end = CheckedSink([512 * 7])
    send(ManifestMember(end), {"base.tar": archive()}, b"{}", is_deferred=True)
    assert members(end.archives["base.tar"]) == [*MEMBERS, ("backup_manifest", b"{}")]


@pytest.mark.parametrize("blocks", [1, 7])
def test_an_archive_without_manifest_passes_as_it_is(blocks: int) -> None:
    end = CheckedSink([512 * blocks])
    send(ManifestMember(end), {"base.tar": archive()})
    assert end.archives == {"base.tar": archive()}


@pytest.mark.parametrize("zero_blocks", [1, 2, 20])
def test_the_end_marker_is_always_of_two_blocks(zero_blocks: int) -> None:
    end = CheckedSink([1024])
    send(ManifestMember(end), {"base.tar": file("a", b"1") + bytes(512 * zero_blocks)}, b"{}")
    whole = end.archives["base.tar"]
    assert members(whole) == [("a", b"1"), ("backup_manifest", b"{}")]
    assert len(whole) == 1024 + 1024 + 1024


def test_several_archives_are_refused_before_the_first_byte() -> None:
    end = CheckedSink()
    with pytest.raises(Refused, match="2 archives to standard output"):
        send(ManifestMember(end), {"16384.tar": archive(), "base.tar": archive()})
    assert end.calls == []
    assert end.is_clean


def test_a_manifest_inside_the_archive_is_refused() -> None:
    end = CheckedSink()
    content = archive((("backup_manifest", b"forged"),))
    with pytest.raises(CorruptData, match="manifest inside its archive"):
        send(ManifestMember(end), {"base.tar": content}, b"{}")
    assert end.archives == {}


def test_an_archive_that_ends_too_early_is_refused() -> None:
    end = CheckedSink()
    with pytest.raises(CorruptData, match="ends inside a member"):
        send(ManifestMember(end), {"base.tar": file("a", bytes(600))[:1024]}, b"{}")
    assert end.archives == {}


def test_every_failure_of_the_successor_comes_back_and_is_cleaned_up() -> None:
    whole = CheckedSink([4096])
    send(ManifestMember(whole), {"base.tar": archive()}, MANIFEST)
    for number in range(len(whole.calls)):
        end = CheckedSink([4096], fail_at=number)
        with pytest.raises(StorageError):
            send(ManifestMember(end), {"base.tar": archive()}, MANIFEST)
        assert end.is_clean
