"""``redvsblue-telemetry demo``: a battle, a collector, and a comparison of their counts."""
