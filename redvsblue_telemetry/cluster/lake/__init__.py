"""The lake: events, reports and rejected messages as Parquet files in one Delta table."""
