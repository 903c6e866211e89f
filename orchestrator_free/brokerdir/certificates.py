"""An authority and a server certificate for one broker: made and renewed with one command, no openssl needed.

The authority's key stays in the folder; clients get `ca.pem` only. EC P-256, as every TLS library takes it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator_free.brokerdir.seeds import write_secret
from orchestrator_free.errors import InvalidInput

AUTHORITY: Final = "ca.pem"
AUTHORITY_KEY: Final = "ca-key.pem"
SERVER: Final = "server.pem"
SERVER_KEY: Final = "server-key.pem"
_AUTHORITY_DAYS: Final = 3650
_SERVER_DAYS: Final = 397  # what the strictest clients take
#: a certificate that ends within so many days is to be renewed
RENEW_DAYS: Final = 30
#: names under which a server on this machine is reached
LOCAL: Final = ("localhost", "127.0.0.1", "::1")
_SKEW: Final = timedelta(minutes=5)


def ensure(folder: Path, names: Iterable[str]) -> list[str]:
    """Make what is missing: an authority, a certificate for these names that lasts. Return what was made."""
    hosts, told = list(names), []
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / AUTHORITY).exists():
        make_authority(folder)
        told.append(f"made an authority, {folder.name}/{AUTHORITY}: clients get this file")
    if not covers(folder, hosts):
        make_server_certificate(folder, hosts)
        told.append(f"made a certificate until {expiry(folder):%Y-%m-%d} for {', '.join(hosts)}")
    return told


def make_authority(folder: Path) -> None:
    """Make the authority that clients are given."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "orchestrator-free broker authority")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    found = (
        _builder(name, name, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(folder / AUTHORITY_KEY, key)
    (folder / AUTHORITY).write_bytes(found.public_bytes(Encoding.PEM))


def make_server_certificate(folder: Path, names: Iterable[str]) -> None:
    """Make a certificate of the authority for these host names and addresses; replaces the one that is there.

    Raises:
        InvalidInput: the authority's key is not in the folder.
    """
    authority, signer = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    hosts = list(names)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    issuer_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    found = (
        _builder(name, authority.subject, key.public_key(), _SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write_key(folder / SERVER_KEY, key)
    (folder / SERVER).write_bytes(found.public_bytes(Encoding.PEM))


def covers(folder: Path, names: Iterable[str], *, now: datetime | None = None) -> bool:
    """Whether the certificate in the folder is for all these names and lasts; False if there is none."""
    if not all((folder / file).exists() for file in (SERVER, SERVER_KEY)):
        return False
    found = x509.load_pem_x509_certificate((folder / SERVER).read_bytes())
    alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasts = found.not_valid_after_utc - timedelta(days=RENEW_DAYS) > (now or datetime.now(UTC))
    return lasts and {_name(host) for host in names} <= set(alternative)


def expiry(folder: Path) -> datetime:
    """Return when the server's certificate ends."""
    return x509.load_pem_x509_certificate((folder / SERVER).read_bytes()).not_valid_after_utc


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((folder / AUTHORITY).read_bytes())
        key = load_pem_private_key((folder / AUTHORITY_KEY).read_bytes(), None)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"the authority in {folder} cannot be used ({error}): restore {AUTHORITY_KEY}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise InvalidInput(f"{AUTHORITY_KEY} in {folder} is not the key of {AUTHORITY}")
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
