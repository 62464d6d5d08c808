"""Which moments can be reached: what is noted of the commits in WAL, and windows made of that."""
