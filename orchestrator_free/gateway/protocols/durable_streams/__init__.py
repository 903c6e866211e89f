"""Durable Streams over HTTP, at `/v1/stream/…`; sessions can be read as such streams, too."""
