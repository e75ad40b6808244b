"""``redvsblue-telemetry cluster``: all parts on this machine, a battle, and both sides' counts."""
