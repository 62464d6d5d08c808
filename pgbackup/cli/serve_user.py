"""`pgbackup serve-user add|remove|list`: who may connect to `pgbackup serve`, and what for."""

import getpass
import os
import sys
from typing import Annotated, Any

import typer

from pgbackup.cli import options
from pgbackup.cli.output import print_json, print_table
from pgbackup.errors import Conflict, ExitCode, NotFound, UsageError
from pgbackup.serve.entry.users import Right, User, changing_users, check_name, read_known_users
from pgbackup.serve.entry.verifier import make_verifier

HEADINGS = ("USER", "PASSWORD", "CERTIFICATES", "SYSTEM USERS", "CLUSTERS", "RIGHTS")
MAX_PASSWORD = 4096
"""Bytes; a whole file is not meant."""
MAX_DESCRIPTOR = 65535

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The PostgreSQL user that clients ask for.")
]


def add_user(
    name: Name,
    *,
    repo: options.Repo = options.DEFAULT_REPO,
    password_fd: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_DESCRIPTOR,
            metavar="N",
            help="Read the password from this descriptor, up to the line's end.",
        ),
    ] = None,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="It comes by certificate or Unix socket only.")
    ] = False,
    certificate_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A client's certificate with this name needs no password. Repeatable.",
        ),
    ] = None,
    system_user: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="User of the operating system who is this one on a Unix socket; without, the one"
            " of the same name. Repeatable.",
        ),
    ] = None,
    cluster: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Only this system identifier. Repeatable."),
    ] = None,
    right: Annotated[
        list[Right] | None, typer.Option(help="Only this. Repeatable; without, everything.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of a user of that name.")
    ] = False,
    quiet: options.Quiet = False,
) -> int:
    """Add a user. Without --password-fd, its password is asked for on the terminal.

    pg_basebackup needs base-backup; with -X stream it needs wal as well, and slots unless it is
    told --no-slot. pg_receivewal needs wal, and slots to make or drop one.
    """
    if no_password and password_fd is not None:
        raise UsageError("--no-password and --password-fd exclude each other")
    check_name(name)
    systems = [options.parse_system(each) for each in cluster or []]
    storage = options.open_repository(repo).storage
    if name in read_known_users(storage).users and not replace:
        raise _exists(name)
    user = User(
        name,
        None if no_password else make_verifier(_password(password_fd)),
        frozenset(system_user or []),
        frozenset(certificate_name or []),
        frozenset(each for each in systems if each is not None) if cluster else None,
        frozenset(right or Right),
    )
    with changing_users(storage) as users:
        if name in users and not replace:
            raise _exists(name)
        users[name] = user
    if not quiet:
        print(f'user {name} added; a "pgbackup serve" that runs takes that in at SIGHUP')
    return ExitCode.OK


def remove_user(
    name: Name, *, repo: options.Repo = options.DEFAULT_REPO, quiet: options.Quiet = False
) -> int:
    """Remove a user. Connections that it has stay."""
    with changing_users(options.open_repository(repo).storage) as users:
        if users.pop(name, None) is None:
            raise NotFound(
                f'could not remove user "{name}": there is none',
                hint=f"See all users with: pgbackup serve-user list -B {repo}",
            )
    if not quiet:
        print(f'user {name} removed; a "pgbackup serve" that runs takes that in at SIGHUP')
    return ExitCode.OK


def list_users(*, repo: options.Repo = options.DEFAULT_REPO, json: options.Json = False) -> int:
    """List the users and what they may."""
    known = read_known_users(options.open_repository(repo).storage)
    users = [known.users[name] for name in sorted(known.users)]
    if json:
        print_json({"users": [_document(user) for user in users]})
    else:
        print_table(HEADINGS, [_row(user) for user in users])
    return ExitCode.OK


def _exists(name: str) -> Conflict:
    return Conflict(
        f'could not add user "{name}": there is one of that name',
        hint="Give it another password and other rules with --replace.",
    )


def _password(descriptor: int | None) -> str:
    """From a descriptor, or from the terminal, twice. Raises: UsageError."""
    if descriptor is not None:
        password = _read_line(descriptor)
    elif sys.stdin.isatty():
        password = getpass.getpass("Password: ", sys.stderr)
        if getpass.getpass("Again: ", sys.stderr) != password:
            raise UsageError("the passwords differ")
    else:
        raise UsageError(
            "there is no terminal to ask for a password on",
            hint="Give it by a descriptor: --password-fd 0 <FILE",
        )
    if not password or "\0" in password:
        raise UsageError("the password is empty, or has a character that none can have")
    return password


def _read_line(descriptor: int) -> str:
    data = b""
    try:
        while len(data) <= MAX_PASSWORD and b"\n" not in data:
            more = os.read(descriptor, MAX_PASSWORD)
            if not more:
                break
            data += more
    except OSError as error:
        raise UsageError(
            f"could not read the password from descriptor {descriptor}: {error.strerror}"
        ) from error
    line = data.partition(b"\n")[0]
    if len(line) > MAX_PASSWORD:
        raise UsageError(f"the password is longer than {MAX_PASSWORD} bytes")
    return line.removesuffix(b"\r").decode("utf-8", "surrogateescape")


def _row(user: User) -> tuple[str, ...]:
    everyone = [
        user.certificate_names,
        user.system_users or {user.name},
        {"all"} if user.clusters is None else map(str, user.clusters),
        user.rights,
    ]
    has_password = "no" if user.verifier is None else "yes"
    return (user.name, has_password, *(", ".join(sorted(each)) or "-" for each in everyone))


def _document(user: User) -> dict[str, Any]:
    return {
        "name": user.name,
        "has_password": user.verifier is not None,
        "certificate_names": sorted(user.certificate_names),
        "system_users": sorted(user.system_users or {user.name}),
        "clusters": None if user.clusters is None else sorted(map(str, user.clusters)),
        "rights": sorted(user.rights),
    }


serve_user = typer.Typer(help="Look after the users of `serve`: add, remove, list.")
serve_user.command("add")(add_user)
serve_user.command("remove")(remove_user)
serve_user.command("list")(list_users)
