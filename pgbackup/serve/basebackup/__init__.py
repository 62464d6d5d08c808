"""What a BASE_BACKUP is answered with out of a repository, and the end of the chain that sends."""
