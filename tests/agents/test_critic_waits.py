"""Critic: what it does with the outliner of the same session, and without."""

from __future__ import annotations

import contextlib

import pytest

from orchestrator_free import Agent, RunError

LONG_SENTENCE = (
    "The gateway reads the log from the position that the client sends with its request, "
    "and it writes every event to every client that is connected at that moment, while the broker does nothing at all."
)


@pytest.fixture
def critic(program):
    return program("critic")


@pytest.fixture
def ask(ann, fresh, critic, served):
    """Let the critic judge LONG_SENTENCE beside an outliner with this handler; return its run."""

    async def run(handler=None, *, to="all", agents=()):
        session = ann.session(fresh("s"))
        await session.create(agents=agents)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(served(critic.agent))
            if handler is not None:
                outliner = Agent("outliner")
                outliner(handler)
                await stack.enter_async_context(served(outliner))
            sent = await session.send(LONG_SENTENCE, to=to)
            return await session.result("critic", sent.run, timeout=20)

    return run


def said(run, kind="text"):
    return "".join(part["text"] for part in run["parts"] if part["type"] == kind)


async def test_it_uses_the_outline_of_the_same_input(ask, program):
    run = await ask(program("outliner").outline)

    assert run["status"] == "done"
    assert "Got it: sections 1, key sentences 1." in said(run, "reasoning")
    assert "sections are in balance" in said(run)


async def test_it_uses_the_outline_of_an_input_to_both(ask, program):
    run = await ask(program("outliner").outline, to=["critic", "outliner"])

    assert "Got it: sections 1" in said(run, "reasoning")


async def test_it_goes_on_when_the_outliner_fails(ask):
    async def fail(run):
        raise RunError("no ink")

    run = await ask(fail)

    assert run["status"] == "done"
    assert "The outliner's run ended as error (no ink): I go on without." in said(run, "reasoning")
    assert "not judged: no outline" in said(run)


async def test_it_goes_on_when_the_outliner_has_no_outline(ask):
    async def speak(run):
        await run.text("I know nothing.")

    assert "holds no outline that I can read" in said(await ask(speak), "reasoning")


async def test_it_goes_on_when_nobody_outlines(ask, critic, monkeypatch):
    monkeypatch.setattr(critic, "WAIT_SECONDS", 0.2)

    run = await ask()

    assert "No outline after 0.2 seconds: I go on without." in said(run, "reasoning")
    assert run["status"] == "done"


@pytest.mark.parametrize("asked", [{"to": "critic"}, {"to": ["critic", "other"]}, {"agents": ["critic"]}])
async def test_it_does_not_wait_for_an_outliner_that_was_not_asked(ask, asked):
    run = await ask(**asked)

    assert "The outliner was not asked: I go on without its outline." in said(run, "reasoning")
    assert run["status"] == "done"
