"""The commands of ``redvsblue-telemetry``. Importing this imports none of what they need."""
