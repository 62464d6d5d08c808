"""Fixtures of all tests."""

pytest_plugins = ["tests.fix_cluster"]
