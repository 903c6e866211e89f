"""Tokens that count, and every way in which one does not: real keys, real signatures, the real clock."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from orchestrator_free.errors import InvalidInput, NotAllowed, NotAuthenticated, TokenExpired
from orchestrator_free.identity.keys import (
    make_key,
    public_path,
    read_key,
    read_key_file,
    read_keys,
    rotate_keys,
    write_new_keys,
)
from orchestrator_free.identity.keysets import FileKeys
from orchestrator_free.identity.principal import CAPABILITIES, DEFAULT_CAPABILITIES, OPEN, principal_of
from orchestrator_free.identity.tokens import Verifier, mint

if TYPE_CHECKING:
    from pathlib import Path

CLAIMS = {
    "iss": "orchestrator-free", "aud": "orchestrator-free", "sub": "ann", "jti": "j1",
    "cap": ["read"], "sessions": ["s1"],
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A private key file, its public set beside it."""
    path = tmp_path / "keys.json"
    write_new_keys(path, "EdDSA")
    return path


@pytest.fixture
def key(file: Path) -> Any:
    """The key that signs."""
    return next(iter(read_key_file(file).values()))


@pytest.fixture
async def verifier(file: Path) -> Verifier:
    """A verifier with the public set, as a gateway has it."""
    keys = FileKeys(public_path(file), look_seconds=0)
    await keys.load()
    return Verifier(keys)


def signed(key: Any, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token with any claims; None leaves one out."""
    now = int(time.time())
    said = {
        name: value for name, value in ({**CLAIMS, "iat": now, "exp": now + 60} | claims).items() if value is not None
    }
    return jwt.encode(said, key.signing, algorithm=key.algorithm, headers={"kid": key.id, **(header or {})})


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "HS256"])
async def test_a_token_says_who_and_what(tmp_path: Path, algorithm: Any) -> None:
    """Whatever the algorithm; a shared secret has no public set."""
    path = tmp_path / "keys.json"
    files = write_new_keys(path, algorithm)
    keys = FileKeys(files[-1])
    await keys.load()
    key = next(iter(read_key_file(path).values()))
    token = mint(key, "ann", sessions=["s1", "ann-*"], capabilities=["read", "write"], agents=["bot"], seconds=60)

    found = await Verifier(keys).verify(token)

    assert (found.member, found.sessions, found.capabilities) == ("ann", ("s1", "ann-*"), {"read", "write"})
    assert found.sees == {"bot", "ann"}
    assert found.expires == pytest.approx(time.time() + 60, abs=3)
    assert len(files) == (1 if algorithm == "HS256" else 2)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any("d" in one for one in json.loads(files[-1].read_bytes())["keys"] if algorithm != "HS256")


def b64(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(key: Any, header: dict[str, Any], secret: bytes | None) -> str:
    """A token made by hand: no library helps an attacker, or stops him."""
    now = int(time.time())
    body = f"{b64({'typ': 'JWT', 'kid': key.id, **header})}.{b64({**CLAIMS, 'iat': now, 'exp': now + 60})}"
    signature = b"" if secret is None else hmac.new(secret, body.encode(), hashlib.sha256).digest()
    return f"{body}.{b64(signature) if signature else ''}"


def public_forms(key: Any) -> list[bytes]:
    """What of a public key an attacker may use as a shared secret."""
    encodings = serialization.Encoding
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return [
        key.verifying.public_bytes(encodings.PEM, spki),
        key.verifying.public_bytes(encodings.DER, spki),
        key.verifying.public_bytes(encodings.Raw, serialization.PublicFormat.Raw),
    ]


async def test_forged_tokens_are_refused(verifier: Verifier, key: Any) -> None:
    """`none`, a public key used as a secret, a key that the token brings, a signature of somebody else."""
    mine = read_key(make_key("EdDSA"))
    own_jwk = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(mine.verifying))
    attacks = {
        "none": forged(key, {"alg": "none"}, None),
        "None": forged(key, {"alg": "None"}, None),
        "no signature": signed(key).rpartition(".")[0] + ".",
        "confusion": forged(key, {"alg": "HS256"}, b"secret" * 8),
        "jwk": signed(mine, header={"kid": key.id, "jwk": own_jwk}),
        "jku": signed(mine, header={"kid": key.id, "jku": "https://evil.example/keys"}),
        "x5u": signed(mine, header={"kid": key.id, "x5u": "https://evil.example/cert"}),
        "jwk beside a good signature": signed(key, header={"jwk": own_jwk}),
        "x5c beside a good signature": signed(key, header={"x5c": ["AA"]}),
        "crit": signed(key, header={"crit": ["exp"]}),
        "crit of b64": signed(key, header={"crit": ["b64"], "b64": True}),
        "unknown kid": signed(mine),
        "kid of another": signed(mine, header={"kid": key.id}),
        "kid is a path": signed(key, header={"kid": "../../etc/passwd"}),
        "changed": tampered(signed(key), sub="admin"),
        "empty": "",
        "three dots": "...",
        "long": "a" * 100_000,
    }  # fmt: skip
    attacks |= {f"confusion {n}": forged(key, {"alg": "HS256"}, form) for n, form in enumerate(public_forms(key))}
    for name, token in attacks.items():
        with pytest.raises(NotAuthenticated):
            await verifier.verify(token)
            pytest.fail(f"{name} was taken")
    assert (await verifier.verify(signed(key))).member == "ann"  # the verifier does say yes


def tampered(token: str, **claims: Any) -> str:
    head, body, signature = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(body + "==")) | claims
    return f"{head}.{b64(said)}.{signature}"


async def test_a_token_without_kid_is_refused(verifier: Verifier, key: Any) -> None:
    """There is no key to try it with, and none is guessed."""
    token = jwt.encode({**CLAIMS, "iat": 0, "exp": 2**33}, key.signing, algorithm="EdDSA")
    with pytest.raises(NotAuthenticated, match="kid"):
        await verifier.verify(token)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"aud": "another"}, "[Aa]udience"), ({"aud": None}, "aud"), ({"iss": "evil"}, "[Ii]ssuer"), ({"iss": None}, "iss"),
        ({"sub": None}, "sub"), ({"sub": ""}, "sub"), ({"sub": "a.b"}, "sub"), ({"sub": "*"}, "sub"), ({"sub": 7}, "[Ss]ub"),
        ({"jti": None}, "jti"), ({"jti": ""}, "jti"), ({"iat": None}, "iat"), ({"exp": None}, "exp"),
        ({"cap": None}, "cap"), ({"cap": "read"}, "cap"), ({"cap": ["read", "root"]}, "'root' is no capability"),
        ({"sessions": None}, "sessions"), ({"sessions": "*"}, "sessions"), ({"sessions": ["a.b"]}, "sessions"),
        ({"sessions": ["*a"]}, "sessions"), ({"sessions": [">"]}, "sessions"), ({"sessions": ["a" * 65]}, "sessions"),
        ({"agents": "bot"}, "agents"), ({"agents": ["a b"]}, "agents"), ({"agents": None, "streams": ["/v1"]}, "streams"),
        ({"streams": ["a?b"]}, "streams"), ({"sessions": ["s"] * 1001}, "sessions"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
async def test_wrong_claims_are_refused_by_name(
    verifier: Verifier, key: Any, claims: dict[str, Any], words: str
) -> None:
    """The error says which one."""
    with pytest.raises(NotAuthenticated, match=words):
        await verifier.verify(signed(key, **claims))


async def test_the_clock_may_be_off_by_half_a_minute_and_not_by_an_hour(verifier: Verifier, key: Any) -> None:
    """Both ways; an expired one is told so, since its holder can fetch another."""
    now = time.time()
    for iat, exp in ((-20, 40), (20, 60), (-600, -20), (-3600, 60)):
        await verifier.verify(signed(key, iat=now + iat, exp=now + exp))
    for iat, exp, expected in (
        (-4200, -3600, TokenExpired), (3600, 4200, NotAuthenticated), (-600, -35, TokenExpired), (40, 600, NotAuthenticated)
    ):  # fmt: skip
        with pytest.raises(expected):
            await verifier.verify(signed(key, iat=now + iat, exp=now + exp))
    with pytest.raises(NotAuthenticated):
        await verifier.verify(signed(key, nbf=now + 3600))


async def test_a_token_that_was_shown_before_still_expires(verifier: Verifier, key: Any, eventually: Any) -> None:
    """What was verified once is remembered; its time is looked at each time."""
    token = signed(key, iat=time.time() - 60, exp=time.time() - 28)
    await verifier.verify(token)

    async def refused() -> bool:
        try:
            await verifier.verify(token)
        except TokenExpired:
            return True
        return False

    await eventually(refused, 10)


async def test_keys_rotate_without_a_restart(verifier: Verifier, file: Path, key: Any) -> None:
    """Tokens of the key before count until the next rotation; those of the one before that do not."""
    old = signed(key)
    await verifier.verify(old)
    rotate_keys(file)
    second = next(iter(read_key_file(file).values()))
    assert second.id != key.id
    for token in (old, signed(second)):
        assert (await verifier.verify(token)).member == "ann"
    rotate_keys(file)
    third = next(iter(read_key_file(file).values()))
    for token in (signed(second), signed(third)):
        assert (await verifier.verify(token)).member == "ann"
    with pytest.raises(NotAuthenticated, match="does not know"):
        await verifier.verify(old)
    assert file.stat().st_mode & 0o777 == 0o600


async def test_a_broken_file_leaves_the_keys_as_they_were(verifier: Verifier, file: Path, key: Any) -> None:
    """An editor's slip cuts nobody off; what cannot be read when a gateway starts ends the start."""
    public_path(file).write_text('{"keys": [')
    assert (await verifier.verify(signed(key))).member == "ann"
    for path, text in ((public_path(file), "JWK set"), (file.with_name("none.json"), "No such file")):
        with pytest.raises(InvalidInput, match=text):
            await FileKeys(path).load()


def test_a_key_file_that_others_may_read_is_refused(file: Path) -> None:
    """Private keys are for one user; public sets are for everybody."""
    file.chmod(0o640)
    with pytest.raises(InvalidInput, match="chmod 600"):
        read_key_file(file)
    public_path(file).chmod(0o644)
    assert read_key_file(public_path(file))
    with pytest.raises(InvalidInput, match="--rotate"):
        write_new_keys(file, "EdDSA")


def test_sets_with_keys_of_other_kinds_are_read_and_weak_secrets_are_not() -> None:
    """Identity providers have keys for encryption beside; a short secret, a doubled id, a key without id are refused."""
    good = make_key("ES256")
    rsa = {"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB", "alg": "RSA-OAEP"}
    assert list(read_keys(json.dumps({"keys": [rsa, good]}))) == [good["kid"]]
    short = {"kty": "oct", "kid": "s", "k": base64.urlsafe_b64encode(os.urandom(16)).decode()}
    for keys in (
        [rsa],
        [short],
        [good, good],
        [{**good, "kid": ""}],
        [{**good, "alg": "HS256"}],
        [{**good, "x": "AA"}],
        [7],
        7,
    ):
        with pytest.raises(InvalidInput):
            read_keys(json.dumps({"keys": keys}))


def test_a_member_speaks_for_itself() -> None:
    """Its own name or none; with `speak` any name that can be one."""
    ann = principal_of({**CLAIMS, "iat": 0, "exp": 1})
    service = principal_of({**CLAIMS, "iat": 0, "exp": 1, "sub": "shop", "cap": ["speak"]})
    assert (ann.speaks_as(None), ann.speaks_as("ann")) == ("ann", "ann")
    assert (service.speaks_as(None), service.speaks_as("bob"), OPEN.speaks_as("bob")) == ("shop", "bob", "bob")
    for name in ("bob", "Ann"):
        with pytest.raises(NotAllowed, match="does not speak for"):
            ann.speaks_as(name)
    for name in ("", "a b", "*", "ann\n"):
        with pytest.raises((NotAllowed, InvalidInput)):
            service.speaks_as(name)


def test_sessions_and_streams_are_those_that_are_granted() -> None:
    """Exact, by beginning, all; a stream without a grant of its own is that of its session."""
    one = principal_of({**CLAIMS, "iat": 0, "exp": 1, "sessions": ["s1", "ann-*"]})
    assert [one.enters(name) for name in ("s1", "ann-", "ann-7", "s10", "S1", "", "*", "bob-1")] == [True] * 3 + [
        False
    ] * 5
    assert [reaches(one, path) for path in ("s1", "sessions/ann-1", "sessions/bob", "other/s1")] == [
        True,
        True,
        False,
        False,
    ]
    assert one.new_session("made") == "ann-made"
    with pytest.raises(NotAllowed):
        principal_of({**CLAIMS, "iat": 0, "exp": 1}).new_session("made")
    streams = principal_of({**CLAIMS, "iat": 0, "exp": 1, "streams": ["docs/ann/*"]})
    assert [reaches(streams, path) for path in ("docs/ann/1", "docs/bob/1", "s1")] == [True, False, False]


def reaches(principal: Any, path: str) -> bool:
    try:
        principal.reach(path)
    except NotAllowed:
        return False
    return True


def test_what_a_person_gets_is_less_than_there_is() -> None:
    """Speaking for others, deleting and operating are given by name only."""
    assert set(CAPABILITIES) - set(DEFAULT_CAPABILITIES) == {"speak", "admin", "operate"}


def test_minting_refuses_what_no_gateway_would_take(key: Any, file: Path) -> None:
    """At the place where it can be repaired."""
    for wrong in (
        {"member": "a.b"}, {"sessions": ["a b"]}, {"capabilities": ["root"]}, {"agents": ["*"]}, {"streams": ["/x"]}
    ):  # fmt: skip
        about: dict[str, Any] = {"member": "ann", "sessions": ["s"], **wrong}
        with pytest.raises(InvalidInput):
            mint(key, about.pop("member"), **about)
    with pytest.raises(InvalidInput, match="public key"):
        mint(next(iter(read_key_file(public_path(file)).values())), "ann", sessions=["s"])
