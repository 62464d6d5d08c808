"""Is this the data directory of the server that a connection leads to?

A backup joins files that we read with positions that a server tells. Both must be of one server:
also a standby or a copy of the same cluster on the same host will not do. What tells them apart is
the control file, which the server reads for us by SQL. Reads only.
"""

from pgbackup.backup.pgdata.datadir import DataDirectory
from pgbackup.errors import WrongSystem
from pgbackup.pg.control import ClusterState
from pgbackup.replication.onlinebackup import ControlView, read_control_view
from pgbackup.replication.transport import Transport

_ATTEMPTS = 5
_HINT = 'Compare what "SHOW data_directory" and "SHOW port" tell in psql with --pgdata, -h and -p.'


def check_served(data: DataDirectory, transport: Transport) -> None:
    """Compare the control file with the server's view of it.

    Before a backup starts this saves a useless checkpoint; right afterwards it proves more, since
    a primary has then had a checkpoint that no other directory knows.

    Raises: WrongSystem, ServerError, ConnectionFailed, CorruptData, PgbackupError.
    """
    reason = None
    for _ in range(_ATTEMPTS):  # each looks at another moment
        view = read_control_view(transport)
        reason = _difference(data, view, transport.server_major)
        if reason is None:
            return
    raise WrongSystem(f'could not back up data directory "{data.path}": {reason}', hint=_HINT)


def _difference(data: DataDirectory, view: ControlView, major: int) -> str | None:
    if data.major != major:
        return f"it is of PostgreSQL {data.major}, the server is of {major}"
    control = data.read_control().values
    if control.system_identifier != view.system_identifier:
        return (
            f"it is of system {control.system_identifier}, the server of {view.system_identifier}"
        )
    expected = (
        ClusterState.IN_ARCHIVE_RECOVERY if view.is_in_recovery else ClusterState.IN_PRODUCTION
    )
    if control.state is not expected:
        return (
            f'its state is "{_state(control.state)}", the server\'s "{_state(expected)}":'
            " it belongs to another server of the same cluster, or to none"
        )
    if control.checkpoint != view.checkpoint:
        return (
            f"its last checkpoint is at {control.checkpoint}, the server's at {view.checkpoint}:"
            " it belongs to another server of the same cluster"
        )
    return None


def _state(state: ClusterState) -> str:
    return state.name.lower().replace("_", " ")
