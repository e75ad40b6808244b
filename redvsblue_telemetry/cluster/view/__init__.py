"""A view of the lake: the page and the API, with DuckDB in place of a database."""
