"""The HTTP side of the collector: the page, the API, the live stream, the metrics."""
