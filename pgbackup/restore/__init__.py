"""From a stored backup to a data directory that a server starts from."""
