"""``redvsblue-telemetry check``: finds out why events do not arrive."""
