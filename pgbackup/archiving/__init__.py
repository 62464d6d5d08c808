"""The daily work of the WAL archive: archive_command, restore_command, and the receiver.

PostgreSQL starts a process of the two hooks for every file, so what push.py and get.py import is
counted; tests/archiving/test_imports.py holds the budget.
"""
