"""No silent agents: what an agent owes while no process of it lives is said in the log, once."""

from orchestrator_free.monitor.service import Monitor, MonitorSettings

__all__ = ("Monitor", "MonitorSettings")
