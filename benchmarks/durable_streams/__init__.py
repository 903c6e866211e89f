"""Durable Streams at the gateway beside the reference server of the protocol, in one run."""
