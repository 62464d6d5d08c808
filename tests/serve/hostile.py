"""Clients that mean no good, or are broken: one connection each, most of them left open."""

import contextlib
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random

from pgbackup.serve.entry.listener import user_name
from pgbackup.wire.startup import MAX_STARTUP_PACKET
from tests.serve.entry.test_session import GSSENC_REQUEST, SSL_REQUEST, hello, packet

SECONDS = 60.0
FIRST = b"n,,n=,r=rOprNGfwEbeRWgbNEkqO"
LEFT_OPEN = 300
"""Connections at a time; more than a server asks who they are."""


class Hostile:
    """Comes to a server again and again.

    unix: its Unix socket, where we are let in.
    port: on 127.0.0.1, where we are not.
    """

    def __init__(self, unix: Path, port: int, random: Random) -> None:
        self._unix = unix
        self._port = port
        self._random = random
        self._open: deque[socket.socket] = deque()
        self._ways: list[Callable[[], None]] = [
            self.say_nothing, self.reset, self.begin_and_stop, self.lie_about_length,
            self.talk_nonsense, self.speak_http, self.ask_for_encryption_again,
            self.speak_before_tls, self.begin_no_tls, self.begin_tls_and_stop,
            self.speak_nonsense_over_tls, self.stop_at_password, self.give_wrong_password,
            self.flood_password, self.cancel_somebody, self.trickle, self.talk_nonsense_inside,
            self.lie_about_length_inside, self.leave_a_command_half, self.break_a_stream,
            self.flood_inside, self.take_no_backup,
        ]  # fmt: skip

    def come(self, number: int) -> None:
        """Make the connection of a number, in one of the ways by turns."""
        with contextlib.suppress(OSError):  # it is the server's right to end it
            self._ways[number % len(self._ways)]()
        while len(self._open) > LEFT_OPEN:
            self._open.popleft().close()

    def leave(self) -> None:
        """Close what is open."""
        while self._open:
            self._open.popleft().close()

    def _connect(self) -> socket.socket:
        return self._keep(socket.create_connection(("127.0.0.1", self._port), SECONDS))

    def _keep(self, stream: socket.socket) -> socket.socket:
        stream.settimeout(SECONDS)
        self._open.append(stream)
        return stream

    def _enter(self) -> socket.socket:
        """Come in as ourselves, up to ReadyForQuery."""
        stream = self._keep(socket.socket(socket.AF_UNIX))
        stream.connect(str(self._unix))
        stream.sendall(hello(user_name()))
        told = b""
        while not told.endswith(b"Z\0\0\0\5I"):
            data = stream.recv(4096)
            if not data:
                raise ConnectionResetError
            told += data
        return stream

    def say_nothing(self) -> None:
        self._connect()

    def reset(self) -> None:
        stream = self._connect()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.sendall(hello("standby"))
        stream.close()

    def begin_and_stop(self) -> None:
        data = hello("standby")
        self._connect().sendall(data[: self._random.randrange(1, len(data))])

    def lie_about_length(self) -> None:
        length = self._random.choice((0, 3, MAX_STARTUP_PACKET + 5, 1 << 30, (1 << 32) - 1))
        self._connect().sendall(length.to_bytes(4) + bytes(MAX_STARTUP_PACKET))

    def talk_nonsense(self) -> None:
        self._connect().sendall(self._random.randbytes(self._random.randrange(1, 20_000)))

    def speak_http(self) -> None:
        self._connect().sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def ask_for_encryption_again(self) -> None:
        self._connect().sendall(GSSENC_REQUEST * 500)

    def speak_before_tls(self) -> None:
        self._connect().sendall(SSL_REQUEST + hello("standby"))

    def begin_no_tls(self) -> None:
        stream = self._connect()
        stream.sendall(SSL_REQUEST)
        stream.recv(1)
        stream.sendall(self._random.randbytes(2000))

    def begin_tls_and_stop(self) -> None:
        self._connect().sendall(b"\x16\x03\x01\x02\x00\x01")

    def speak_nonsense_over_tls(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        stream = self._connect()
        stream.sendall(SSL_REQUEST)
        stream.recv(1)
        self._open.remove(stream)
        self._keep(context.wrap_socket(stream)).sendall(self._random.randbytes(5000))

    def stop_at_password(self) -> None:
        self._connect().sendall(hello("standby"))

    def give_wrong_password(self) -> None:
        stream = self._connect()
        body = b"SCRAM-SHA-256\0" + len(FIRST).to_bytes(4) + FIRST
        stream.sendall(hello("standby") + b"p" + packet(body))
        stream.sendall(b"p" + packet(b"c=biws,r=rOpr,p=" + b"A" * 43 + b"="))

    def flood_password(self) -> None:
        self._connect().sendall(hello("nobody") + b"p\0\0\x10\4" + bytes(100_000))

    def cancel_somebody(self) -> None:
        self._connect().sendall(packet(b"\x04\xd2\x16\x2e" + self._random.randbytes(8)))

    def trickle(self) -> None:
        """A byte more on all that are open; most of them are not waited for any more."""
        for stream in list(self._open):
            if not isinstance(stream, ssl.SSLSocket):
                with contextlib.suppress(OSError):
                    stream.send(b"\0", socket.MSG_DONTWAIT)

    def talk_nonsense_inside(self) -> None:
        self._enter().sendall(self._random.randbytes(3000))

    def lie_about_length_inside(self) -> None:
        kind = self._random.choice(b"QdpXPBEfcS")
        self._enter().sendall(bytes([kind]) + b"\x7f\xff\xff\xff" + bytes(1000))

    def leave_a_command_half(self) -> None:
        stream = self._enter()
        stream.sendall(b"Q\0\x0f\xff\xffIDENTIFY")
        stream.close()

    def break_a_stream(self) -> None:
        stream = self._enter()
        stream.sendall(b"Q" + packet(b"START_REPLICATION 0/200000\0"))
        stream.recv(4096)
        stream.sendall(b"d" + packet(self._random.randbytes(99)))

    def flood_inside(self) -> None:
        """Many commands at once, whose answers nobody takes."""
        stream = self._enter()
        stream.setblocking(False)
        stream.send((b"Q" + packet(b"IDENTIFY_SYSTEM\0")) * 2000)
        stream.close()

    def take_no_backup(self) -> None:
        stream = self._enter()
        stream.sendall(b"Q" + packet(b"BASE_BACKUP ( LABEL 'x' )\0"))
        stream.recv(1)
        self._open.remove(stream)
        stream.close()
