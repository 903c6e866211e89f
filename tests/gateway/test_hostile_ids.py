"""Ids that are none, in every place that takes one: refused at the edge, with a problem document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_free.identity.principal import CAPABILITIES
from tests.gateway.identity import bearer, guard, guarded, token

__all__ = ["guard", "guarded", "token"]  # fixtures

if TYPE_CHECKING:
    from tests.gateway.identity import Mint

HOSTILE = sorted(
    {
        *(f"a{char}b" for char in " .*>/\\\"'`$&|;<>{}[]()%#?@!^~+=,:\t\r\n\0\x01\x7f\u0085\u00a0\u00ad\u200b\u202e\u2028\u2029\ufeff\U0001f99c"),
        *(f"{char}" for char in ".*>$_INBOX.x"[:3]), "..", "../x", "..%2f", "%2e%2e", "%00", "%0d%0a", "a%0d%0aset-cookie: x", "a\r\nb: c",
        "a" * 65, "a" * 1000, "а", "ａ", "ℓ", "é", "e\u0301", "ß", "İ", "ﬀ", "१", "Ⅷ", "a\u0300" * 40, "\ud7ff", "\ue000", "\U0010ffff",
        "session.>", "session.*.x", "$JS.API.STREAM.DELETE.SESSIONS_0", "$KV.x", "_INBOX.x", "live.session", "a.b.c", "-.-", "'; DROP TABLE",
        "<script>alert(1)</script>", "{{7*7}}", "${jndi:ldap://x}", "__proto__.x", "constructor()", "NaN.", "true ", " null", "0x1.", "1e9999.",
        "id: 1\n\ndata: x", "data: x\n\n", "event: deleted\n\n", ": x", "retry: 1\n", "a\u2028data: x", "eyJ.eyJ.x", "tkt.x", "Bearer x",
        *(f"x{number:02x}{chr(number)}" for number in (*range(0x20), 0x7f, *range(0x80, 0xa1))),
        *(f"{chr(0x2000 + number)}z" for number in range(0x30)),
        "~run~mark", "a,b ", "a;b", "a|b", "file:///etc/passwd", "http://169.254.169.254/", "\\\\host\\share", "COM1.", "a/../b", "/etc/passwd",
    }
)  # fmt: skip
PLACES = (
    ("GET", "/sessions/{}"), ("DELETE", "/sessions/{}"), ("GET", "/sessions/{}/events"), ("POST", "/sessions/{}/inputs"),
    ("GET", "/sessions/{}/state"), ("GET", "/sessions/{s}/state/{}"), ("PUT", "/sessions/{s}/state/{}"), ("GET", "/sessions/{s}/objects/{}"),
    ("GET", "/sessions/{s}/asks/{}"), ("POST", "/sessions/{s}/notices/{}/retry"), ("GET", "/api/chat/{}/messages"), ("GET", "/sessions/{}/brief"),
)  # fmt: skip
QUERIES = ("member", "agents", "kinds", "after", "device", "presence", "snapshot", "until")
BODIES = (
    ("/sessions", "session"), ("/sessions/{s}/inputs", "to"), ("/sessions/{s}/inputs", "from"), ("/sessions/{s}/controls", "to"),
("/sessions/{s}/fork", "session"), ("/sessions/{s}/asks", "id"), ("/sessions/{s}/presence", "device"),
    ("/tickets", "session"), ("/revocations", "member"), ("/api/agui", "threadId"),
)  # fmt: skip
BASE = {
    "text": "x",
    "to": "bot",
    "type": "cancel",
    "status": "idle",
    "device": "d",
    "runId": "r",
    "messages": [{"role": "user", "content": "x"}],
}
ALLOWED = {
    "/sessions": set(), "inputs": {"text", "to"}, "controls": {"type", "to"}, "fork": set(), "asks": {"text"}, "presence": {"status", "device"},
    "/tickets": set(), "/revocations": set(), "/api/agui": {"runId", "messages"},
}  # fmt: skip


async def test_hostile_ids_are_refused_wherever_an_id_is_taken(guarded: Any, pen: Any, token: Mint, ann: Any) -> None:
    """Two hundred of them × every parameter: never 5xx, never 2xx, nothing is stored, no header is smuggled."""
    await pen.create("bot")
    before = [event.sequence async for event in _all(ann, pen.session)]
    headers = bearer(token("ann", cap=CAPABILITIES))
    http, wrong, count = guarded.http, [], 0
    assert len(HOSTILE) >= 200
    for text in HOSTILE:
        for method, place in PLACES:
            url = http.base_url.copy_with(raw_path=place.replace("{s}", pen.session).format(_quoted(text)).encode())
            wrong += _judge(await http.request(method, url, headers=headers, json={"text": "x", "to": "bot"} if method in ("POST", "PUT") else None), (method, place, text))  # fmt: skip
        for name in QUERIES:
            answer = await _peek(http, f"/sessions/{pen.session}/events", {name: text}, headers)
            wrong += (
                _judge(answer, ("GET", name, text)) if text.strip(", ") and (name, text) != ("agents", "a,b") else []
            )
        for path, name in BODIES:
            allowed = next(found for end, found in ALLOWED.items() if path.endswith(end))
            body = {key: BASE[key] for key in allowed} | {name: text}
            wrong += _judge(
                await http.post(path.replace("{s}", pen.session), json=body, headers=headers), (path, name, text)
            )
        count += len(PLACES) + len(QUERIES) + len(BODIES)
    assert wrong == []
    assert count > 5000
    assert [event.sequence async for event in _all(ann, pen.session)] == before


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _judge(answer: Any, where: Any) -> list[Any]:
    smuggled = [name for name in ("set-cookie", "b") if name in answer.headers]
    return [(where, answer.status_code, answer.text[:80])] if not 400 <= answer.status_code < 500 or smuggled else []


async def _peek(http: Any, path: str, query: dict[str, str], headers: dict[str, str]) -> Any:
    async with http.stream("GET", path, params=query, headers=headers) as answer:
        if answer.status_code >= 400:
            await answer.aread()
        else:
            answer._content = b""
        return answer


async def _all(ann: Any, session: str) -> Any:
    end = int((await ann.session(session).view())["position"].rsplit("-")[-1])
    async for event in ann.session(session).follow():
        yield event
        if event.sequence >= end:
            return
