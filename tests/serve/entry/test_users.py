"""Users, and the document that keeps them."""

import json

import pytest

from pgbackup.errors import CorruptData, Locked
from pgbackup.serve.entry.users import KnownUsers, Right, User, changing_users, read_known_users
from pgbackup.serve.entry.verifier import make_verifier
from pgbackup.storage.memory import MemoryStorage

PASSWORD = "very secret"
USERS = [
    User("anybody"),
    User(
        "standby",
        make_verifier(PASSWORD),
        frozenset({"postgres"}),
        frozenset({"standby.example.com"}),
        frozenset({7711032448206929256}),
        frozenset({Right.WAL}),
    ),
]
KNOWN = KnownUsers({user.name: user for user in USERS}, b"only for this test")


def test_users_come_back_from_their_document() -> None:
    data = KNOWN.encode()
    assert KnownUsers.parse(data, "users") == KNOWN
    assert PASSWORD.encode() not in data


def test_a_repository_keeps_its_users_and_one_secret() -> None:
    storage = MemoryStorage()
    assert read_known_users(storage).users == {}
    with changing_users(storage) as users:
        users["anybody"] = USERS[0]
    secret = read_known_users(storage).secret
    with changing_users(storage) as users:
        users["standby"] = USERS[1]
        with pytest.raises(Locked), changing_users(storage):
            raise AssertionError("two change the users at once")
    assert read_known_users(storage) == KnownUsers(KNOWN.users, secret)


def test_what_fails_changes_no_users() -> None:
    storage = MemoryStorage()
    with pytest.raises(ZeroDivisionError), changing_users(storage) as users:
        users["anybody"] = USERS[1 // 0]
    assert read_known_users(storage).users == {}


@pytest.mark.parametrize(
    "change",
    [
        {"name": 1},
        {"verifier": "secret"},
        {"rights": ["everything"]},
        {"clusters": ["x"]},
        {"clusters": [1]},
        {"clusters": ["7711032448206929256", "0"]},
        {"clusters": ["9" * 5000]},
        {"name": "\ud800"},
        {"system_users": "postgres"},
        {"certificate_names": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_field_that_is_wrong_is_refused(change: dict[str, object]) -> None:
    document = json.loads(KNOWN.encode())
    document["users"][1].update(change)
    with pytest.raises(CorruptData, match="could not read"):
        KnownUsers.parse(json.dumps(document).encode(), "users")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"users": {}}', b'{"users": [1]}', b"\xff"])
def test_what_is_no_document_of_users_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptData):
        KnownUsers.parse(data, "users")


@pytest.mark.parametrize("secret", [None, "", "xy", "00" * 15])
def test_the_secret_has_to_be_one(secret: str | None) -> None:
    document = json.loads(KNOWN.encode()) | {"secret": secret}
    with pytest.raises(CorruptData):
        KnownUsers.parse(json.dumps(document).encode(), "users")


def test_a_user_may_what_its_rules_say() -> None:
    anybody, standby = USERS
    assert anybody.may(Right.BASE_BACKUP, 1)
    assert standby.may(Right.WAL, 7711032448206929256)
    assert not standby.may(Right.WAL, 1)
    assert not standby.may(Right.BASE_BACKUP, 7711032448206929256)
