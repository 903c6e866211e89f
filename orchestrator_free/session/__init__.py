"""A session as the library shows it: what can be said in it, and what can be asked of it."""

from orchestrator_free.session.session import Sent, Session

__all__ = ("Sent", "Session")
