"""`pgbackup unpin`."""

from typing import Annotated

import typer

from pgbackup.cli import options
from pgbackup.cli.output import print_json, say


def unpin(
    label: Annotated[
        str, typer.Argument(metavar="LABEL", help="A label of `pgbackup list`, latest or oldest.")
    ],
    *,
    repo: options.Repo = options.DEFAULT_REPO,
    system: options.System = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Take a pin back: from now on expire decides again."""
    catalog = options.open_repository(repo).only_cluster(options.parse_system(system)).catalog
    label = catalog.resolve(label)
    was_pinned = catalog.unpin(label)
    if json:
        print_json({"label": label, "pin": None, "is_changed": was_pinned})
    elif not quiet:
        say(f"backup {label} {'is not pinned any more' if was_pinned else 'was not pinned'}")
