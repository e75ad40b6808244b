"""``redvsblue-telemetry report``: one HTML page about the stored events."""
