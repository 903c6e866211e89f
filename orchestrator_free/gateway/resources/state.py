"""`/sessions/{session}/state`: values by key that many may change; a revision is an entity tag: no change is lost."""

from __future__ import annotations

import re
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator_free.errors import Conflict, InvalidInput
from orchestrator_free.gateway.bodies import json_answer, number, read_json
from orchestrator_free.gateway.openapi import operation, path, query
from orchestrator_free.gateway.problems import problem
from orchestrator_free.gateway.resources.resource import Resource
from orchestrator_free.session import Session
from orchestrator_free.session.state import Value
from orchestrator_free.subjects import check_name

_MERGE: Final = "application/merge-patch+json"
_OPERATIONS: Final = "application/json-patch+json"
_TAG: Final = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS: Final = re.compile(rf"{_TAG}(?:\s*,\s*{_TAG})*")
_STRONG: Final = re.compile(r'(?<!/)"([1-9][0-9]{0,18})"')
_SEQUENCE: Final = re.compile("[0-9]{1,19}")
#: versions of a page: each may have 256 KiB
_HISTORY: Final = 100
_KEY: Final = {"name": "key", "in": "path", "required": True, "schema": {"type": "string"}}
_FROM: Final = query("from", "the member who writes; the token's own if absent")
_CONDITIONS: Final = [
    {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": f"header: {about}"}
    for name, about in (
        ("If-Match", "only over this revision, or * for any; 412 if it is another"),
        ("If-None-Match", "*: only if there is no value; 412 if there is"),
    )
]


def _bodies(**contents: str) -> dict[str, Any]:
    return {"required": True, "content": {name: {"schema": {"description": text}} for name, text in contents.items()}}


class StateRoutes(Resource):
    """The state of a session."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/sessions/{session}/state/{key}"
        return [
            Route("/sessions/{session}/state", self.show_all, methods=["GET"]),
            Route(one, self.show, methods=["GET"]),
            Route(one, self.put, methods=["PUT"]),
            Route(one, self.patch, methods=["PATCH"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/history", self.history, methods=["GET"]),
        ]

    def paths(self) -> dict[str, Any]:
        """Return their description."""
        changed = {"200": "the new version", "201": "the first one", "412": "somebody else was first; says who"}
        writes: dict[str, Any] = {"parameters": [_FROM, *_CONDITIONS]}
        put = operation(
            "Set a value", changed, requestBody=_bodies(**{"application/json": "the value, any JSON"}), **writes
        )
        patches = {_MERGE: "RFC 7396: members to set, null to remove", _OPERATIONS: "RFC 6902: a list of operations"}
        patch = operation(
            "Change a value, whatever others do to it at the same time",
            changed | {"409": "the patch does not apply", "415": "neither kind of patch"},
            requestBody=_bodies(**patches),
            **writes,
        )
        show = operation(
            "The present value; its revision is the ETag", {"200": "value, revision, by, time", "304": "the same"}
        )
        delete = operation("Remove a key", {"204": "gone", "412": "somebody else was first; says who"}, **writes)
        pages = [query("after", "a revision"), query("limit", f"1 to {_HISTORY}", type="integer", default=20)]
        history = operation("Every version in order", {"200": "versions, and next for `after`"}, parameters=pages)
        every = operation("The present value of every key", {"200": "state by key"})
        return (
            path("/sessions/{session}/state", get=every)
            | path("/sessions/{session}/state/{key}", _KEY, get=show, put=put, patch=patch, delete=delete)
            | path("/sessions/{session}/state/{key}/history", _KEY, get=history)
        )

    # -- reading ------------------------------------------------------------------------------------------------

    async def show_all(self, request: Request) -> Response:
        """Return every key."""
        session = await self.session(request)
        return json_answer({"state": {key: _shown(value) for key, value in (await session.state.all()).items()}})

    async def show(self, request: Request) -> Response:
        """Return one value; 304 if it is the version that the client has."""
        session, key = await self._addressed(request)
        value = await session.state.get(key)
        if value is None:
            raise HTTPException(404, f"state {key!r} has no value")
        headers = {"etag": f'"{value.revision}"', "cache-control": "no-cache"}
        known = request.headers.get("if-none-match", "")
        if known.strip() == "*" or str(value.revision) in re.findall('"([^"]*)"', known):
            return Response(status_code=304, headers=headers)
        return json_answer(_shown(value), 200, **headers)

    async def history(self, request: Request) -> Response:
        """Return the versions of a key."""
        session, key = await self._addressed(request)
        limit = number(request, "limit", 20, 1, _HISTORY)
        after = request.query_params.get("after", "0")
        if not _SEQUENCE.fullmatch(after):
            raise InvalidInput(f"after={after[:40]!r}: expected a revision")
        versions = await session.state.history(key, after=int(after), limit=limit)
        if not versions and after == "0":
            raise HTTPException(404, f"state {key!r} never had a value")
        following = versions[-1].revision if len(versions) == limit else None
        return json_answer(
            {"versions": [_shown(one) | {"deleted": one.deleted} for one in versions], "next": following}
        )

    # -- writing ------------------------------------------------------------------------------------------------

    async def put(self, request: Request) -> Response:
        """Set a value."""
        value = await read_json(request)
        session, key = await self._addressed(request)
        try:
            expect = await _expected(request, session, key)
            existed = await _exists(session, key, expect)
            return _written(session, await session.state.set(key, value, expect=expect), existed=existed)
        except Conflict as conflict:
            return _refused(request, conflict)

    async def patch(self, request: Request) -> Response:
        """Change a value."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (_MERGE, _OPERATIONS):
            headers = {"accept-patch": f"{_MERGE}, {_OPERATIONS}"}
            raise HTTPException(415, f"Content-Type is {kind!r}, expected {_MERGE} or {_OPERATIONS}", headers)
        said = await read_json(request)
        session, key = await self._addressed(request)
        change = session.state.merge if kind == _MERGE else session.state.patch
        try:
            expect = await _expected(request, session, key)
            existed = await _exists(session, key, expect)
            return _written(session, await change(key, said, expect=expect), existed=existed)
        except Conflict as conflict:
            return _refused(request, conflict)

    async def delete(self, request: Request) -> Response:
        """Remove a key."""
        session, key = await self._addressed(request)
        try:
            if not await session.state.delete(key, expect=await _expected(request, session, key)):
                raise HTTPException(404, f"state {key!r} has no value")
        except Conflict as conflict:
            return _refused(request, conflict)
        return Response(status_code=204)

    async def _addressed(self, request: Request) -> tuple[Session, str]:
        """Return the session as the member who writes sees it, and the key."""
        session = await self.session(request, request.query_params.get("from"))
        return session, check_name("key", request.path_params["key"])


def _shown(value: Value) -> dict[str, Any]:
    return {"key": value.key, "value": value.value, "revision": value.revision, "by": value.by, "time": value.time}


async def _expected(request: Request, session: Session, key: str) -> int | None:
    """Return the revision that the conditions of a request stand for; None if there are none, 0 for no value.

    Raises:
        Conflict: they do not hold.
        InvalidInput: they cannot be read.
    """
    match, none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if none_match is not None:
        if match is not None or none_match.strip() != "*":
            raise InvalidInput("a write understands If-None-Match: * and If-Match, one of them")
        return 0
    if match is None:
        return None
    match = match.strip()
    if match != "*" and not _TAGS.fullmatch(match):
        raise InvalidInput(f'If-Match: {match[:80]} is no list of entity tags; send one as ETag had it: "12"')
    tags = [int(tag) for tag in _STRONG.findall(match)]
    if len(tags) == 1:
        return tags[0]
    present = await session.state.get(key)
    if present is not None and (match == "*" or present.revision in tags):
        return present.revision
    found = f"revision {present.revision} by {present.by}" if present else "no value"
    raise Conflict(f"state {key!r} has {found}; nothing was written", actual=present.revision if present else 0)


async def _exists(session: Session, key: str, expect: int | None) -> bool:
    """Whether there is a value to replace."""
    return bool(expect) if expect is not None else await session.state.get(key) is not None


def _written(session: Session, value: Value, *, existed: bool) -> Response:
    """Answer with the new version."""
    answer = _shown(value) | {"position": str(session.position(value.revision))}
    return json_answer(answer, 200 if existed else 201, etag=f'"{value.revision}"')


def _refused(request: Request, conflict: Conflict) -> Response:
    """Answer that somebody else was first: 412 where the client had set a condition."""
    if not {"if-match", "if-none-match"} & set(request.headers):
        raise conflict
    urn = "urn:orchestrator-free:problem:precondition-failed"
    response = problem(412, "Precondition Failed", str(conflict), type_=urn)
    if conflict.actual:
        response.headers["etag"] = f'"{conflict.actual}"'
    return response
