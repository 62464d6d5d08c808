"""A base backup of a data directory on this host: our own BASE_BACKUP."""
