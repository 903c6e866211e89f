"""Who a prompt says has sent it (protocol section 13): a signature that is there has to be right, and fresh.

The header's grammar and what is signed are the protocol's own library's. A nonce counts once per door within the time
that a signature counts.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator_free.errors import InvalidInput, OrchestratorFreeError
from orchestrator_free.synadia.frames import Code

_HEADER: Final = b"Agent-Sender:"
#: a signature counts for 30 s before and after the time in it
_REMEMBERED_SECONDS: Final = 90.0


class SenderRefused(OrchestratorFreeError):  # noqa: N818 - what the caller is told
    """A header that is malformed, or a signature that does not count, or one that is missing."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code: Code = code


@dataclass(slots=True)
class Senders:
    """Looks at the senders of prompts.

    Attributes:
        required: whether a prompt without a signature is refused.
    """

    required: bool = False
    _library: Any = field(init=False)
    _seen: OrderedDict[tuple[str, str], float] = field(init=False, default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._library = library()

    def check(self, subject: str, payload: bytes, header: bytes) -> dict[str, str] | None:
        """Return account, user (its public key, proven) and name of who signed a prompt; None where nobody did.

        Raises:
            SenderRefused: the prompt must not be answered.
        """
        found = self._verified(subject, payload, header)
        if found is None:
            if self.required:
                raise SenderRefused(401, "signature required")
            return None
        about = {"account": found.header.account, "user": found.header.user, "name": found.name}
        return {name: value for name, value in about.items() if value}

    def _verified(self, subject: str, payload: bytes, header: bytes) -> Any:
        identity, errors = self._library.identity, self._library.errors
        values = [line[len(_HEADER) :].strip() for line in header.split(b"\r\n") if line.startswith(_HEADER)]
        try:
            value = identity.read_sender_header_value({"Agent-Sender": [one.decode() for one in values]})
            said = None if value is None else identity.parse_sender_header(value)
            if said is None:
                return None
            found = identity.verify_sender_header(said, subject, payload, mode="live", nonce_seen=self._was_seen)
        except (errors.MalformedSenderHeaderError, UnicodeDecodeError) as error:
            raise SenderRefused(400, "malformed Agent-Sender header") from error
        except errors.SenderVerificationError as error:
            raise SenderRefused(401, "sender rejected") from error
        if not isinstance(found, identity.VerifiedSender):
            return None  # a claim that nobody has signed says nothing
        self._seen[said.user, said.nonce] = time.monotonic() + _REMEMBERED_SECONDS
        return found

    def _was_seen(self, user: str, nonce: str) -> bool:
        while self._seen and next(iter(self._seen.values())) < time.monotonic():
            self._seen.popitem(last=False)
        return (user, nonce) in self._seen


def library() -> Any:
    """Return the protocol's own package.

    Raises:
        InvalidInput: the extra `synadia` is not installed.
    """
    try:
        from synadia_ai import agents
        from synadia_ai.agents import identity  # noqa: F401 - an attribute of it then
    except ImportError as error:
        raise InvalidInput(
            "the package synadia-ai-agents is missing: pip install orchestrator-free[synadia]"
        ) from error
    return agents
