"""What is said on the wire of the Synadia Agent Protocol 0.3: prompts in, chunks out, who is there; pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator_free.errors import InvalidInput
from orchestrator_free.subjects import TOKEN

_NAME: Final = f"^{TOKEN.pattern}$"
PROTOCOL: Final = "0.3"
SERVICE: Final = "agents"
#: queue group of whoever answers prompts, as the protocol fixes it
QUEUE: Final = "agents"
#: no chunk for so long, and callers give up after twice that
KEEP_ALIVE_SECONDS: Final = 30
#: the name of a registration whose every prompt begins a session of its own
NEW: Final = "new"

#: the codes that the protocol knows
Code = Literal[400, 401, 403, 404, 409, 429, 500]

ACK: Final = orjson.dumps({"type": "status", "data": "ack"})
#: ends an answer, after errors too: nothing at all, and no header
END: Final = b""


class Attachment(BaseModel):
    """A file that comes with a prompt."""

    filename: str = Field(min_length=1, max_length=255)
    content: str

    def data(self) -> bytes:
        """Return its bytes.

        Raises:
            InvalidInput: the content is not base64.
        """
        try:
            return base64.b64decode(self.content, validate=True)
        except binascii.Error as error:
            raise InvalidInput(f"attachment {self.filename!r} is not base64 (RFC 4648, padded): {error}") from error


class Resume(BaseModel):
    """Of an answer that broke off: which prompt, and how much text of it has come."""

    input: str = Field(pattern=_NAME)
    characters: int = Field(ge=0)


class Prompt(BaseModel):
    """A prompt; unknown fields pass, as the protocol wants it.

    Attributes:
        id: ours: sent again under the same id, it is asked once.
        resume: ours: go on with an earlier answer instead of asking.
    """

    model_config = ConfigDict(extra="allow")

    prompt: str = ""
    attachments: list[Attachment] = []
    id: str | None = Field(None, pattern=_NAME)
    resume: Resume | None = None


def read_prompt(payload: bytes) -> Prompt:
    """Return the prompt in a request: JSON if it begins with a brace, else text.

    Raises:
        InvalidInput: it says nothing, or is malformed.
    """
    try:
        found = (
            Prompt.model_validate_json(payload)
            if payload.lstrip(b" \t\r\n")[:1] == b"{"
            else Prompt.model_validate({"prompt": payload.decode()})
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the envelope"
        raise InvalidInput(f"{where}: {first['msg']}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput("the prompt is neither JSON nor UTF-8 text") from error
    if not found.prompt.strip() and found.resume is None:
        raise InvalidInput("the prompt is empty; say what is to be done")
    return found


def answer_text(payload: bytes) -> str:
    """Return what a caller answers to a query: an envelope's prompt, or plain text.

    Raises:
        InvalidInput: it is malformed or empty.
    """
    return read_prompt(payload).prompt


def response(text: str) -> bytes:
    """Return a chunk of the answer."""
    return orjson.dumps({"type": "response", "data": text})


def status(word: str) -> bytes:
    """Return a status; callers pass on those they do not know."""
    return orjson.dumps({"type": "status", "data": word})


def query(id: str, reply_subject: str, prompt: str) -> bytes:
    """Return a question to the caller, who publishes one message to `reply_subject`."""
    return orjson.dumps({"type": "query", "data": {"id": id, "reply_subject": reply_subject, "prompt": prompt}})


def file_response(name: str, data: bytes) -> bytes:
    """Return a chunk that is a file."""
    file = {"filename": name, "content": base64.b64encode(data).decode()}
    return orjson.dumps({"type": "response", "data": {"text": "", "attachments": [file]}})


def error(code: Code, text: str) -> tuple[bytes, bytes]:
    """Return (body, header) of an error; an `END` follows it."""
    return orjson.dumps({"error": str(code), "message": text}), _error_header(code, text)


def _error_header(code: Code, text: str) -> bytes:
    plain = " ".join(text.split()).encode("ascii", "replace").decode()[:500]
    return f"NATS/1.0\r\nNats-Service-Error-Code: {code}\r\nNats-Service-Error: {plain}\r\n\r\n".encode()


@dataclass(frozen=True, slots=True)
class Registration:
    """An agent in a session, as callers discover it.

    Attributes:
        agent, owner, session: the last three tokens of its subjects; every prompt to `NEW` begins a session.
        about: a sentence for people.
        replicas: processes of the agent that are there.
    """

    agent: str
    owner: str
    session: str
    about: str = ""
    replicas: int = 0

    @property
    def id(self) -> str:
        """The same at every instance of the door, and after a restart."""
        return hashlib.sha256(f"{self.agent}.{self.owner}.{self.session}".encode()).hexdigest()[:22]

    def subject(self, verb: Literal["prompt", "status", "hb"]) -> str:
        """Return where it takes prompts, tells its status, or beats."""
        return f"agents.{verb}.{self.agent}.{self.owner}.{self.session}"

    @property
    def metadata(self) -> dict[str, str]:
        """What identifies it."""
        return {"agent": self.agent, "owner": self.owner, "session": self.session, "protocol_version": PROTOCOL}

    def ping(self, version: str) -> dict[str, Any]:
        """Return the answer to `$SRV.PING`."""
        kind = "io.nats.micro.v1.ping_response"
        return {"type": kind, "name": SERVICE, "id": self.id, "version": version, "metadata": self.metadata}

    def info(self, version: str, max_payload: int, *, signed: bool = False) -> dict[str, Any]:
        """Return the answer to `$SRV.INFO`; numbers and flags are strings, or callers do not know them."""
        trust = "signed" if signed else "any"
        limits = {"max_payload": f"{max_payload}B", "attachments_ok": "true", "min_sender_trust": trust}
        endpoints = [
            {"name": "prompt", "subject": self.subject("prompt"), "queue_group": QUEUE, "metadata": limits},
            {"name": "status", "subject": self.subject("status"), "queue_group": QUEUE, "metadata": None},
        ]
        kind = "io.nats.micro.v1.info_response"
        return self.ping(version) | {"type": kind, "description": self.about, "endpoints": endpoints}

    def heartbeat(self, time: str) -> dict[str, Any]:
        """Return a heartbeat; also the answer to a status request."""
        beat = {"instance_id": self.id, "ts": time, "interval_s": KEEP_ALIVE_SECONDS, "replicas": self.replicas}
        return self.metadata | beat
