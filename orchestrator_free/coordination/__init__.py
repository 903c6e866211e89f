"""Coordination without a coordinator: claims, leases, barriers, votes, calls for bids, shared work.

Each is a few events in the session's log; of many contenders in any number of processes the broker lets exactly one
succeed, and times are held by the broker's clock, not by a process. See docs/coordination.md.

    async with lease(run.session, "deploy", seconds=10) as held:
        await held.append("state", {"type": "state.set", "value": "running"}, id="deploy")
"""

from __future__ import annotations

from orchestrator_free.coordination.ballots import barrier, bids, vote
from orchestrator_free.coordination.holding import Claim, Lease, claim, holder, lease
from orchestrator_free.coordination.sharing import Task, share

__all__ = ["Claim", "Lease", "Task", "barrier", "bids", "claim", "holder", "lease", "share", "vote"]
