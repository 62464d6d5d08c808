"""The command lines of wal-push and wal-get, read without anything that is slow to load.

The same options are declared for --help in cli/wal_push.py and cli/wal_get.py.
"""

import os

DEFAULT_LEVEL = 1
DEFAULT_TIMEOUT = 30.0  # seconds; a standby goes without streaming for as long
MAX_JOBS = 32
MAX_LEVEL = 19
MAX_TIMEOUT = 1_000_000  # seconds


class Options:
    """What a hook was told, on its command line or in the environment.

    repo:     path or URL.
    paths:    the words that are no options.
    level:    of zstd; None stores plain.
    jobs:     files pushed at once.
    partial:  deliver what the receiver has of an unfinished segment.
    prefetch: fetch the following segments in the background.
    spool:    directory for both hooks; None is the default, "" is none.
    timeout:  seconds to go on trying.
    fault:    why the command line cannot be followed; None if it can.
    """

    def __init__(self, verb: str) -> None:
        self.verb = verb
        self.repo = os.environ.get("PGBACKUP_REPO", "")
        self.paths: list[str] = []
        self.level: int | None = DEFAULT_LEVEL
        self.jobs = default_jobs()
        self.partial = False
        self.prefetch = True
        self.spool: str | None = None
        self.timeout = DEFAULT_TIMEOUT
        self.fault: str | None = None

    def check(self) -> None:
        """Raises: UsageError if the command line cannot be followed."""
        if self.fault is not None:
            from pgbackup.errors import UsageError  # noqa: PLC0415 - loads enum

            raise UsageError(
                f"could not run {self.verb}: {self.fault}",
                hint=f"Type: pgbackup {self.verb} --help",
            )


_VALUES = {
    "wal-push": {
        "-B": "repo",
        "--repo": "repo",
        "-Z": "compress",
        "--compress": "compress",
        "-j": "jobs",
        "--jobs": "jobs",
        "--spool": "spool",
    },
    "wal-get": {"-B": "repo", "--repo": "repo", "--spool": "spool", "--timeout": "timeout"},
}
_FLAGS = {
    "wal-push": {},
    "wal-get": {
        "--partial": ("partial", True),
        "--no-partial": ("partial", False),
        "--prefetch": ("prefetch", True),
        "--no-prefetch": ("prefetch", False),
    },
}
_OPERANDS = {"wal-push": ("%p",), "wal-get": ("%f", "%p")}


def default_jobs() -> int:
    """Files pushed at once: while one waits for the disk, another is compressed."""
    return min(len(os.sched_getaffinity(0)) + 1, 8)


def parse_options(verb: str, words: list[str]) -> Options:
    """Read what follows the verb; the first fault found is noted, and nothing raised."""
    options = Options(verb)
    left = list(words)
    while left and options.fault is None:
        word = left.pop(0)
        if word == "--":
            options.paths += left
            break
        if not word.startswith("-") or word == "-":
            options.paths.append(word)
        elif word in _FLAGS[verb]:
            setattr(options, *_FLAGS[verb][word])
        else:
            options.fault = _take_value(word, left, options)
    options.fault = options.fault or missing(options)
    return options


def missing(options: Options) -> str | None:
    """What a command line lacks, if it lacks anything."""
    wanted = _OPERANDS[options.verb]
    if len(options.paths) != len(wanted):
        return f"{' and '.join(wanted)} expected, {len(options.paths)} names given"
    if not options.repo:
        return "no repository is named by -B or PGBACKUP_REPO"
    try:
        os.getcwd()  # noqa: PTH109 - pathlib is slow to load
    except OSError:
        return "the current directory was removed"
    return None


def _take_value(word: str, left: list[str], options: Options) -> str | None:
    """Read an option with a value, in any of the four ways to write one; return its fault."""
    if word.startswith("--"):
        name, given, value = word.partition("=")
    else:
        name, given, value = word[:2], word[2:3], word[2:].removeprefix("=")
    field = _VALUES[options.verb].get(name)
    if field is None:
        return f'there is no option "{name}"'
    if not given:
        if not left:
            return f'option "{name}" needs a value'
        value = left.pop(0)
    if field == "compress":
        return set_level(options, value)
    if field == "jobs":
        return _set_jobs(options, value)
    if field == "timeout":
        return _set_timeout(options, value)
    setattr(options, field, value)
    return None


def set_level(options: Options, text: str) -> str | None:
    """Take `none`, `zstd` or `zstd:LEVEL`; return its fault."""
    algorithm, separator, level = text.partition(":")
    level = level.removeprefix("level=") if separator else str(DEFAULT_LEVEL)
    if text == "none":
        options.level = None
    elif algorithm == "zstd" and _is_number(level) and 1 <= int(level) <= MAX_LEVEL:
        options.level = int(level)
    else:
        return f'compression "{text}" is not none, zstd or zstd:LEVEL'
    return None


def _set_jobs(options: Options, text: str) -> str | None:
    if not _is_number(text) or not 1 <= int(text) <= MAX_JOBS:
        return f'number of jobs "{text}" is not from 1 to {MAX_JOBS}'
    options.jobs = int(text)
    return None


def _set_timeout(options: Options, text: str) -> str | None:
    whole, _, fraction = text.partition(".")
    if not _is_number(whole) or not _is_number(fraction or "0"):
        return f'timeout "{text}" is not a number of seconds'
    if int(whole) > MAX_TIMEOUT:
        return f'timeout "{text}" is above {MAX_TIMEOUT} seconds'
    options.timeout = float(text)
    return None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
