"""``redvsblue-telemetry prove``: whether a session's report and its stored events agree."""
