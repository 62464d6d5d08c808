"""`pgbackup pin`."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from pgbackup.cli import options
from pgbackup.cli.document import pin_document
from pgbackup.cli.output import print_json, say


def pin(
    label: Annotated[
        str, typer.Argument(metavar="LABEL", help="A label of `pgbackup list`, latest or oldest.")
    ],
    *,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why, for those who come later.")
    ] = None,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Let a backup stay, whatever expire is told to keep.

    Its own WAL stays with it. Pinning it again only changes the reason.
    """
    catalog = options.open_repository(repo).only_cluster(options.parse_system(system)).catalog
    label = catalog.resolve(label)
    is_new = catalog.pin(label, reason, datetime.now(UTC))
    found = catalog.pin_of(label)
    if json:
        document = None if found is None else pin_document(found)
        print_json({"label": label, "pin": document, "is_changed": is_new})
    elif not quiet:
        say(f"backup {label} {'is pinned' if is_new else 'was pinned before'}")
