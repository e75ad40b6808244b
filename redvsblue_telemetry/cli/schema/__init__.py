"""``redvsblue-telemetry schema``: writes the schema of a game's event classes, or checks it."""
