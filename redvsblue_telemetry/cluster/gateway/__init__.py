"""The gateway: takes the place of a collector's database by a stream. It has no state."""
