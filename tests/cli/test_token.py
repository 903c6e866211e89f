"""`token`, and `up` with and without identity: as a user types it, in an empty folder."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tests.cli.test_serve import urls
from tests.identity.test_remote_keys import place

if TYPE_CHECKING:
    from collections.abc import Callable


def token_of(command: Any, *arguments: str) -> str:
    done = command("token", "--keys", "keys.json", *arguments)
    assert done.code == 0, done.err
    return str(done.out.strip())


def test_keys_are_made_rotated_and_sign_tokens(command: Any) -> None:
    """Private 0600, public beside it; what a token says can be read by anybody."""
    made = command("token", "keys", "keys.json", "--json").json[0]
    assert (made["files"], made["algorithm"]) == (["keys.json", "keys.public.json"], "EdDSA")
    assert (command.folder / "keys.json").stat().st_mode & 0o777 == 0o600
    assert command("token", "keys", "keys.json").code == 2  # never overwritten
    token = token_of(
        command, "--member", "ann", "--session", "s1", "--session", "ann-*", "--agents", "bot", "--ttl", "60"
    )
    said = jwt.decode(token, options={"verify_signature": False})
    assert (said["sub"], said["sessions"], said["agents"], said["exp"] - said["iat"]) == (
        "ann",
        ["s1", "ann-*"],
        ["bot"],
        60,
    )
    assert command("token", "keys", "keys.json", "--rotate").code == 0
    public = json.loads((command.folder / "keys.public.json").read_text())["keys"]
    assert (len(public), any("d" in key for key in public)) == (2, False)
    again = token_of(command, "--member", "ann", "--session", "*")
    assert jwt.get_unverified_header(again)["kid"] == public[0]["kid"] != made["key"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--member", "ann"), "--session"), (("--session", "s"), "--member"), (("--member", "a.b", "--session", "s"), "a.b"),
        (("--member", "ann", "--session", "a b"), "a b"), (("--member", "ann", "--session", "s", "--cap", "root"), "root"),
        (("--member", "ann", "--session", "s", "--keys", "none.json"), "none.json"), (("revoke",), "--member"),
        (("revoke", "--token", "x"), "no token"), (("revoke", "--member", "a.b"), "a.b"),
        (("revoke", "--all", "--id", "x"), "one of"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_nothing_is_made(command: Any, arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2, one line."""
    command("token", "keys", "keys.json")
    front = ("token",) if arguments[0] == "revoke" or "--keys" in arguments else ("token", "--keys", "keys.json")
    done = command(*front, *arguments)
    assert (done.code, done.out) == (2, ""), done.err
    assert words in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--host", "0.0.0.0"), ("--auth-keys", "--auth-jwks", "--open")), (("--host", "::"), ("--auth-keys",)),
        (("--open", "--auth-keys", "k.json"), ("contradict",)), (("--auth-keys", "none.json"), ("none.json",)),
        (("--auth-jwks", "http://keys.example/x"), ("https",)), (("--limit", "x=1"), ("member-feeds",)),
        (("--limit", "member-feeds=-1"), ("NAME=NUMBER",)), (("--trust-proxy", "all"), ("10.0.0.0/8",)),
    ],
)  # fmt: skip
def test_up_refuses_what_would_leave_it_open_or_is_contradictory(
    command: Any, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """Before it listens; the error names what to do."""
    done = command("up", "--port", "0", "--broker", command.url, *options)
    assert done.code == 2, (done.code, done.err)
    assert all(word in done.err for word in words), done.err


async def test_up_without_identity_is_for_this_host_and_says_so(command: Any, eventually: Callable[..., Any]) -> None:
    """In the lines it starts with, on /readyz, as a metric; and under no other name, which a page could give itself."""
    program = command.start("up", "--port", "0", "--broker", command.url)
    await eventually(lambda: "OPEN" in program.output, 60)
    assert "everything" in program.output
    async with httpx.AsyncClient(base_url=urls(program)["gateway"]) as http:
        assert (await http.get("/readyz")).json()["identity"] == "open"
        assert "orchestrator_free_gateway_identity_open 1.0" in (await http.get("/metrics")).text
        renamed = await http.get("/sessions", headers={"host": "evil.example:8080"})
        assert (renamed.status_code, "--auth-keys" in renamed.json()["detail"]) == (403, True)
        for name in ("localhost:1", "127.0.0.1", "[::1]:80"):
            assert (await http.get("/sessions", headers={"host": name})).status_code == 200


async def test_up_with_keys_asks_for_tokens_wherever_it_listens(command: Any, eventually: Callable[..., Any]) -> None:
    """The whole way: keys, gateway, token, session, revocation; `--open` is loud."""
    command("token", "keys", "keys.json")
    options = ("--port", "0", "--broker", command.url)
    program = command.start(
        "up",
        *options,
        "--host",
        "0.0.0.0",
        "--auth-keys",
        str(command.folder / "keys.public.json"),
        "--limit",
        "member-sessions=1",
    )
    loud = command.start("up", *options, "--host", "0.0.0.0", "--open")
    await eventually(lambda: urls(program).get("gateway") and urls(loud).get("gateway"), 60)
    assert "OPEN" not in program.output
    assert "OPEN" in loud.output
    assert "delete every session" in loud.output
    token = token_of(command, "--member", "ann", "--session", "cli-*")
    port = urls(program)["gateway"].rpartition(":")[2]
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {token}", "host": "gateway.example"}
    ) as http:
        assert (await http.post("/sessions", json={"session": "cli-1"})).status_code == 201
        assert (await http.post("/sessions", json={"session": "cli-2"})).status_code == 429
        assert (await http.get("/sessions/cli-1", headers={"authorization": ""})).status_code == 401
        assert (await http.get("/metrics")).status_code == 200  # from this host
        assert (await http.get("/metrics", headers={"x-forwarded-for": "1.2.3.4"})).status_code == 403
        done = command("token", "revoke", "--token", "-", stdin=token + "\n")
        assert (done.code, token in done.err) == (0, False)

        async def revoked() -> bool:
            return bool((await http.get("/sessions/cli-1")).status_code == 401)

        await eventually(revoked, 20)
        http.headers["authorization"] = f"Bearer {token_of(command, '--member', 'ann', '--session', 'cli-*')}"
        assert (await http.get("/sessions/cli-1")).status_code == 200
        assert command("token", "revoke", "--member", "ann").code == 0
        await eventually(revoked, 20)
        http.headers["authorization"] = f"Bearer {token_of(command, '--member', 'bob', '--session', 'cli-*')}"
        assert (await http.get("/sessions/cli-1")).status_code == 200
        assert command("token", "revoke", "--all").code == 0
        await eventually(revoked, 20)
    entries = [json.loads(line) for line in command("audit", "--json").out.splitlines()]
    written = [one for one in entries if one.get("what") == "token revoke"][-3:]  # others' are before them
    assert [(one["outcome"], one["member"], one.get("whose")) for one in written] == [
        ("done", "token", None), ("done", "token", "ann"), ("done", "token", None)
    ]  # fmt: skip


async def test_up_takes_the_tokens_of_an_identity_provider(command: Any, eventually: Callable[..., Any]) -> None:
    """The whole way: RS256, its key set at an address, its claims read as a file says; a member writes as itself."""
    private = rsa.generate_private_key(65537, 2048)
    shown = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True) | {"kid": "r1", "use": "sig"}
    claims = command.folder / "claims.toml"
    claims.write_text(
        'escape = true\ncapabilities = ["read", "write"]\nsessions = ["{member}-*"]\n'
        '[claims]\nroles = "permissions"\n[roles.boss]\ncapabilities = ["admin"]\n'
    )
    about = {"iss": "https://acme.example/", "aud": "sessions", "iat": int(time.time()), "exp": int(time.time()) + 600}

    def headers(**claims: Any) -> dict[str, str]:
        token = jwt.encode(about | claims, private, algorithm="RS256", headers={"kid": "r1"})
        return {"authorization": f"Bearer {token}"}

    async with place() as there:
        there.keys = [shown]
        program = command.start(
            "up", "--port", "0", "--broker", command.url, "--auth-jwks", there.url, "--auth-claims", str(claims),
            "--auth-issuer", "https://acme.example/", "--auth-audience", "sessions",
        )  # fmt: skip
        await eventually(lambda: urls(program).get("gateway"), 60)
        member = "auth0_7C5f7c"
        async with httpx.AsyncClient(base_url=urls(program)["gateway"]) as http:
            ann, boss = headers(sub="auth0|5f7c"), headers(sub="auth0|5f7c", permissions=["boss"])
            assert (await http.post("/sessions", json={"session": f"{member}-1"}, headers=ann)).status_code == 201
            said = await http.post(f"/sessions/{member}-1/inputs", json={"text": "hi", "to": "all"}, headers=ann)
            assert said.status_code == 202
            view = (await http.get(f"/sessions/{member}-1", headers=ann)).json()
            assert [entry["from"] for entry in view["inputs"]] == [member]
            assert (await http.delete(f"/sessions/{member}-1", headers=ann)).status_code == 403
            assert (await http.get(f"/sessions/{member}-1", headers=headers(sub="auth0|5f7d"))).status_code == 404
            assert (await http.get(f"/sessions/{member}-1", headers=headers(sub="a", aud="other"))).status_code == 401
            assert (await http.delete(f"/sessions/{member}-1", headers=boss)).status_code == 204
    refused = command("up", "--auth-claims", "claims.toml")
    assert (refused.code, "--auth-jwks" in refused.err) == (2, True)
