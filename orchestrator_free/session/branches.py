"""`session.branches`: edit what was said, have it answered once more, go back, and choose what people look at.

Nothing is replaced in the log: an edited input stands beside the one that it is shown instead of, each with what came
after it. Where an input stands is decided by the fold (`orchestrator_free.fold.branches`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from orchestrator_free.errors import InvalidInput
from orchestrator_free.events import Body
from orchestrator_free.fold import Fold, View
from orchestrator_free.fold.branches import Branches as Tree
from orchestrator_free.fold.branches import in_tree, key_of, reference
from orchestrator_free.subjects import ALL, check_name, run_id
from orchestrator_free.views.conversation import conversation
from orchestrator_free.vocabulary import validate

if TYPE_CHECKING:
    from orchestrator_free.session import Sent, Session
    from orchestrator_free.subjects import Position
    from orchestrator_free.vocabulary.messages import Overlap

#: as `data` of an edit: what came with the input stays
UNCHANGED: Final[Any] = object()
#: an edit waits no longer for an agent to stop
_STOP_SECONDS: Final = 3.0
Place = Literal["edits", "again", "after"]


class Branches:
    """The branches of one session. An input is named by `<sender>/<id>`, or by its id alone if that is clear."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # -- saying something ---------------------------------------------------------------------------------------

    async def edit(
        self,
        input: str,
        text: str,
        *,
        data: Any = UNCHANGED,
        to: str | Sequence[str] | None = None,
        id: str | None = None,
        cancel: bool = True,
    ) -> Sent:
        """Say an input anew: the new one stands in its place, the old one and its answers stay on their own branch.

        Args:
            input: which one.
            text: the new words.
            data: what comes with them; by default what came with the old ones.
            to: for whom; by default for whom the old one was.
            id: makes sending again harmless.
            cancel: first cancel what still answers the old one, or what came after it, and wait until it has stopped,
                3 s at most.

        Raises:
            InvalidInput: there is no such input, or it was no part of the conversation.
        """
        return await self.send(text, place="edits", about=input, data=data, to=to, id=id, cancel=cancel)

    async def regenerate(
        self, input: str, *, to: str | Sequence[str] | None = None, id: str | None = None, cancel: bool = False
    ) -> Sent:
        """Have an input answered once more, by the same agents or others; the first answer stays on its own branch.

        See `edit` for the rest.
        """
        return await self.send(place="again", about=input, data=UNCHANGED, to=to, id=id, cancel=cancel)

    async def go_on(
        self,
        input: str,
        text: str,
        *,
        to: str | Sequence[str] | None = None,
        data: Any = None,
        id: str | None = None,
    ) -> Sent:
        """Say something after an input, whatever branch is selected; see `edit` for the rest."""
        return await self.send(text, place="after", about=input, data=data, to=to, id=id)

    async def send(
        self,
        text: str | None = None,
        *,
        place: Place,
        about: str,
        data: Any = None,
        to: str | Sequence[str] | None = None,
        id: str | None = None,
        cancel: bool = False,
        overlap: Overlap | None = None,
    ) -> Sent:
        """Send an input to its place in the tree; the other methods are this one with names.

        `overlap` is as of `Session.send`.

        Raises:
            InvalidInput: there is no such input, it was no part of the conversation, or nothing is said.
        """
        view = await self._session.view(whole=False)
        entries = self._entries(view, about)
        first, said = entries[0], text
        if place == "again":
            if text is not None:
                raise InvalidInput("to ask again repeats the words of the input; to change them, edit it")
            said = first["text"]
        elif text is None:
            raise InvalidInput(f"{place} needs a text")
        if data is UNCHANGED:
            data = first["data"]
        chosen = secrets.token_hex(16) if id is None else id
        self._refuse_itself(chosen, first)
        targets = [entry["to"] for entry in entries] if to is None else [to] if isinstance(to, str) else list(to)
        where: Body = {place: reference(key_of(first))}
        if cancel:
            _check(targets, chosen, {"type": "input", "text": said} | where)  # nothing is cancelled in vain
            await self._cancel(view, key_of(first), chosen)
        return await self._session.send(said or "", to=targets, data=data, id=chosen, overlap=overlap, place=where)

    def _refuse_itself(self, id: str, entry: View) -> None:
        if (self._session.member, id) == (entry["from"], entry["input"]):
            raise InvalidInput(f"input {id!r} cannot stand in relation to itself: a new input needs a new id")

    def _entries(self, view: View, input: str) -> list[View]:
        """Return the entries of an input that is a node, one for each target.

        Raises:
            InvalidInput: there is none, or several members have used the id.
        """
        sender, _, name = input.rpartition("/")
        found = [one for one in view["inputs"] if one["input"] == name and sender in ("", one["from"])]
        mine = [one for one in found if one["from"] == self._session.member]
        found = found if sender or not mine else mine
        if not found:
            raise InvalidInput(f"session {self._session.id!r} has no input {input[:200]!r}")
        senders = {one["from"] for one in found}
        if len(senders) > 1:
            names = ", ".join(f"{one}/{name}" for one in sorted(senders))
            raise InvalidInput(f"several members have an input {name!r}: say which, {names}")
        nodes = [one for one in found if one["siblings"]]
        if not nodes:
            what = "was delegated by an agent" if not in_tree(found[0]) and found[0]["parent"] else "was said beside it"
            raise InvalidInput(f"input {input[:200]!r} is no part of the conversation: it {what}")
        return nodes

    async def _cancel(self, view: View, key: str, id: str) -> None:
        """Cancel whatever is open or waiting for an input and for what came after it."""
        fold, tree = Fold.load(view), Tree.load(view)
        nodes = {run_id(*node.split("/", 1)): node for node in tree.below(key)}
        found = {(agent, run) for agent, run in fold.waiting() if run in nodes}
        begun = {run for _, run in fold.runs}
        if not view["meta"]["agents"]:  # an input to `all` is for whoever there is
            to_all = {run_id(one["from"], one["input"]) for one in view["inputs"] if one["to"] == ALL}
            found |= {(ALL, run) for run in to_all & set(nodes) - begun}
        await asyncio.gather(*(self._stop(agent, run, id, wait=(agent, run) in fold.runs) for agent, run in found))

    async def _stop(self, agent: str, run: str, id: str, *, wait: bool) -> None:
        """Cancel a run; of one that has begun wait for the agent's word, which may take no input while it works."""
        control = self._session.control
        given = await control.cancel(run, to=agent, reason="its input was edited", id=_derived(id, run))
        if wait:
            with contextlib.suppress(TimeoutError):
                await given.outcome(timeout=_STOP_SECONDS)

    # -- looking ------------------------------------------------------------------------------------------------

    async def select(self, input: str) -> Position:
        """Choose the branch that everybody looks at: up to an input, and on from there along the latest ones.

        Raises:
            InvalidInput: there is no such input, or it was no part of the conversation.
        """
        view = await self._session.view(whole=False)
        first = self._entries(view, input)[0]
        body = {"type": "branch.selected", "input": reference(key_of(first))}
        return self._session.position(await self._session.append("meta", body))

    async def tree(self) -> View:
        """Return the tree as of now; see `tree_of`."""
        return tree_of(await self._session.view(whole=False))

    async def conversation(self, branch: str | None = None, *, whispers: bool = False) -> list[View]:
        """Return what was said and answered on a branch, oldest first; see `orchestrator_free.views.conversation`."""
        return conversation(await self._session.view(), branch=branch, whispers=whispers)


def tree_of(view: View) -> View:
    """Return the inputs of a view as a tree, flat and in log order, with the selected branch.

    `{"position", "path": [ref], "heads": [ref], "inputs": [{"from", "input", "to", "text", "after": ref or null,
    "next": [ref], "selected"}]}`; `next` are what comes after it, the latest last; a ref is `{"from", "input"}`.
    """
    tree = Tree.load(view)
    path, inputs = set(tree.path()), dict[str, View]()
    for entry in view["inputs"]:
        if not entry["siblings"]:
            continue
        key = key_of(entry)
        if key in inputs:
            inputs[key]["to"].append(entry["to"])
            continue
        inputs[key] = {name: entry[name] for name in ("from", "input", "text", "after")} | {
            "to": [entry["to"]],
            "next": [reference(child) for child in tree.children(key)],
            "selected": key in path,
        }
    return {"position": view["position"], **view["branch"], "inputs": list(inputs.values())}


def _check(targets: list[str], id: str, body: Body) -> None:
    """Check what is about to be sent.

    Raises:
        InvalidInput: it would be refused.
    """
    if not targets:
        raise InvalidInput("an input needs somebody it is for: pass an agent's name, or 'all'")
    for name in (*targets, id):
        check_name("input target or id", name)
    validate("in", body)


def _derived(id: str, run: str) -> str:
    """Return the id of the cancel that an edit sends: the same for the same edit."""
    return hashlib.sha256(f"{id}.{run}".encode()).hexdigest()[:32]
