"""Tokens of identity providers: RSA keys as their sets have them, claims as they write them; and what must not pass."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from orchestrator_free.errors import InvalidInput, NotAuthenticated, TokenExpired
from orchestrator_free.identity.claims import Reading, parse_reading, token_id
from orchestrator_free.identity.keys import make_key, read_key_file, read_keys
from orchestrator_free.identity.keysets import FileKeys
from orchestrator_free.identity.tokens import Verifier, id_of

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text()
ISSUER, AUDIENCE = "https://id.example.com/realms/acme", "orchestrator-free"
OURS = {"sub": "ann", "jti": "j1", "cap": ["read"], "sessions": ["s1"]}


@cache
def private(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def jwk(key: Any = None, **more: Any) -> dict[str, Any]:
    """A public RSA key as a set has it; None leaves a field out."""
    public = (key or private()).public_key()
    made = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)
    about = {name: made[name] for name in ("kty", "n", "e")} | {"kid": "r1", "use": "sig", "alg": "RS256"} | more
    return {name: value for name, value in about.items() if value is not None}


def signed(algorithm: str = "RS256", kid: str | None = "r1", key: Any = None, **claims: Any) -> str:
    now = int(time.time())
    said = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 60, **OURS, **claims}
    said = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(said, key or private(), algorithm=algorithm, headers={"kid": kid} if kid is not None else {})


async def verifier(path: Path, keys: Any, reading: Reading | None = None) -> Verifier:
    """A verifier over a file: a JWK set, or PEM."""
    file = path / "keys"
    file.write_bytes(keys if isinstance(keys, bytes) else json.dumps({"keys": keys}).encode())
    found = FileKeys(file)
    await found.load()
    return Verifier(found, issuer=ISSUER, audience=AUDIENCE, reading=reading)


def pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    found: bytes = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    return found


SHAPES: dict[str, list[dict[str, Any]]] = {
    "Auth0, with its certificate": [jwk(x5c=["MIIC"], x5t="abc")],
    "Entra, without an algorithm": [jwk(alg=None, x5t="abc")],
    "Keycloak, with a key for encryption": [jwk(kid="enc", use="enc", alg="RSA-OAEP"), jwk()],
    "Google, two keys": [jwk(private(3072), kid="r0"), jwk()],
    "with RS512 beside": [jwk(kid="r5", alg="RS512"), jwk()],
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_rsa_keys_of_providers_verify(tmp_path: Path, shape: str) -> None:
    """RS256 with sets as the providers serve them."""
    assert (await (await verifier(tmp_path, SHAPES[shape])).verify(signed())).member == "ann"


async def test_ps256_is_for_keys_that_say_so(tmp_path: Path) -> None:
    """A key is for one algorithm: PS256 does not pass where RS256 does, nor the other way round."""
    either = await verifier(tmp_path, [jwk(), jwk(kid="p1", alg="PS256")])
    assert (await either.verify(signed())).member == "ann"
    assert (await either.verify(signed("PS256", "p1"))).member == "ann"
    for algorithm, kid in (("PS256", "r1"), ("RS256", "p1"), ("RS384", "r1"), ("RS512", "r1")):
        with pytest.raises(NotAuthenticated):
            await either.verify(signed(algorithm, kid))


async def test_one_public_key_in_pem_verifies_whatever_kid_a_token_has(tmp_path: Path) -> None:
    """RSA and Ed25519; another key's token does not pass; a private key is refused."""
    only = await verifier(tmp_path, pem(private()))
    for kid in ("r1", "other", None):
        assert (await only.verify(signed(kid=kid))).member == "ann"
    for token in (signed(key=private(3072)), signed("PS256")):
        with pytest.raises(NotAuthenticated):
            await only.verify(token)
    ed = ed25519.Ed25519PrivateKey.generate()
    assert (await (await verifier(tmp_path, pem(ed))).verify(signed("EdDSA", key=ed))).member == "ann"
    form = serialization.PrivateFormat.PKCS8
    secret = private().private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (tmp_path / "secret").write_bytes(secret)
    with pytest.raises(InvalidInput, match="private"):
        read_key_file(tmp_path / "secret")


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], secret: bytes | None) -> str:
    """A token no library would make."""
    now = int(time.time())
    said = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 60, **OURS}
    body = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(said).encode())}"
    return f"{body}.{'' if secret is None else b64(hmac.new(secret, body.encode(), hashlib.sha256).digest())}"


async def test_no_algorithm_is_taken_for_another(tmp_path: Path) -> None:
    """`none`; the public RSA key in every form as a secret of HS256; keys of a mixed set for each other's tokens."""
    ours, secret = make_key("EdDSA"), make_key("HS256")
    shown = {name: value for name, value in ours.items() if name != "d"}
    (tmp_path / "keys").touch(0o600)
    mixed = await verifier(tmp_path, [jwk(), shown, secret])
    public, spki = private().public_key(), serialization.PublicFormat.SubjectPublicKeyInfo
    der = public.public_bytes(serialization.Encoding.DER, spki)
    pkcs1 = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
    number = public.public_numbers().n.to_bytes(256, "big")
    forms = [
        pem(private()),
        pem(private()).strip(),
        der,
        pkcs1,
        number,
        jwk()["n"].encode(),
        json.dumps(jwk()).encode(),
    ]
    attacks = [by_hand({"alg": alg, "kid": "r1"}, form) for form in forms for alg in ("HS256", "RS256", "hs256")]
    attacks += [by_hand({"alg": alg, "kid": "r1"}, None) for alg in ("none", "None", "NONE", "")]
    attacks += [
        by_hand({"kid": "r1"}, None),
        by_hand({"alg": "HS256", "kid": ours["kid"]}, base64.urlsafe_b64decode(ours["x"] + "=")),
        signed("RS256", ours["kid"]), signed("RS256", secret["kid"]), signed("PS256", secret["kid"]),
        signed("EdDSA", "r1", ed25519.Ed25519PrivateKey.generate()),
        signed(key=private(3072)), signed(kid="unknown"), signed(kid=""),
    ]  # fmt: skip
    for token in attacks:
        with pytest.raises(NotAuthenticated):
            await mixed.verify(token)
            pytest.fail(token)
    assert (await mixed.verify(signed())).member == "ann"  # it does say yes


def test_weak_and_private_rsa_keys_are_refused() -> None:
    """By name: below 2048 bits, private, for an algorithm that RSA keys cannot be for."""
    whole = jwt.algorithms.RSAAlgorithm.to_jwk(private(), as_dict=True) | {"kid": "whole"}
    for about, words in (
        (jwk(private(1024)), "1024 bits"), (whole, "private"), (jwk(alg="HS256"), "r1"), (jwk(alg="EdDSA"), "r1"),
        (jwk(n="AQAB"), "r1"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=words):
            read_keys(json.dumps({"keys": [about]}))
    with pytest.raises(InvalidInput, match="no key"):
        read_keys(json.dumps({"keys": [jwk(alg="RS512")]}))


# -- what their claims mean -----------------------------------------------------------------------------------------

#: claims as each provider writes them, and the member that they are
SAMPLES: dict[str, tuple[dict[str, Any], str]] = {
    "Auth0": ({"sub": "auth0|5f7c", "permissions": ["support"], "scope": "openid"}, "auth0_7C5f7c"),
    "Okta": ({"sub": "ann@example.com", "uid": "00u1abcDEF", "scp": ["openid"], "groups": ["support"]}, "00u1abcDEF"),
    "Cognito": ({"sub": "6f1c8a0e-11", "cognito:groups": ["support"], "token_use": "id"}, "6f1c8a0e-11"),
    "Keycloak": ({"sub": "6f1c8a0e-12", "realm_access": {"roles": ["offline_access", "support"]}}, "6f1c8a0e-12"),
    "Entra ID": ({"sub": "x_Y-z", "oid": "6f1c8a0e-13", "roles": ["support"]}, "6f1c8a0e-13"),
    "Google": ({"sub": "110169484474386276334", "email": "ann@example.com"}, "110169484474386276334"),
}
FILE = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]  # type: ignore[index]


def rows() -> dict[str, list[str]]:
    """The table of providers in the page: what `member` and `roles` are."""
    found = re.findall(r"^\| (Auth0|Okta|Cognito|Keycloak|Entra ID|Google)[^|]*\|(.*)\|$", PAGE, re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in found}


@pytest.mark.parametrize("provider", SAMPLES)
async def test_the_page_has_what_each_provider_needs(tmp_path: Path, provider: str) -> None:
    """The file of the page, changed as its table says: a real token of that shape is a member with its role."""
    *_, member, roles = rows()[provider]
    text = FILE.replace('member = "sub"', "member = " + re.findall(r'`("\w+")`', member)[0])
    text = "escape = true\n" + text if "escape" in member else text
    text = text.replace('["realm_access", "roles"]', roles.strip("`")) if roles else text.partition("[claims]")[0]
    claims, name = SAMPLES[provider]

    checks = await verifier(tmp_path, [jwk(alg=None)], parse_reading(text))
    found = await checks.verify(signed(**dict.fromkeys(OURS) | claims))

    assert found.member == name
    assert found.enters(f"{name}-1") and found.enters("other") == bool(roles)
    assert ("handoff" in found.capabilities) == bool(roles)
    assert "admin" not in found.capabilities and found.token


async def test_what_the_file_does_not_name_grants_nothing(tmp_path: Path) -> None:
    """A token's own `cap` and `sessions`, a role nobody named, another audience: nothing of it counts."""
    reading = parse_reading('capabilities = ["read"]\nsessions = ["{member}-*"]')
    checks = await verifier(tmp_path, [jwk()], reading)
    found = await checks.verify(signed(cap=["admin"], sessions=["*"], roles=["admin"], agents=["x"], streams=["*"]))
    assert (found.capabilities, found.sessions, found.agents, found.streams) == ({"read"}, ("ann-*",), None, None)
    for claims in (
        {"aud": "another"}, {"iss": "https://evil.example"}, {"sub": None}, {"sub": "a.b"}, {"sub": "a|b"}, {"exp": None},
        {"sub": "*"}, {"sub": "a" * 65}, {"iat": None}, {"aud": None},
    ):  # fmt: skip
        with pytest.raises(NotAuthenticated):
            await checks.verify(signed(**claims))
            pytest.fail(str(claims))
    with pytest.raises(TokenExpired):
        await checks.verify(signed(exp=int(time.time()) - 60))


async def test_sessions_come_from_a_claim(tmp_path: Path) -> None:
    """As in a token of ours, a list or words; what can be no session is refused, and so is a token without any."""
    reading = parse_reading('capabilities = ["read"]\n[claims]\nsessions = "https://acme.example/sessions"')
    checks = await verifier(tmp_path, [jwk()], reading)
    where = "https://acme.example/sessions"
    for said in (["s1", "team-*"], "s1 team-*"):
        assert (await checks.verify(signed(**{where: said}))).sessions == ("s1", "team-*")
    for bad in ([], None, ["a.b"], [">"], [1], {"s1": True}, 7):
        with pytest.raises(NotAuthenticated):
            await checks.verify(signed(**{where: bad}))
            pytest.fail(str(bad))


def test_escaped_names_never_meet() -> None:
    """Different subjects are different members, whatever is in them."""
    reading = parse_reading('escape = true\nsessions = ["*"]')
    subjects = ["a_b", "a|b", "a_7Cb", "a b", "ä", "a", "_", "__", "_5F", "a.b", "A_b"]
    names = {reading.read({"sub": subject}, "t")["sub"] for subject in subjects}
    assert len(names) == len(subjects)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names)


async def test_a_token_without_an_id_can_be_revoked(tmp_path: Path) -> None:
    """It is known by its hash, to the gateway as to who revokes it."""
    checks = await verifier(tmp_path, [jwk()], parse_reading('sessions = ["s1"]'))
    token = signed(jti=None)
    assert (await checks.verify(token)).token == id_of(token)[0] == token_id(token)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "'x'"), ("member = 1", "member"), ("member = []", "member"), ("escape = 1", "escape"),
        ('capabilities = ["fly"]', "fly"), ('capabilities = "read"', "list"), ('sessions = ["a.b"]', "a.b"),
        ("[claims]\nrole = 'r'", "'role'"), ("[claims]\nroles = 'r'", "both"), ("[roles.a]\ncapabilities=[]", "both"),
        ("[claims]\nroles='r'\n[roles.a]\ncap=['read']", "'cap'"), ("[claims]\nroles='r'\n[roles]\na=1", "table"),
        ("claims = 1", "tables"), ("= =", "TOML"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_says_what_is_wrong(text: str, words: str) -> None:
    """Nothing is repaired quietly."""
    with pytest.raises(InvalidInput, match=re.escape(words)):
        parse_reading(text)
