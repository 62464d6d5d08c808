"""Links of the backup chain. Each link knows only `Sink`; none knows a file, a socket or a name."""
