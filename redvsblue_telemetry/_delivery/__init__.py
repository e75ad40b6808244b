"""Code on the worker's thread: from the store to a confirmed batch."""
