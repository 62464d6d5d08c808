"""The WAL that a client is sent: where it lies, how far it may be sent, and news of more."""
