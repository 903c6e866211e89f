"""Keys that sign tokens, and files of them: a private JWK set, its public one beside it, rotation.

A key is for one algorithm, which follows from what it is, never from what a token says of itself. The first key of a
file signs; the others only verify what they have signed before. RSA keys are those of identity providers: they verify.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm
from jwt.exceptions import InvalidKeyError, PyJWKError

from orchestrator_free.errors import InvalidInput

#: of keys that are made here
Made = Literal["EdDSA", "ES256", "HS256"]
Algorithm = Made | Literal["RS256", "PS256"]

#: what a key is -> the algorithms it may be for, the first where it does not say
_ALGORITHMS: Final[dict[tuple[str, str], tuple[Algorithm, ...]]] = {
    ("OKP", "Ed25519"): ("EdDSA",),
    ("EC", "P-256"): ("ES256",),
    ("RSA", ""): ("RS256", "PS256"),
    ("oct", ""): ("HS256",),
}
#: what else RSA keys of a set may be for
_OTHER_RSA: Final = ("RS384", "RS512", "PS384", "PS512", "RSA-OAEP", "RSA-OAEP-256", "RSA1_5")
#: the key of a PEM file, which has no id: it verifies whatever a token says of its key
ANY: Final = ""
_RSA_BITS: Final = range(2048, 8193)
_SECRET_BYTES: Final = 32
#: a rotated file keeps so many keys: tokens of the one before count until they expire
_KEPT: Final = 2
_PUBLIC: Final = ".public.json"
_LARGEST: Final = 256 * 1024
_OTHERS: Final = 0o077


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a set.

    Attributes:
        id: its `kid`.
        algorithm: the only one it is for.
        verifying: what verifies.
        signing: what signs; None in a public set.
    """

    id: str
    algorithm: Algorithm
    verifying: Any
    signing: Any = None

    @property
    def secret(self) -> bool:
        """Whether it verifies with what it signs with, so that who checks tokens could make them."""
        return self.algorithm == "HS256"


def read_key(about: object) -> Key:
    """Read a JWK.

    Raises:
        InvalidInput: it is none, or none that is understood.
    """
    if not isinstance(about, dict) or not isinstance(about.get("kid"), str) or not about["kid"]:
        raise InvalidInput("a key without `kid`: tokens say by it which key signed them")
    name = about["kid"][:40]
    known = _algorithms(about)
    if not known:
        kind = f"{about.get('kty')} {about.get('crv', '')}".strip()
        raise InvalidInput(f"key {name!r} is {kind}; there are Ed25519, P-256, RSA and oct keys")
    algorithm = next((one for one in known if about.get("alg", one) == one), None)
    if algorithm is None or about.get("use", "sig") != "sig":
        raise InvalidInput(f"key {name!r} is not for signatures with {' or '.join(known)}")
    try:
        key = PyJWK(about, algorithm=algorithm).key
    except (InvalidKeyError, PyJWKError, ValueError, TypeError, KeyError) as error:
        raise InvalidInput(f"key {name!r} cannot be read: {type(error).__name__}") from None
    if about["kty"] == "RSA":
        return Key(about["kid"], algorithm, _checked(name, key))
    if algorithm == "HS256":
        if len(key) < _SECRET_BYTES:
            raise InvalidInput(f"key {about['kid'][:40]!r} has {len(key)} bytes; HS256 needs {_SECRET_BYTES}")
        return Key(about["kid"], algorithm, key, key)
    if "d" in about:
        return Key(about["kid"], algorithm, key.public_key(), key)
    return Key(about["kid"], algorithm, key)


def _algorithms(about: Any) -> tuple[Algorithm, ...]:
    return _ALGORITHMS.get((str(about.get("kty")), str(about.get("crv", ""))), ())


def _checked(name: str, key: Any) -> rsa.RSAPublicKey:
    """Return an RSA key that may verify.

    Raises:
        InvalidInput: it is private, or so short that it can be broken, or so long that it is a burden.
    """
    if not isinstance(key, rsa.RSAPublicKey):
        raise InvalidInput(f"key {name!r} is a private RSA key; no token is made with it here: pass its public half")
    if key.key_size not in _RSA_BITS:
        raise InvalidInput(f"key {name!r} has {key.key_size} bits; RSA keys have {_RSA_BITS[0]} to {_RSA_BITS[-1]}")
    return key


def read_pem(text: bytes) -> dict[str, Key]:
    """Read a public key, or a certificate, in PEM: the only key, whatever id a token names.

    Raises:
        InvalidInput: it is none, or none that is understood.
    """
    try:
        found: Any = (
            x509.load_pem_x509_certificate(text).public_key()
            if b"BEGIN CERTIFICATE" in text
            else load_pem_public_key(text)
        )
    except ValueError:
        raise InvalidInput("no public key and no certificate in PEM; a private key is not for here") from None
    if isinstance(found, rsa.RSAPublicKey):
        return {ANY: Key(ANY, "RS256", _checked("of the file", found))}
    if isinstance(found, ed25519.Ed25519PublicKey):
        return {ANY: Key(ANY, "EdDSA", found)}
    if isinstance(found, ec.EllipticCurvePublicKey) and isinstance(found.curve, ec.SECP256R1):
        return {ANY: Key(ANY, "ES256", found)}
    raise InvalidInput("the key in PEM is for none of RS256 (RSA), ES256 (P-256) and EdDSA (Ed25519)")


def read_keys(text: bytes | str) -> dict[str, Key]:
    """Read a JWK set: its keys by id, in order; keys for other algorithms are left out.

    Raises:
        InvalidInput: it is none, two keys share an id, or no key is left.
    """
    try:
        ours = [about for about in json.loads(text)["keys"] if _is_for_us(about)]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidInput('no JWK set: a JSON object as {"keys": [...]}') from None
    keys = {key.id: key for key in map(read_key, ours)}
    if len(keys) < len(ours):
        raise InvalidInput("two keys of the set have the same `kid`")
    if not keys:
        raise InvalidInput(
            "the JWK set has no key for EdDSA (Ed25519), ES256 (P-256), RS256, PS256 (RSA) or HS256 (oct)"
        )
    return keys


def _is_for_us(about: Any) -> bool:
    """Whether a key may verify our tokens: sets of identity providers have keys of other kinds, too."""
    return bool(_algorithms(about)) and about.get("use", "sig") == "sig" and about.get("alg") not in _OTHER_RSA


def read_key_file(path: Path) -> dict[str, Key]:
    """Read a file of keys, private or public; or a public key in PEM.

    Raises:
        InvalidInput: it cannot be read, or others may read its secrets.
    """
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            text = file.read(_LARGEST)
    except OSError as error:
        raise InvalidInput(f"cannot read the keys in {str(path)!r}: {error.strerror}") from error
    try:
        keys = read_pem(text) if text.lstrip().startswith(b"-----BEGIN") else read_keys(text)
    except InvalidInput as error:
        raise InvalidInput(f"{str(path)!r}: {error}") from error
    if os.name == "posix" and mode & _OTHERS and any(key.signing is not None for key in keys.values()):
        raise InvalidInput(
            f"{str(path)!r} holds private keys and others may read it; chmod 600 it, or use its public set"
        )
    return keys


def public_path(path: Path) -> Path:
    """Return where the public set of a key file is."""
    return path.with_name(path.name.removesuffix(".json") + _PUBLIC)


def make_key(algorithm: Made) -> dict[str, Any]:
    """Return a new private JWK."""
    about = {"kid": secrets.token_hex(8), "alg": algorithm, "use": "sig"}
    if algorithm == "EdDSA":
        return about | OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate(), as_dict=True)
    if algorithm == "ES256":
        return about | ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    made = HMACAlgorithm.to_jwk(secrets.token_bytes(_SECRET_BYTES), as_dict=True)
    return about | {name: value for name, value in made.items() if name in ("kty", "k")}


def write_new_keys(path: Path, algorithm: Made) -> list[Path]:
    """Make a file with one key, mode 0600, and its public set beside it; return the files.

    Raises:
        InvalidInput: there is a file already.
    """
    if path.exists():
        raise InvalidInput(f"{str(path)!r} is there already; pass --rotate to put a new key in front of those in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    return _write(path, [make_key(algorithm)])


def rotate_keys(path: Path, algorithm: Made | None = None) -> list[Path]:
    """Put a new key in front; the one before stays, so that its tokens count until they expire. Return the files.

    Raises:
        InvalidInput: the file cannot be read.
    """
    first = next(iter(read_key_file(path).values()))
    listed = json.loads(path.read_bytes())["keys"]
    chosen = next((one for one in get_args(Made) if one == (algorithm or first.algorithm)), None)
    if chosen is None:
        raise InvalidInput(f"{str(path)!r} has keys for {first.algorithm}, which are not made here")
    return _write(path, [make_key(chosen), *listed][:_KEPT])


def _write(path: Path, keys: list[dict[str, Any]]) -> list[Path]:
    _put(path, keys, 0o600)
    shown = [{name: one[name] for name in one if name != "d"} for one in keys if one["kty"] != "oct"]
    if not shown:
        return [path]
    _put(public_path(path), shown, 0o644)
    return [path, public_path(path)]


def _put(path: Path, keys: Iterable[dict[str, Any]], mode: int) -> None:
    """Replace a file at once: whoever reads it meanwhile finds the old set or the new one."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(json.dumps({"keys": list(keys)}, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
