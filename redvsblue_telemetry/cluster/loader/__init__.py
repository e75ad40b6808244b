"""A loader: moves partitions of the stream into the lake, each event once."""
