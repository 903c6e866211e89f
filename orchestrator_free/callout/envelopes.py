"""What goes between the broker and the service: NATS's own JSON Web Tokens (`ed25519-nkey`), sealed with curve keys.

The library nkeys signs and knows no curve keys; PyNaCl, on which it builds, has both.
"""

from __future__ import annotations

import base64
import hashlib
import time
from functools import lru_cache
from typing import Any, Final

import nkeys
import orjson
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey
from nacl.signing import SigningKey, VerifyKey

from orchestrator_free.brokerdir.seeds import decode_curve
from orchestrator_free.errors import InvalidInput

_HEADER: Final = {"typ": "JWT", "alg": "ed25519-nkey"}
_SEALED: Final = b"xkv1"
_NONCE: Final = 24
#: a broker's servers, of which each question names one; they make new keys when they start
_SERVERS: Final = 256
_SERVER: Final = nkeys.PREFIX_BYTE_SERVER


def sign(claims: dict[str, Any], issuer: str, key: SigningKey) -> str:
    """Return claims as a signed token of an account."""
    found = {"iss": issuer, "iat": int(time.time()), **claims}
    found["jti"] = hashlib.sha256(orjson.dumps(found)).hexdigest()
    body = f"{_text(orjson.dumps(_HEADER))}.{_text(orjson.dumps(found))}"
    return f"{body}.{_text(key.sign(body.encode()).signature)}"


def read_request(token: bytes) -> dict[str, Any]:
    """Return the claims of a server's question.

    Raises:
        InvalidInput: it is none, or the server that it names has not signed it.
    """
    try:
        body, _, signature = token.rpartition(b".")
        head, _, payload = body.partition(b".")
        claims: dict[str, Any] = orjson.loads(_bytes(payload))
        if orjson.loads(_bytes(head)) != _HEADER:
            raise ValueError
        _server_key(claims["iss"]).verify(body, _bytes(signature))
        nats = claims["nats"]
        if nats["type"] != "authorization_request" or nats["server_id"]["id"] != claims["iss"]:
            raise ValueError
    except (ValueError, KeyError, TypeError, CryptoError) as error:
        raise InvalidInput("not the question of a server") from error
    return claims


@lru_cache(_SERVERS)
def _server_key(text: str) -> VerifyKey:
    raw = base64.b32decode(text + "=" * (-len(text) % 8))
    if raw[0] != _SERVER or nkeys.crc16_checksum(raw[:-2]) != raw[-2:]:
        raise ValueError
    return VerifyKey(raw[1:-2])


def signed_by(nkey: str, nonce: str, signature: str) -> bool:
    """Whether a user's key has signed what the server had asked for."""
    try:
        raw = base64.b32decode(nkey + "=" * (-len(nkey) % 8))
        if raw[0] != nkeys.PREFIX_BYTE_USER or not nonce:
            return False
        VerifyKey(raw[1:-2]).verify(nonce.encode(), _bytes(signature.replace("+", "-").replace("/", "_").encode()))
    except (ValueError, IndexError, CryptoError):
        return False
    return True


def seal(data: bytes, ours: PrivateKey, theirs: str) -> bytes:
    """Encrypt for a curve key, as nkeys of other languages do."""
    return _SEALED + bytes(_box(ours, theirs).encrypt(data))


def unseal(data: bytes, ours: PrivateKey, theirs: str) -> bytes:
    """Decrypt what a curve key has sent.

    Raises:
        InvalidInput: it was not sent by it, or not to us.
    """
    if not data.startswith(_SEALED) or len(data) < len(_SEALED) + _NONCE:
        raise InvalidInput("a question that is not encrypted")
    try:
        return bytes(_box(ours, theirs).decrypt(data[len(_SEALED) :]))
    except CryptoError as error:
        raise InvalidInput("a question that was encrypted for somebody else") from error


@lru_cache(_SERVERS)
def _box(ours: PrivateKey, theirs: str) -> Box:
    """Return what two keys share; it takes as long to compute as all the rest of an envelope."""
    return Box(ours, PublicKey(decode_curve(theirs)))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text.rstrip(b"=") + b"=" * (-len(text.rstrip(b"=")) % 4))
