"""Streams of any log through the parsers of the real clients: no version refuses what is made for it."""

from __future__ import annotations

import subprocess
from random import Random
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator_free.fold import Fold
from orchestrator_free.projections.answer import answers
from tests.test_fold import folded
from tests.test_projections import batches, gone_on, stories, stream_of

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_free.events import Event

COUNT = 150
#: the client, and the profile that it is given: the default one has to suit every version
PAIRS = [
    ("ai50", 5), ("ai5", 5), ("ai60", 5), ("ai6", 5), ("ai7", 5), ("ai60", 6), ("ai6", 6), ("ai7", 7),
    ("agui1", "agui"), ("agui1", "interrupted"), ("agui1", "agui0"), ("agui0", "agui0"),
]  # fmt: skip


def told(kind: Any, source: tuple[str, str], events: list[Event], chance: Random) -> list[dict[str, Any]]:
    """The messages of one stream, of a client that is told now and then; an answer that is not complete is cut."""
    stream, fold, seen, found = stream_of(kind, source), Fold("s1"), 0, []
    for count in batches(events, chance):
        folded(events[seen:count], fold)
        seen = count
        stream = gone_on(kind, source, stream, fold) or stream
        found += [message for _, message in stream.advance(fold)]
    return found if stream.ended else []


@pytest.fixture(scope="module")
def collected() -> dict[Any, list[list[dict[str, Any]]]]:
    """Streams of each profile, of generated logs."""
    found: dict[Any, list[list[dict[str, Any]]]] = {kind: [] for _, kind in PAIRS}

    @settings(max_examples=COUNT, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(stories(), st.integers(0, 2**32))
    def collect(events: list[Event], seed: int) -> None:
        for kind, streams in found.items():
            for source in answers(folded(events))[:6]:
                if messages := told(kind, source, events, Random(seed)):
                    streams.append(messages)

    collect()
    return found


@pytest.mark.parametrize(("client", "kind"), PAIRS)
def test_no_client_refuses_a_stream_of_its_profile(
    collected: dict[Any, list[list[dict[str, Any]]]], clients: Path, client: str, kind: Any
) -> None:
    """A few hundred streams through its own parser, verifier and reader, which show every text that was told."""
    streams = collected[kind]
    lines = b"\n".join(orjson.dumps({"events": messages}) for messages in streams)
    done = subprocess.run(
        ["node", "parse.mjs", client], cwd=clients, input=lines, capture_output=True, timeout=120, check=True
    )
    answers = [orjson.loads(line) for line in done.stdout.splitlines()]

    assert len(streams) > 100
    assert len(answers) == len(streams)
    refused = [(one["error"], messages) for one, messages in zip(answers, streams, strict=True) if "error" in one]
    assert not refused, (len(refused), refused[0])
    for one, messages in zip(answers, streams, strict=True):
        deltas = [m["delta"] for m in messages if m["type"] in ("text-delta", "TEXT_MESSAGE_CONTENT")]
        assert sorted("".join(one["texts"])) == sorted("".join(deltas))
