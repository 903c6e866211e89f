"""What a run answered, read out of its parts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator_free.fold import View


def helpers(parts: Sequence[View]) -> set[str]:
    """Return the sub-agents of a run that worked for a tool call: what they say is the call's, not the answer's."""
    told = [part for part in parts if part.get("type") == "data" and part.get("name") == "subagent"]
    return {str(part.get("id")) for part in told if isinstance(part.get("data"), dict) and part["data"].get("call")}


def answer_text(parts: Sequence[View]) -> str:
    """Return the text of an answer, of one in progress what there is."""
    beside = helpers(parts)
    texts = [part.get("text") for part in parts if part.get("type") == "text" and part.get("by") not in beside]
    return "".join(text for text in texts if isinstance(text, str))
