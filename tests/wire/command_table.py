"""Replication commands, good and bad: lines of a file, with Python's escapes."""

from pathlib import Path

COMMANDS = [
    line.encode().decode("unicode_escape")
    for line in Path(__file__).with_name("commands.txt").read_text().splitlines()
]
