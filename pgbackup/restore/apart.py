"""The repository and what is restored from it lie apart: neither may be written over the other."""

import os
from pathlib import Path

from pgbackup.errors import Refused
from pgbackup.restore.plan import RestorePlan


def check_apart(plan: RestorePlan, repository: str | None) -> None:
    """Raises: Refused if a directory lies in the repository, or the repository in one of them.

    A delta restore would remove it as something that does not belong there.

    repository: its local directory; None if it has none.
    """
    if repository is None:
        return
    place = os.path.realpath(repository)
    spaces = [each.directory for each in plan.tablespaces if each.directory]
    for directory in (plan.directory, *spaces):
        if _lies_in(os.path.realpath(directory), place):
            raise Refused(
                f'could not restore into directory "{directory}": it lies in the repository',
                hint="Name a directory elsewhere.",
            )
    # Of a tablespace directory only the part of the server's version is taken over.
    versions = [str(found) for each in spaces for found in Path(each).glob(f"PG_{plan.major}_*")]
    for directory in (plan.directory, *versions) if plan.delta else ():
        if _lies_in(place, os.path.realpath(directory)):
            raise Refused(
                f'could not restore into directory "{directory}": it holds the repository'
                f' "{repository}"',
                hint="Move the repository elsewhere first.",
            )


def _lies_in(path: str, directory: str) -> bool:
    return os.path.commonpath((path, directory)) == directory
