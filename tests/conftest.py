"""Fixtures of all tests."""

pytest_plugins = ["tests.fix_cluster", "tests.fix_receiver"]
