"""The file of users."""

import json

import pytest

from pgbackup.errors import CorruptData
from pgbackup.serve.users import Right, User, read_users, write_users
from pgbackup.serve.verifier import make_verifier

USERS = [
    User("anybody"),
    User(
        "standby",
        make_verifier("secret"),
        frozenset({"postgres"}),
        frozenset({"standby.example.com"}),
        frozenset({7711032448206929256}),
        frozenset({Right.WAL}),
    ),
]


def test_users_come_back_from_their_file() -> None:
    data = write_users(USERS)
    assert read_users(data, "users") == {user.name: user for user in USERS}
    assert b"secret" not in data


@pytest.mark.parametrize(
    "change",
    [
        {"name": 1},
        {"verifier": "secret"},
        {"rights": ["everything"]},
        {"clusters": ["x"]},
        {"clusters": [1]},
        {"system_users": "postgres"},
        {"certificate_names": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_field_that_is_wrong_is_refused(change: dict[str, object]) -> None:
    document = json.loads(write_users(USERS))
    document["users"][1].update(change)
    with pytest.raises(CorruptData, match="could not read"):
        read_users(json.dumps(document).encode(), "users")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"users": {}}', b'{"users": [1]}', b"\xff"])
def test_what_is_no_file_of_users_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptData):
        read_users(data, "users")


def test_a_user_may_what_its_rules_say() -> None:
    anybody, standby = USERS
    assert anybody.may(Right.BASE_BACKUP, 1)
    assert standby.may(Right.WAL, 7711032448206929256)
    assert not standby.may(Right.WAL, 1)
    assert not standby.may(Right.BASE_BACKUP, 7711032448206929256)
