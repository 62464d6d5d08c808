"""The client side of replication: PostgreSQL to us. Only `libpq` knows psycopg."""
