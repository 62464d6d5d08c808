"""Nearly right commands, packets and messages: a value, or the error that is meant for it."""

from contextlib import suppress
from random import Random

from pgbackup.errors import ClientError, ProtocolViolation
from pgbackup.pg.lsn import Lsn
from pgbackup.wire.frontend import FrontendReader, query_text
from pgbackup.wire.grammar import parse_command
from pgbackup.wire.messages import parse_standby_message, standby_status
from pgbackup.wire.startup import parse_startup_packet
from tests.wire.command_table import COMMANDS
from tests.wire.mutations import CASES, SEED, mutations
from tests.wire.startup_packets import REPLICATION, WRONG, startup

PACKETS = [
    startup(*REPLICATION, "options", "-c a=b\\ c --d=e", "application_name", "x"),
    bytes.fromhex("04d2162f"),
    bytes.fromhex("04d2162e 0000054c de2ce09b"),
    *(body for body, _, _ in WRONG),
]
MESSAGES = [b"Q\0\0\0\x0bSHOW x\0", b"X\0\0\0\4", b"d\0\0\0\5x", b"c\0\0\0\4", b"p\0\0\0\4"]


def test_a_command_is_understood_or_refused() -> None:
    random, understood = Random(SEED), 0
    for command in mutations([f"{text} ".encode("latin-1") for text in COMMANDS], random):
        with suppress(ClientError):
            parse_command(command.decode("utf-8", "surrogateescape"), random.randrange(13, 19))
            understood += 1
    assert CASES // 100 < understood < CASES // 2


def test_a_packet_is_understood_or_refused() -> None:
    understood = 0
    for packet in mutations(PACKETS, Random(SEED)):
        with suppress(ClientError, ProtocolViolation):
            parse_startup_packet(packet)
            understood += 1
    assert CASES // 100 < understood < CASES // 2


def test_a_message_is_understood_or_refused() -> None:
    understood = 0
    for sent in mutations(MESSAGES, Random(SEED)):
        reader = FrontendReader()
        reader.feed(sent)
        with suppress(ClientError, ProtocolViolation):
            while (message := reader.message()) is not None:
                understood += 1
                query_text(message.body)
    assert understood > CASES // 10


def test_a_standbys_report_is_understood_or_refused() -> None:
    understood = 0
    reports = [standby_status(Lsn(3), Lsn(2), Lsn(1)), b"h" + bytes(24)]
    for report in mutations(reports, Random(SEED)):
        with suppress(ClientError, ProtocolViolation):
            parse_standby_message(report)
            understood += 1
    assert CASES // 10 < understood < CASES
