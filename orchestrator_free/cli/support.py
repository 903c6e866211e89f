"""The scenario `support`: a customer on two devices, two agents, an approval that nobody gives, and a person at a desk.

The people are played: the customer and the second device over the library, the person by the desk in a process of its
own, with its lines typed into it. Agents and broker do what they always do.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Final

from orchestrator_free.broker import connect
from orchestrator_free.errors import OrchestratorFreeError
from orchestrator_free.fold import Fold, View
from orchestrator_free.session import Session
from orchestrator_free.views.answers import answer_text

AGENTS: Final = ("concierge", "orders")
CUSTOMER: Final = "casey"
PERSON: Final = "dana"
#: how long lee has to approve; short, because lee is at lunch
APPROVAL_SECONDS: Final = 4
_SECONDS: Final = 60.0

Tell = Callable[[str], object]


class Play:
    """One performance: `tell` is called with a line for the audience at each turn."""

    def __init__(self, laptop: Session, phone: Session, desk: asyncio.subprocess.Process, tell: Tell) -> None:
        self._laptop = laptop
        self._phone = phone
        self._desk = desk
        self._tell = tell

    async def perform(self) -> None:
        """Play it from the first question to the thanks."""
        async with asyncio.timeout(3 * _SECONDS):
            await self._ask("Where is my order 1042?")
            await self._stop_from_elsewhere()
            await self._hand_over()
            await self._at_the_desk()
            await self._ask("Thank you both!")
            self._tell("The end. Everything above stands in one log, in one order, for every device.")

    async def _ask(self, text: str) -> View:
        """Let the customer ask and wait for the answer."""
        self._tell(f"{CUSTOMER}, laptop: “{text}”")
        sent = await self._laptop.send(text, to="all")
        run = await self._laptop.result("concierge", sent.run, timeout=_SECONDS)
        self._tell(f"concierge: “{_text(run)}”")
        return run

    async def _stop_from_elsewhere(self) -> None:
        self._tell(f"{CUSTOMER}, laptop: “What is your return policy?”")
        sent = await self._laptop.send("What is your return policy?", to="all")
        await self._until(
            lambda fold: (run := fold.run("concierge", sent.run)) is not None and len(_text(run.view())) > 80
        )
        began = perf_counter()
        control = await self._phone.control.cancel(sent.run, reason="too long")
        shown = perf_counter() - began
        await control.outcome(timeout=_SECONDS)
        self._tell(f"{CUSTOMER}, phone: stop! From {shown * 1000:.0f} ms later nobody is shown more, on any device.")

    async def _hand_over(self) -> None:
        run = await self._ask("Order 1042 arrived broken, I want my money back.")
        asks = (await self._laptop.view())["asks"]
        self._tell(f"The broker let the approval expire ({asks[-1]['status']}); concierge asked {PERSON} to take over.")
        if run["status"] != "done":
            raise OrchestratorFreeError(f"the concierge ended as {run['status']}: {run['error']}")

    async def _at_the_desk(self) -> None:
        """Let the person accept, see what happened, act, and give the customer back."""
        await self._type("/accept", lambda fold: fold.floor.holder == PERSON)
        self._tell(f"{PERSON}, desk: has the floor and a brief of all that was said; {CUSTOMER} repeats nothing.")
        await self._type("Hello Casey, I am paying it back right now.", lambda fold: _notes(fold) == 1)
        await self._type("/whisper orders refund order 1042", lambda fold: "refund" in fold.state)
        self._tell("orders: paid the refund; the whisper is not shown to the customer.")
        await self._type("Done. You have the receipt in a minute.", lambda fold: _notes(fold) == 2)
        await self._type("/return refunded", lambda fold: (fold.floor.state or {}).get("step") == "return")
        self._tell(f"{PERSON}, desk: gave the floor back.")

    async def _type(self, line: str, until: Callable[[Fold], object]) -> None:
        """Type a line at the desk and wait for what it does."""
        if self._desk.stdin is None or self._desk.returncode is not None:
            raise OrchestratorFreeError("the desk has ended; its log, desk.log, says why")
        self._desk.stdin.write(line.encode() + b"\n")
        await self._until(until)

    async def _until(self, condition: Callable[[Fold], object]) -> None:
        fold = Fold(self._laptop.id)
        async with asyncio.timeout(_SECONDS):
            async for event in self._laptop.follow():
                fold.apply(event)
                if condition(fold):
                    return


def _text(run: View) -> str:
    return answer_text(run["parts"]).strip()


def _notes(fold: Fold) -> int:
    """Return how many notes the person has written."""
    return sum(1 for entry in fold.inputs.values() if entry["note"] and entry["from"] == PERSON)


@asynccontextmanager
async def staged(url: str, session: str, output: Path, tell: Tell) -> AsyncIterator[tuple[Session, Play]]:
    """Connect the customer's devices and open the desk; yield the session as the customer sees it, and the play."""
    async with (
        connect(url, member=CUSTOMER) as laptop,
        connect(url, member=CUSTOMER) as phone,
        _desk(url, output) as desk,
    ):
        await laptop.session(session).create(title="Casey and a broken espresso machine", agents=["concierge"])
        yield laptop.session(session), Play(laptop.session(session), phone.session(session), desk, tell)


@asynccontextmanager
async def _desk(url: str, output: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with output.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "orchestrator_free", "--url", url, "desk", "--as", PERSON,
            stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
