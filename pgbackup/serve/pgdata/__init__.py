"""Serving a data directory instead of a repository: its server, its WAL, a new base backup."""
