"""WAL that servers are asked for: the life of receive-wal, and filling what the archive lacks."""
