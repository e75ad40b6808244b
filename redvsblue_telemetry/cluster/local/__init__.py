"""All parts of a cluster on this machine, as child processes: to try it, and to test it."""
