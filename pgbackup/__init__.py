"""pgbackup: base backups and WAL archiving for PostgreSQL, in standard formats."""

__version__ = "0.1.0"
