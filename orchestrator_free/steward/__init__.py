"""What members that are not trusted must not do themselves, done for them: timers, objects, consumers, compaction.

They ask on subjects that carry their names, so the broker has checked who asks; a steward runs beside every monitor,
and of all of them one answers. It keeps nothing: whatever it is asked is done, or refused, before it answers.
"""

from orchestrator_free.steward.service import Steward

__all__ = ("Steward",)
