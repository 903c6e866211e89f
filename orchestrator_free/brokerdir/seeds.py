"""Keys of users as files: the seed in a file of mode 0600 that nobody prints, the public key for the configuration."""

from __future__ import annotations

import base64
import os
import secrets
import stat
from pathlib import Path
from typing import Final, Literal

import nkeys
from nacl.public import PrivateKey

from orchestrator_free.errors import InvalidInput

Kind = Literal["user", "account", "curve"]

_CURVE: Final = 23 << 3  # X…, which the library nkeys does not know
_PREFIXES: Final[dict[Kind, int]] = {
    "user": nkeys.PREFIX_BYTE_USER,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    "curve": _CURVE,
}
_SEED_BYTES: Final = 32


def make_seed(path: Path, kind: Kind = "user") -> str:
    """Write a new seed, replacing the one that is there; return its public key."""
    write_secret(path, _encode(kind, secrets.token_bytes(_SEED_BYTES)) + b"\n")
    return public_key(path)


def public_key(path: Path) -> str:
    """Return the public key of a seed file.

    Raises:
        InvalidInput: it cannot be read, holds no seed, or others may read it.
    """
    prefix, raw = read_seed(path)
    if prefix == _CURVE:
        return encode_key(_CURVE, bytes(PrivateKey(raw).public_key))
    pair = nkeys.from_seed(bytearray(path.read_bytes().strip()))
    return str(pair.public_key.decode())


def read_seed(path: Path) -> tuple[int, bytes]:
    """Return kind and raw bytes of a seed.

    Raises:
        InvalidInput: as for `public_key`.
    """
    try:
        mode, text = path.stat().st_mode, path.read_bytes().strip()
    except OSError as error:
        raise InvalidInput(f"cannot read the key in {str(path)!r}: {error.strerror}") from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise InvalidInput(f"{str(path)!r} holds a secret and others may read it: chmod 600 it")
    try:
        raw = base64.b32decode(text + b"=" * (-len(text) % 8))
        body, checksum = raw[:-2], raw[-2:]
        if (
            len(raw) != _SEED_BYTES + 4
            or nkeys.crc16_checksum(body) != checksum
            or body[0] & 0xF8 != nkeys.PREFIX_BYTE_SEED
        ):
            raise ValueError
    except ValueError:
        raise InvalidInput(f"{str(path)!r} holds no nkey seed") from None
    return (body[0] & 7) << 5 | body[1] >> 3, body[2:]


def _encode(kind: Kind, raw: bytes) -> bytes:
    prefix = _PREFIXES[kind]
    body = bytes((nkeys.PREFIX_BYTE_SEED | prefix >> 5, (prefix & 31) << 3)) + raw
    return base64.b32encode(body + nkeys.crc16_checksum(body)).rstrip(b"=")


def encode_key(prefix: int, raw: bytes) -> str:
    """Return a public key as text."""
    body = bytes((prefix,)) + raw
    return base64.b32encode(body + nkeys.crc16_checksum(body)).rstrip(b"=").decode()


def decode_curve(key: str) -> bytes:
    """Return the raw bytes of a public curve key.

    Raises:
        InvalidInput: it is none.
    """
    try:
        raw = base64.b32decode(key + "=" * (-len(key) % 8))
    except ValueError:
        raw = b""
    if len(raw) != _SEED_BYTES + 3 or raw[0] != _CURVE or nkeys.crc16_checksum(raw[:-2]) != raw[-2:]:
        raise InvalidInput("no public curve key")
    return raw[1:-2]


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, at once: no moment in which it is there with other rights."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
