"""Programs whose system calls are counted, fail, or kill them: what goes before a command line."""


def tracing(call: str, log: object) -> list[str]:
    """Writes a line with file names into a log for every system call of a name.

    No other system call is slowed down.
    """
    return [*quiet(log), "-y", "--seccomp-bpf", "-e", f"trace={call}"]


def failing(call: str, error: str, *paths: object) -> list[str]:
    """Lets a system call fail.

    error: with which, and which of the calls if not all: "EIO:when=2+".
    paths: only calls on these files count.
    """
    on = [word for path in paths for word in ("-P", str(path))]
    return [*tracing(call, "/dev/null"), *on, "-e", f"inject={call}:error={error}"]


def killed_at(call: str, number: int) -> list[str]:
    """Kills the program before the so many-th system call of a name."""
    inject = f"inject={call}:signal=KILL:when={number}"  # lost with --seccomp-bpf
    return [*quiet("/dev/null"), "-e", f"trace={call}", "-e", inject]


def quiet(log: object) -> list[str]:
    return ["strace", "-f", "-qq", "-o", str(log)]
