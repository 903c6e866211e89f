"""The embedded `nats-server`: which program it is, and its process."""
