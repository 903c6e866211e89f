"""The command line: `orchestrator-free up | demo | launch | send | tail | sessions | show | delete | …`."""

from orchestrator_free.cli.app import main

__all__ = ["main"]
