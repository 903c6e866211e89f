"""A broker's folder: who may connect, written down in `broker.toml`, and everything that is made from it."""

from orchestrator_free.brokerdir.folder import BrokerFolder
from orchestrator_free.brokerdir.plan import Plan, Tenant, User

__all__ = ("BrokerFolder", "Plan", "Tenant", "User")
