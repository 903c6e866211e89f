"""How people fare, read from the log: sessions one after the other, each folded to a few facts, those added up."""

from orchestrator_free.insights.facts import SessionFacts, facts_of
from orchestrator_free.insights.reading import read_report
from orchestrator_free.insights.report import Report, Settings

__all__ = ("Report", "SessionFacts", "Settings", "facts_of", "read_report")
