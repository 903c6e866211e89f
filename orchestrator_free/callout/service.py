"""The service: answers the broker's question who somebody is, in a queue group with others like it.

Each instance holds no state but the keys; any of them may die. A question that has waited for longer than the broker
does is left unanswered, so that a storm of connects is worked off instead of growing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from nacl.public import PrivateKey
from nacl.signing import SigningKey
from prometheus_client import CollectorRegistry, Counter, Histogram

from orchestrator_free import logs
from orchestrator_free.brokerdir import BrokerFolder, Plan
from orchestrator_free.brokerdir.layout import AUTH_SECONDS
from orchestrator_free.brokerdir.plan import Callout
from orchestrator_free.brokerdir.running import bind
from orchestrator_free.brokerdir.seeds import read_seed
from orchestrator_free.callout import envelopes
from orchestrator_free.callout.grants import Grant, grant_of, user_claims
from orchestrator_free.contract.roles import MAKERS
from orchestrator_free.errors import BrokerError, InvalidInput, NotAuthenticated, TokenExpired
from orchestrator_free.identity.tokens import Verifier
from orchestrator_free.jetstream import Wire, WireOptions

_log = logs.logger("orchestrator_free.callout")

_SUBJECT: Final = "$SYS.REQ.USER.AUTH"
_QUEUE: Final = "orchestrator-free-callout"
_SERVER_KEY: Final = b"\r\nNats-Server-Xkey: "
#: an agent whose queue takes longer is refused, and tries again
_BIND_SECONDS: Final = 5.0
#: between two looks at the plan, which tenants and revocations come from
_LOOK_SECONDS: Final = 0.5


class CalloutMetrics:
    """What the service counts; no name of anybody."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.answers = Counter(
            "orchestrator_free_callout_answers", "Questions of the broker, by what came of them.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "orchestrator_free_callout_seconds", "From question to answer.", registry=registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
        )  # fmt: skip
        for outcome in ("let_in", "refused", "expired", "late", "unreadable"):
            self.answers.labels(outcome)


class CalloutService:
    """Answers while it is open: `async with CalloutService.open(folder, verifier)`."""

    def __init__(self, folder: BrokerFolder, verifier: Verifier, wire: Wire, metrics: CalloutMetrics) -> None:
        if folder.plan.callout is None:
            raise InvalidInput(f"{folder.path} has no callout service: run `broker init --callout` on it")
        self._keys: Callout = folder.plan.callout
        self._signer = SigningKey(read_seed(folder.callout_seed("issuer"))[1])
        self._box = PrivateKey(read_seed(folder.callout_seed("xkey"))[1])
        self._folder = folder
        self._verifier = verifier
        self._wire = wire
        self._metrics = metrics
        self._answering: set[asyncio.Task[None]] = set()
        self._bindings: set[tuple[str, tuple[str, ...]]] = set()
        self._looked = time.monotonic()
        self._stamp = folder.stamp()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, folder: BrokerFolder, verifier: Verifier, registry: CollectorRegistry | None = None
    ) -> AsyncIterator[Self]:
        """Connect and answer until left.

        Raises:
            InvalidInput: the folder has no keys for it.
            BrokerUnreachable: the broker does not run.
        """
        await verifier.keys.load()
        options = WireOptions(
            url=folder.url, name="orchestrator-free callout", nkey_seed=folder.callout_seed("nkey"), ca=folder.authority
        )
        if folder.plan.callout is None:
            raise InvalidInput(f"{folder.path} has no callout service: run `broker init --callout` on it")
        wire = await Wire.connect(options)
        try:
            service = cls(folder, verifier, wire, CalloutMetrics(registry or CollectorRegistry()))
            wire.subscribe(_SUBJECT, service._take, queue=_QUEUE)
            await wire.settled()
            yield service
        finally:
            await wire.close()

    def _take(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        task = asyncio.create_task(self._answer(reply, payload, header, time.monotonic()))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reply: str, payload: bytes, header: bytes, asked: float) -> None:
        if time.monotonic() - asked > AUTH_SECONDS:
            self._metrics.answers.labels("late").inc()
            return
        try:
            server = _server_key(header)
            claims = envelopes.read_request(envelopes.unseal(payload, self._box, server))
        except InvalidInput as error:
            self._metrics.answers.labels("unreadable").inc()
            _log.warning("a question that cannot be read", reason=str(error))
            return
        question = claims["nats"]
        said = await self._decide(question)
        answer = {
            "sub": question["user_nkey"],
            "aud": claims["iss"],
            "nats": {**said, "type": "authorization_response", "version": 2},
        }
        signed = envelopes.sign(answer, self._keys.issuer, self._signer).encode()
        self._wire.send(reply, envelopes.seal(signed, self._box, server))
        self._metrics.seconds.observe(time.monotonic() - asked)

    async def _decide(self, question: dict[str, Any]) -> dict[str, str]:
        """Return a user's token, or why there is none."""
        asked_by = question.get("client_info", {}).get("host", "")
        try:
            grant = await self._grant(question)
            await self._bind(grant)
        except TokenExpired as error:
            return self._refuse("expired", error, asked_by)
        except (NotAuthenticated, BrokerError, InvalidInput, TimeoutError) as error:
            return self._refuse("refused", error, asked_by)
        self._metrics.answers.labels("let_in").inc()
        _log.debug("let in", who=grant.name, role=grant.role, host=asked_by)
        claims = user_claims(grant, question["user_nkey"], shards=self._plan().shards)
        return {"jwt": envelopes.sign(claims, self._keys.issuer, self._signer)}

    async def _grant(self, question: dict[str, Any]) -> Grant:
        """Return who asks: by a user's key, as the plan has it, or by token."""
        shown = question.get("connect_opts", {})
        if (key := shown.get("nkey")) is None:
            if not (token := shown.get("auth_token")):
                raise NotAuthenticated("neither a key nor a token; pass --nkey, --token or --token-file")
            return grant_of(await self._verifier.claims(str(token)), self._plan(), now=time.time())
        found = self._plan().keyed(str(key))
        nonce = str(question.get("client_info", {}).get("nonce", ""))
        if found is None or not envelopes.signed_by(str(key), nonce, str(shown.get("sig", ""))):
            raise NotAuthenticated("a key that the plan does not have, or not signed with it")
        tenant, user = found
        return Grant(tenant=tenant.name, member=user.name, role=user.role, sessions=user.sessions, issued=0, expires=0)

    async def _bind(self, grant: Grant) -> None:
        """Make at the broker what somebody must not make, or could make otherwise, before they come in.

        That is the queue of an agent that is for some sessions; and the streams, which the plan says how to make: who
        has a token does not know, and who has a key is told.

        Raises:
            BrokerError, InvalidInput: that cannot be done, so they must not come in.
        """
        agents = {grant.member: grant.sessions} if grant.sessions else {}
        about = (grant.name if agents else grant.tenant), grant.sessions
        if (agents or (grant.expires and grant.role in MAKERS)) and about not in self._bindings:
            async with asyncio.timeout(_BIND_SECONDS):
                await bind(self._folder, grant.tenant, agents)
            self._bindings.add(about)

    def _refuse(self, outcome: str, error: Exception, host: str) -> dict[str, str]:
        self._metrics.answers.labels(outcome).inc()
        _log.info("refused", reason=str(error), host=host)
        return {"error": str(error)}

    def _plan(self) -> Plan:
        """Return the plan as its file says now; one that cannot be read leaves it as it was."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            if (stamp := self._folder.stamp()) != self._stamp:
                self._stamp = stamp
                try:
                    self._folder = BrokerFolder.open(self._folder.path)
                except InvalidInput as error:
                    _log.error("the plan cannot be read again; the old one counts", reason=str(error))
        return self._folder.plan


def _server_key(header: bytes) -> str:
    _, found, rest = header.partition(_SERVER_KEY)
    if not found:
        raise InvalidInput("a question that is not encrypted")
    return rest.partition(b"\r\n")[0].decode()
