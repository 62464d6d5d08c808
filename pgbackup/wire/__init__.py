"""The replication protocol as data: commands to text, messages to values. No sockets."""
