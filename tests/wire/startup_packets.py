"""Packets that begin a connection, for the tests of ours and of real servers."""

VERSION_3_0 = b"\0\3\0\0"


def startup(*words: str, version: bytes = VERSION_3_0) -> bytes:
    """A start-up packet without its length, of names and values in turn."""
    return version + b"".join(word.encode() + b"\0" for word in words) + b"\0"


REPLICATION = ("user", "postgres", "replication", "true")
NO_USER = ("28000", "no PostgreSQL user name specified in startup packet")
NO_END = ("08P01", "invalid startup packet layout: expected terminator as last byte")

WRONG = [
    (startup(), *NO_USER),
    (startup("user", ""), *NO_USER),
    (
        startup("user", "u", "replication", "x"),
        "22023",
        'invalid value for parameter "replication": "x"',
    ),
    (
        startup(*REPLICATION, "options", "-x"),
        "42601",
        "invalid command-line argument for server process: -x",
    ),
    (
        startup(*REPLICATION, "options", "-c x.a=b c"),
        "42601",
        "invalid command-line argument for server process: c",
    ),
    (startup(*REPLICATION, "options", "-c a"), "42601", "-c a requires a value"),
    (startup(*REPLICATION, "options", "--a"), "42601", "--a requires a value"),
    (VERSION_3_0, *NO_END),
    (VERSION_3_0 + b"user", *NO_END),
    (VERSION_3_0 + b"user\0", *NO_END),
    (VERSION_3_0 + b"user\0u", *NO_END),
    (VERSION_3_0 + b"user\0u\0", *NO_END),
    (VERSION_3_0 + b"\0\0", *NO_END),
    (VERSION_3_0 + b"user\0u\0\0\0", *NO_END),
    (VERSION_3_0 + b"\0u\0\0", *NO_END),
    (VERSION_3_0 + b"user\0u\0\0x", *NO_END),
]
"""What is wrong in a packet, and what every server says of it: SQLSTATE and message."""
