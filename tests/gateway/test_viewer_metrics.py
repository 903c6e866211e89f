"""What viewers get, as the gateway counts it: the first output of a run and its end, only where somebody looked."""

from __future__ import annotations

from typing import Any


async def ask(pen: Any, id: str, agent: str = "bot") -> None:
    await pen.write("ann", "in", {"type": "input", "text": "hello"}, target=agent, id=id)


async def begin(pen: Any, source: str, run: str) -> None:
    await pen.write("bot", "run", {"type": "run.started", "attempt": 1, "input": f"ann/{source}"}, id=run)


async def test_the_first_output_and_the_end_count_once_for_those_who_look(
    gateway: Any, pen: Any, eventually: Any
) -> None:
    """Two clients of a session are one answer shown; its first output is timed from the input, its tokens are not."""
    await pen.create("bot")
    async with gateway.feed(pen.session) as one, gateway.feed(pen.session) as other:
        await eventually(lambda: one.events and other.events)
        await ask(pen, "i1")
        await begin(pen, "i1", "r1")
        for word in ("a", "b", "c"):
            await pen.say("bot", word)
        await pen.finish("bot")
        await eventually(lambda: len(other.events) == 7 and len(one.events) == 7)
    assert gateway.count("time_to_first_token_seconds_count", agent="bot") == 1
    assert 0 < gateway.count("time_to_first_token_seconds_sum", agent="bot") < 20
    assert gateway.count("answers_shown_total", agent="bot") == 1
    assert gateway.count("sessions") == 1


async def test_what_nobody_looks_at_counts_as_shown_to_nobody(gateway: Any, pen: Any, eventually: Any) -> None:
    """Neither what is read later, nor what comes while the session is kept warm without clients."""
    await pen.create("bot")
    await ask(pen, "i1")
    await begin(pen, "i1", "r1")
    await pen.say("bot", "a")
    await pen.finish("bot")
    async with gateway.feed(pen.session) as feed:
        await eventually(lambda: len(feed.events) == 5)
    await eventually(lambda: gateway.count("clients") == 0)
    await ask(pen, "i2")
    await begin(pen, "i2", "r2")
    await pen.say("bot", "a", "r2")
    await pen.finish("bot", "r2")
    channel = gateway.hub.hot(pen.session)
    await eventually(lambda: channel.fold.run("bot", "r2") and channel.fold.run("bot", "r2").finished)

    assert gateway.count("time_to_first_token_seconds_count", agent="bot") == 0
    assert gateway.count("answers_shown_total", agent="bot") == 0
