"""Sources of base backups, and the check of what they left behind."""
