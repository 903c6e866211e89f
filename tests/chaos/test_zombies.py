"""Zombies: a replica is stopped in the middle of its runs, another takes them over, the first one wakes up again."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import Fold

if TYPE_CHECKING:
    from orchestrator_free import Broker

ROUNDS = 50
#: at once, about half of them at the replica that is stopped
SESSIONS = 10
WORDS = 30
HANDLER = f"""
import os
await run.text(f"{{os.getpid()}} ")
for number in range({WORDS}):
    await asyncio.sleep(0.04)
    await run.text(f"{{os.getpid()}}:{{number}} ")
"""


class Watched:
    """A session as somebody sees it who was there all the time, event by event."""

    def __init__(self, session: Any, agent: str) -> None:
        self.session = session
        self.agent = agent
        self.run = ""
        self.fold = Fold(session.id)
        self.mixed = 0
        self.late = 0
        self.ends = 0
        self.owners: list[str] = []
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for event in self.session.follow(compact=False):
            self.fold.apply(event)
            if event.kind != "run":
                continue
            self.ends += event.type == "run.finished"
            if event.type == "text.delta":
                writer = event.body["text"].split(":")[0].split()[0]
                if writer in self.owners[:-1]:
                    self.late += 1
                elif not self.owners or writer != self.owners[-1]:
                    self.owners.append(writer)
            found = self.fold.run(self.agent, event.id)
            if found is not None and len(pids(found.view())) > 1:
                self.mixed += 1

    @property
    def begun(self) -> str:
        """The process that wrote last, while the run is open; empty if there is none."""
        found = self.fold.run(self.agent, self.run)
        return self.owners[-1] if found is not None and found.open and self.owners else ""

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def pids(run: Any) -> set[str]:
    """The processes whose output a run shows."""
    text = "".join(part["text"] for part in run["parts"] if part["type"] == "text")
    return set(re.findall(r"\b\d+(?=[: ])", re.sub(r":\d+", "", text)))


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_zombie_shows_nothing_and_commits_nothing_over_50_rounds(
    ann: Broker, programs: Any, fresh: Any, eventually: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exactly one end per run, by the process that took over; no view ever shows two processes in one answer."""
    name = fresh("agent")
    policy = {"overlap": "queue", "overlap_override": True}
    settings = {"ack_wait_seconds": 1.0, "max_attempts": 20, "stall_seconds": 0, **policy}
    replicas = programs.agent(name, HANDLER, replicas=2, **settings)
    await eventually(lambda: presences(ann, name, 2), 30)
    began, rounds, slowest, all_of_them = time.monotonic(), 0, 0.0, []
    while rounds < ROUNDS:
        watched = await one_set(ann, name, fresh)
        await eventually(lambda: all(one.begun for one in watched), 30)
        zombie = replicas[len(all_of_them) // SESSIONS % 2]
        taken = [one for one in watched if one.begun == str(zombie.pid)]
        os.kill(zombie.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            await eventually(lambda: all(one.ends or len(one.owners) > 1 for one in taken), 30)
        finally:
            os.kill(zombie.pid, signal.SIGCONT)
        slowest = max(slowest, time.monotonic() - stopped)
        await eventually(lambda: all(one.ends for one in watched), 30)
        await eventually(lambda: fenced(zombie, taken), 30)
        rounds += len(taken)
        all_of_them += watched
    took = time.monotonic() - began
    views = await asyncio.gather(*(one.session.view() for one in all_of_them))
    for one in all_of_them:
        await one.close()

    runs = [run for view in views for agent in view["agents"] for run in agent["runs"]]
    again = [run for run in runs if run["attempt"] > 1]
    with capsys.disabled():
        print(
            f"\n  {rounds} runs taken over from a stopped replica, attempts up to "
            f"{max(run['attempt'] for run in runs)}, {len(again)} runs of {len(runs)} begun again; slowest take-over "
            f"{slowest:.1f} s; {took:.0f} s in all"
        )
    assert all(one.ends == 1 for one in all_of_them), "a run was committed twice, or never"
    assert not sum(one.late for one in all_of_them), "a zombie's words are in the log after the take-over"
    assert not sum(one.mixed for one in all_of_them), "a live view showed two processes in one answer"
    assert len(runs) == len(all_of_them)
    for run in runs:
        assert (run["status"], len(pids(run))) == ("done", 1)
        [pid] = pids(run)
        assert run["parts"][0]["text"] == f"{pid} " + "".join(f"{pid}:{number} " for number in range(WORDS))


async def one_set(ann: Broker, name: str, fresh: Any) -> list[Watched]:
    """Begin sessions, each with one input."""
    found = []
    for _ in range(SESSIONS):
        session = ann.session(fresh("s"))
        await session.create(agents=[name])
        found.append(Watched(session, name))
    policies = [("queue", "concurrent")[place % 2] for place in range(SESSIONS)]
    sends = (one.session.send("go", to=name, overlap=policy) for one, policy in zip(found, policies, strict=True))  # type: ignore[arg-type]
    sent = await asyncio.gather(*sends)
    for one, said in zip(found, sent, strict=True):
        one.run = said.run
    return found


async def presences(broker: Broker, name: str, count: int) -> bool:
    return len(list(await broker.log.present(f"agent.{name}"))) >= count


def fenced(zombie: Any, taken: list[Watched]) -> bool:
    """Whether the zombie has noticed of every run that it lost it."""
    said = zombie.output
    return all(f"owns run {one.run}" in said for one in taken)
