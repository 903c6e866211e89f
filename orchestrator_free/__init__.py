"""Durable sessions for multi-agent AI products."""
