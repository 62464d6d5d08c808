"""What the objects of a storage mean: a repository of base backups and WAL.

Whatever lies in a repository can be read without pgbackup. Nothing here talks to a server.
"""
