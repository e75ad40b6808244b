"""The database: the thread that writes it, and the queries that read it."""
