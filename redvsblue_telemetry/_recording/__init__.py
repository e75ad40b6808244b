"""Code on the game's thread, from ``emit`` to the store. It takes no lock and does no I/O."""
