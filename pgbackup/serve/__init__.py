"""The repository as a PostgreSQL walsender: what stock clients and standbys connect to."""
