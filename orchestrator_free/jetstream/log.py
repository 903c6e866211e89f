"""Reading the streams: what is stored, as raw messages, by the cheapest request for each question.

Close to the tail `next_by_subj` from a sequence is exact and fast; a session's present state is one `multi_last`; the
leader is asked (`STREAM.MSG.GET`) wherever a stale replica would be wrong.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from orchestrator_free import contract, logs
from orchestrator_free.errors import BrokerError, BrokerTimeout
from orchestrator_free.jetstream.direct import DirectGet
from orchestrator_free.jetstream.messages import Message, field_of, stored_message
from orchestrator_free.jetstream.replies import NO_MESSAGE, ConsumerState
from orchestrator_free.jetstream.streams import Streams
from orchestrator_free.jetstream.wire import Wire
from orchestrator_free.subjects import AT, DUE, ROOT, epoch_of, shard_of

_log = logs.logger("orchestrator_free.jetstream")

_BATCH: Final = 4096
_MULTI_LAST_LIMIT: Final = 1000
#: a replica that is behind its leader for longer than this is given up
_LAG_SECONDS: Final = 20.0
#: of one answer to a read; a message larger than this still comes, alone
_PAGE_BYTES: Final = 1024 * 1024
_CLOCK_SECONDS: Final = 60.0
_END_OF_BATCH: Final = 204
_TOO_MANY: Final = 413
_PRESENCE: Final = f"$KV.{contract.PRESENCE_BUCKET}."
_CONSUMER_NOT_FOUND: Final = 10014


class Log:
    """The streams of one installation over one connection.

    Attributes:
        shards: number of streams the sessions are spread over.
        losses: how often a reader of each shard found that a live copy had not reached it.
        on_new_leader: called with a shard each time its stream has another leader, before that one publishes copies.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.shards = 1
        self.on_new_leader: list[Callable[[int], None]] = [lambda shard: wire.ask_again(contract.stream_name(shard))]
        self._heard: set[int] = set()
        self.streams = Streams(wire)
        self.losses: Counter[int] = Counter()
        self._epochs: dict[int, str] = {}
        self._ends: dict[int, int] = {}
        self._epochs_read: dict[int, float] = {}
        self._clock_ahead = timedelta()
        self._clock_read = -math.inf
        self._direct = DirectGet(wire)

    # -- which stream -------------------------------------------------------------------------------------------

    def shard(self, session: str) -> int:
        """Return the shard of a session."""
        return shard_of(session, self.shards)

    def epoch(self, shard: int) -> str:
        """Return the epoch of a shard's stream, as of the last `refresh`."""
        return self._epochs[shard]

    async def epoch_within(self, shard: int, seconds: float) -> str:
        """Return the epoch of a shard's stream as it was at most so long ago; all who ask share one request."""
        if asyncio.get_running_loop().time() - self._epochs_read.get(shard, -math.inf) > seconds:
            await self.info(shard)
        return self._epochs[shard]

    def end(self, shard: int) -> int:
        """Return the last sequence of a shard's stream, as the leader had it when the epoch was last asked for."""
        return self._ends[shard]

    async def ensure(self, settings: contract.StreamSettings | None = None) -> None:
        """Create the streams that are missing; check those that are there.

        Args:
            settings: for creation. None: take an existing installation as it is, or create with the defaults.

        Raises:
            ConfigMismatch: a stream exists with another structure; nothing is overwritten.
        """
        self.shards = await self.streams.ensure(settings)
        self._listen()
        await self.refresh()

    def _listen(self) -> None:
        """Hear of new leaders; a broker without a cluster has none."""
        for shard in set(range(self.shards)) - self._heard:
            self._heard.add(shard)
            subject = contract.LEADER_ELECTED.replace("{stream}", contract.stream_name(shard))
            self.wire.subscribe(subject, lambda *_, shard=shard: self._on_new_leader(shard))

    def _on_new_leader(self, shard: int) -> None:
        for callback in list(self.on_new_leader):
            callback(shard)

    async def refresh(self) -> None:
        """Read the epochs again; a stream that was made anew has another."""
        for shard in range(self.shards):
            await self.info(shard)

    async def info(self, shard: int, *, subjects: str = "") -> dict[str, Any]:
        """Return STREAM.INFO, and note the epoch; with a subject filter also `state.subjects`, all pages of it."""
        stream = contract.stream_name(shard)
        name = f"STREAM.INFO.{stream}"
        if not subjects:
            info = await self.wire.api(name)
            self._epochs[shard] = epoch_of(stream, info["created"])
            self._ends[shard] = info["state"]["last_seq"]
            self._epochs_read[shard] = asyncio.get_running_loop().time()
            return info
        found: dict[str, int] = {}
        while True:
            info = await self.wire.api(name, {"subjects_filter": subjects, "offset": len(found)})
            page = info["state"].get("subjects") or {}
            found.update(page)
            if not page or len(found) >= info.get("total", 0):
                info["state"]["subjects"] = found
                return info

    # -- consumers ----------------------------------------------------------------------------------------------

    async def consumer_names(self, shard: int) -> list[str]:
        """Return the names of all consumers of a shard: cheaper than their states, and told by any server."""
        return await self._pages("CONSUMER.NAMES", shard)

    async def consumers(self, shard: int) -> list[ConsumerState]:
        """Return the durable consumers of a shard; those whose leader is away are not among them."""
        found = await self._pages("CONSUMER.LIST", shard)
        return [ConsumerState.read(info) for info in found if info["config"].get("durable_name")]

    async def _pages(self, call: str, shard: int) -> list[Any]:
        found: list[Any] = []
        offset = 0
        while True:
            answer = await self.wire.api(f"{call}.{contract.stream_name(shard)}", {"offset": offset})
            found += answer.get("consumers") or []
            offset += answer["limit"]  # not what came: a consumer without a leader takes a place and is left out
            if offset >= answer["total"]:
                return found

    async def consumer(self, shard: int, name: str) -> ConsumerState | None:
        """Return a consumer, from its leader; None if there is none of this name."""
        try:
            found = await self.wire.api(f"CONSUMER.INFO.{contract.stream_name(shard)}.{name}", deadline=4.0)
        except BrokerError as error:
            if getattr(error, "code", 0) == _CONSUMER_NOT_FOUND:
                return None
            raise
        return ConsumerState.read(found)

    # -- from the leader ----------------------------------------------------------------------------------------

    async def last(self, shard: int, subject: str) -> Message | None:
        """Return the last message of a subject or filter, from the leader; None if there is none."""
        return await self._get(shard, {"last_by_subj": subject})

    async def first(self, shard: int, subject: str) -> Message | None:
        """Return the first message of a subject or filter, from the leader; None if there is none."""
        return await self._get(shard, {"seq": 1, "next_by_subj": subject})

    async def _get(self, shard: int, body: dict[str, Any]) -> Message | None:
        try:
            found = await self.wire.api(f"STREAM.MSG.GET.{contract.stream_name(shard)}", body)
        except BrokerError as error:
            if getattr(error, "code", 0) == NO_MESSAGE:
                return None
            raise
        return stored_message(found["message"])

    # -- by Direct Get ------------------------------------------------------------------------------------------

    async def read(self, shard: int, subject: str, *, after: int = 0, reach: int = 0) -> list[Message]:
        """Return every message of a subject or filter after a sequence, in order.

        Args:
            shard: which stream.
            subject: a subject or filter.
            after: only what is after this sequence.
            reach: a sequence of this subject or filter that is known to be stored; a replica that lags is asked again.

        Raises:
            BrokerTimeout: no replica gets that far.
        """
        end = asyncio.get_running_loop().time() + _LAG_SECONDS
        while True:
            found = await self._read(shard, subject, after)
            if after >= reach or (found and found[-1].sequence >= reach):
                return found
            if asyncio.get_running_loop().time() > end:
                raise BrokerTimeout(f"a replica of {contract.stream_name(shard)} stays behind the leader's {reach}")
            await asyncio.sleep(0.02)
            last = await self.last(shard, subject)
            reach = min(reach, last.sequence if last else 0)  # what stood there may have been purged meanwhile

    async def read_all(self, shard: int, subject: str) -> list[Message]:
        """Return every message of a subject or filter, up to what the leader has now."""
        last, found = await asyncio.gather(self.last(shard, subject), self._read(shard, subject, 0))
        if last is None or (found and found[-1].sequence >= last.sequence):
            return found
        return await self.read(shard, subject, reach=last.sequence)

    async def _read(self, shard: int, subject: str, after: int) -> list[Message]:
        stream = contract.stream_name(shard)
        found: list[Message] = []
        start = after + 1
        while True:
            body = {"seq": start, "batch": _BATCH, "max_bytes": _PAGE_BYTES, "next_by_subj": subject}
            messages, status, header = await self._direct(stream, body)
            found += messages
            if status != _END_OF_BATCH or not messages or field_of(header, b"Nats-Num-Pending") in ("", "0"):
                return found
            start = messages[-1].sequence + 1

    async def page(
        self, shard: int, subject: str, *, after: int, limit: int, size: int = _PAGE_BYTES
    ) -> tuple[list[Message], bool]:
        """Return messages of a subject or filter after a sequence, and whether there are more.

        At most `limit` of them, and about `size` bytes.
        """
        body = {"seq": after + 1, "batch": limit, "max_bytes": size, "next_by_subj": subject}
        messages, status, header = await self._direct(contract.stream_name(shard), body)
        return messages, status == _END_OF_BATCH and field_of(header, b"Nats-Num-Pending") not in ("", "0")

    async def last_of(self, shard: int, subjects: Sequence[str], *, after: int = 0, up_to: int = 0) -> list[Message]:
        """Return the last message of each of these subjects that has one, in order of sequence."""
        stream = contract.stream_name(shard)
        found: list[Message] = []
        for start in range(0, len(subjects), _MULTI_LAST_LIMIT):
            page, _ = await self._multi_last(stream, subjects[start : start + _MULTI_LAST_LIMIT], after, up_to)
            found += page
        return sorted(found, key=lambda message: message.sequence)

    async def table(self, shard: int, subject: str, *, after: int = 0, up_to: int = 0) -> list[Message]:
        """Return the last message of every subject that a filter matches, in order of sequence.

        Args:
            shard: which stream.
            subject: a subject or filter.
            after: only where it is after this sequence.
            up_to: as it was at this sequence, as far as that is still stored; 0 for now.
        """
        stream = contract.stream_name(shard)
        found, status = await self._multi_last(stream, [subject], after, up_to)
        if status == _TOO_MANY:
            info = await self.info(shard, subjects=subject)
            subjects = list(info["state"]["subjects"])
            up_to = up_to or info["state"]["last_seq"]
            await self._reached(stream, subjects[0], up_to)
            return await self.last_of(shard, subjects, after=after, up_to=up_to)
        return sorted(found, key=lambda message: message.sequence)

    async def _reached(self, stream: str, subject: str, sequence: int) -> None:
        """Wait until the replica that answers has reached a sequence: asked for what comes later, it would not tell."""
        end = asyncio.get_running_loop().time() + _LAG_SECONDS
        while True:
            messages, _, header = await self._direct(stream, {"multi_last": [subject], "batch": 1})
            if not messages or int(field_of(header, b"Nats-UpTo-Sequence") or sequence) >= sequence:
                return
            if asyncio.get_running_loop().time() > end:
                raise BrokerTimeout(f"a replica of {stream} stays behind the leader's {sequence}")
            await asyncio.sleep(0.02)

    async def _multi_last(
        self, stream: str, subjects: Sequence[str], after: int, up_to: int
    ) -> tuple[list[Message], int]:
        """Return the last message of each subject, however many requests it takes; and the status."""
        found: list[Message] = []
        while True:
            body: dict[str, Any] = {"multi_last": subjects, "batch": 1024, "max_bytes": _PAGE_BYTES}
            body |= {name: value for name, value in (("seq", after and after + 1), ("up_to_seq", up_to)) if value}
            messages, status, header = await self._direct(stream, body)
            found += messages
            if status != _END_OF_BATCH or not messages or field_of(header, b"Nats-Num-Pending") in ("", "0"):
                return found, status
            after = messages[-1].sequence
            up_to = int(field_of(header, b"Nats-UpTo-Sequence") or up_to)

    async def names(self, kind: str) -> dict[str, int]:
        """Return {subject: shard} of all subjects of a kind without further tokens, e.g. `meta`, in all sessions."""
        found: dict[str, int] = {}
        for shard in range(self.shards):
            info = await self.info(shard, subjects=f"{ROOT}.{shard}.*.*.{kind}")
            found.update(dict.fromkeys(info["state"]["subjects"], shard))
        return found

    async def purge(self, shard: int, subject: str, *, before: int = 0) -> int:
        """Delete every message that a filter matches, or those before a sequence; return how many."""
        body = {"filter": subject} | ({"seq": before} if before else {})
        return int((await self.wire.api(f"STREAM.PURGE.{contract.stream_name(shard)}", body))["purged"])

    # -- time ----------------------------------------------------------------------------------------------------

    async def clock(self) -> datetime:
        """Return the broker's time; its difference to ours is asked for once a minute."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._clock_read > _CLOCK_SECONDS:
            asked = loop.time()
            info = await self.wire.api(f"STREAM.INFO.{contract.TIMERS}")
            self._clock_read = loop.time()
            there = datetime.fromisoformat(info["ts"])
            self._clock_ahead = there - datetime.now(UTC) + timedelta(seconds=(self._clock_read - asked) / 2)
        return datetime.now(UTC) + self._clock_ahead

    # -- later ---------------------------------------------------------------------------------------------------

    async def later(self, subject: str, payload: bytes, at: str) -> None:
        """Let the broker store a message at a time, by its own clock, whoever is alive then.

        The broker looks about four times a second. Another call for the same subject takes this one's place.

        Args:
            subject: of one of this member's entities; readers believe no other.
            payload: what.
            at: RFC 3339, UTC; a time that has passed is now.
        """
        await self.wire.publish(AT + subject, payload, schedule=(at, DUE + subject))

    async def fell_due(self, subject: str) -> bool:
        """Whether the broker has said what it was to say on a subject, though perhaps not yet in the session's log.

        Between the two lies the way from one stream to another, which takes milliseconds, and up to half a minute when
        a leader has died.
        """
        try:
            await self.wire.api(f"STREAM.MSG.GET.{contract.TIMERS}", {"last_by_subj": DUE + subject})
        except BrokerError as error:
            if getattr(error, "code", 0) == NO_MESSAGE:
                return False
            raise
        return True

    async def forget_later(self, subject: str) -> None:
        """Let the broker not say what it was to say later on a subject; what says so does not stay, either."""
        await self.wire.publish(AT + subject, b"", rollup=True, ttl="60s")

    async def purge_later(self, subject: str) -> None:
        """Drop all that the broker was to say on subjects that a filter matches."""
        for prefix in (AT, DUE):
            await self.wire.api(f"STREAM.PURGE.{contract.TIMERS}", {"filter": prefix + subject})

    # -- presence -----------------------------------------------------------------------------------------------

    async def announce(self, key: str, payload: bytes) -> None:
        """Write a presence entry; it vanishes unless written again within the bucket's TTL."""
        await self.wire.publish(_PRESENCE + key, payload, deadline=4.0)

    async def withdraw(self, key: str) -> None:
        """Remove a presence entry at once: an empty entry takes its place until it vanishes, too."""
        await self.wire.publish(_PRESENCE + key, b"", deadline=2.0)

    def renew(self, key: str, payload: bytes) -> None:
        """Write a presence entry without waiting for the broker: for those that are written again soon anyway."""
        self.wire.send(_PRESENCE + key, payload)

    def hear_presence(self, prefix: str, handler: Callable[[str, bytes], None]) -> Callable[[], None]:
        """Call `handler(key, payload)` for entries written below a prefix, empty ones leave; return what ends it."""

        def take(subject: str, reply: str, payload: bytes, header: bytes) -> None:
            if b"\r\nNats-Subject: " not in header:  # the broker's answer to somebody is no entry
                handler(subject.removeprefix(_PRESENCE), payload)

        return self.wire.subscribe(f"{_PRESENCE}{prefix}.>", take)

    async def present(self, prefix: str) -> Iterable[tuple[str, bytes]]:
        """Return (key, payload) of every live presence entry below a prefix."""
        stream, below = f"KV_{contract.PRESENCE_BUCKET}", f"{_PRESENCE}{prefix}.>"
        messages, status = await self._multi_last(stream, [below], 0, 0)  # costs the same however many others there are
        if status == _TOO_MANY:
            messages, _, _ = await self._direct(stream, {"seq": 1, "batch": 100_000, "next_by_subj": below})
        return [(m.subject.removeprefix(_PRESENCE), m.payload) for m in messages if m.payload and not m.copied]
