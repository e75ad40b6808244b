"""Bytes: connections, frames and proxies. Nothing here knows about events."""
