"""What a run answered, read out of its parts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator_free.fold import View


def helpers(parts: Sequence[View]) -> set[str]:
    """Return the sub-agents that worked for a tool call, or for one that did: what they say is the call's."""
    told = [part for part in parts if part.get("type") == "data" and part.get("name") == "subagent"]
    about = {str(part.get("id")): part["data"] for part in told if isinstance(part.get("data"), dict)}
    found: set[str] = set()
    for _ in about:  # as deep as there are sub-agents, at most
        more = {id for id, data in about.items() if data.get("call") or str(data.get("parent")) in found}
        if more == found:
            break
        found = more
    return found


def answer_text(parts: Sequence[View]) -> str:
    """Return the text of an answer, of one in progress what there is."""
    beside = helpers(parts)
    texts = [part.get("text") for part in parts if part.get("type") == "text" and part.get("by") not in beside]
    return "".join(text for text in texts if isinstance(text, str))
