"""A process of contenders for the tests of coordination: each is a member with a connection of its own.

`contenders.py WHAT SESSION FIRST COUNT ROUNDS` prints a line of JSON per thing that happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from orchestrator_free import connect
from orchestrator_free.coordination import barrier, bids, claim, lease, share, vote
from orchestrator_free.errors import LeaseLost

if TYPE_CHECKING:
    from orchestrator_free import Session


def say(**what: Any) -> None:
    print(json.dumps(what | {"at": time.monotonic(), "pid": os.getpid()}), flush=True)


async def claims(session: Session, member: str, rounds: int) -> None:
    """Claim one thing after the other, like everybody else."""
    for number in range(rounds):
        found = await claim(session, f"c{number}", data=member)
        say(round=number, member=member, won=found.won, by=found.by)


async def leases(session: Session, member: str, rounds: int) -> None:
    """Add to a number under a lease, without comparing: only one at a time can do that without losing anything."""
    key = f"session.{session.shard}.{session.id}.*.state.number"
    for _ in range(rounds):
        async with lease(session, "desk", 20) as held:
            say(member=member, term=held.term)
            last = await session.log.last(session.shard, key)
            value = json.loads(last.payload)["value"] if last else 0
            await held.append("state", {"type": "state.set", "value": value + 1, "term": held.term}, id="number")


async def hold(session: Session, member: str, rounds: int) -> None:
    """Hold a lease as long as it goes, and write under it all the time; say when it is lost, and try again."""
    for _ in range(rounds):
        try:
            async with lease(session, "desk", 2, data=os.getpid()) as held:
                say(member=member, term=held.term)
                for number in range(10_000):
                    body = {"type": "data", "name": "n", "term": held.term, "data": number}
                    await held.append("run", body, id=f"r{held.term}")
                    await asyncio.sleep(0.005)
        except LeaseLost as lost:
            say(member=member, lost=str(lost))


async def work(session: Session, member: str, rounds: int) -> None:
    """Do a share of the tasks."""
    async for task in share(session, "pool", {f"t{number}": number for number in range(rounds)}, seconds=2):
        async with task:
            say(member=member, task=task.task, term=task.term)
            await asyncio.sleep(0.02)
            task.result = task.value * 2


async def board(session: Session, member: str, rounds: int) -> None:
    """Volunteer for what is wanted on the blackboard, and write down what was done."""
    wanted = await session.state.get("wanted")
    for item in wanted.value if wanted is not None else ():
        if await claim(session, f"want-{item}"):
            say(member=member, taken=item)
            await session.state.update("done", lambda done, item=item: [*(done or []), item])


async def ballots(session: Session, member: str, rounds: int) -> None:
    """Meet, vote and bid, everybody with everybody."""
    number = int(member[1:])
    for turn in range(rounds):
        met = await barrier(session, f"meet{turn}", 40, value=number)
        voted = await vote(session, f"vote{turn}", "Which?", ["a", "b"], "ab"[number % 5 > 1], quorum=21)
        bid = await bids(session, f"bids{turn}", "Who?", float(number % 7), seconds=2.0)
        say(member=member, met=met.value, voted=[voted.value, voted.by], bid=[bid.value, bid.by])


async def main(what: str, name: str, first: str, count: str, rounds: str) -> None:
    async with AsyncExitStack() as stack:
        work = []
        for number in range(int(first), int(first) + int(count)):
            member = f"m{number}"
            broker = await stack.enter_async_context(connect(os.environ["ORCHESTRATOR_FREE_URL"], member=member))
            work.append(globals()[what](broker.session(name), member, int(rounds)))
        say(ready=int(count))
        session = broker.session(name)
        while not (await session.exists()):
            await asyncio.sleep(0.02)
        await asyncio.gather(*work)
    say(ended=True)


asyncio.run(main(*sys.argv[1:]))
