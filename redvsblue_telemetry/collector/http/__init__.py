"""What the collector answers over HTTP: the page, the API, the live stream, the metrics."""
