"""Bytes: connections, frames and proxies. It knows nothing of events."""
