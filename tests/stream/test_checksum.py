"""Checksum: size and CRC-32C of what passed, under the names that the successor sees."""

from pgbackup.stream.checksum import Checksum, ObjectChecksum
from pgbackup.stream.sink import Sink
from tests.stream.checked_sink import CheckedSink, send
from tests.stream.link_contract import ARCHIVES, MANIFEST, LinkContract


class TestChecksum(LinkContract):
    def link(self, successor: Sink) -> Sink:
        return Checksum(successor)


def test_the_algorithm_is_crc_32c() -> None:
    """The check value of the algorithm's catalogue entry."""
    checksum = Checksum(CheckedSink([4]))
    send(checksum, {"base.tar": b"123456789"})
    assert checksum.archives == {"base.tar": ObjectChecksum(9, 0xE3069283)}


def test_each_object_is_measured_alone() -> None:
    checksum = Checksum(CheckedSink([7, 1000]))
    send(checksum, ARCHIVES, MANIFEST)
    for name, content in ARCHIVES.items():
        assert checksum.archives[name] == measured(content)
    assert list(checksum.archives) == list(ARCHIVES)
    assert checksum.manifest == measured(MANIFEST)


def measured(content: bytes) -> ObjectChecksum:
    """Bit by bit, from the polynomial."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return ObjectChecksum(len(content), crc ^ 0xFFFFFFFF)


def test_empty_objects_are_measured_and_absent_ones_are_not() -> None:
    checksum = Checksum(CheckedSink())
    send(checksum, {"base.tar": b""})
    assert checksum.archives == {"base.tar": ObjectChecksum(0, 0)}
    assert checksum.manifest is None
