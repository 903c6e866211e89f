"""Large values beside the log, in a standard NATS Object Store bucket, named `<session>/<name>`."""

from __future__ import annotations

import hashlib

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import ObjectNotFoundError
from nats.js.object_store import ObjectStore

from orchestrator_free import contract
from orchestrator_free.errors import BrokerError
from orchestrator_free.jetstream.wire import Wire


class Objects:
    """The bucket, opened at first use; `Log.ensure` has created it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._opened: tuple[object, ObjectStore] | None = None

    async def _bucket(self) -> ObjectStore:
        client = self._wire.client
        if self._opened is None or self._opened[0] is not client:
            try:
                store = await JetStreamContext(client, timeout=10).object_store(contract.OBJECT_BUCKET)
            except (NatsError, TimeoutError) as error:
                raise BrokerError(f"the bucket {contract.OBJECT_BUCKET!r} cannot be opened: {error}") from error
            self._opened = (client, store)
        return self._opened[1]

    async def put(self, session: str, name: str, data: bytes) -> None:
        """Store an object; names come from the content, so one that is there is left as it is."""
        try:
            bucket = await self._bucket()
            try:
                await bucket.get_info(f"{session}/{name}")
            except ObjectNotFoundError:
                await bucket.put(f"{session}/{name}", data)
        except (NatsError, TimeoutError) as error:
            raise BrokerError(f"object {name!r} of session {session!r} was not stored: {error}") from error

    async def get(self, session: str, name: str) -> bytes | None:
        """Return an object, None if there is none."""
        try:
            found = await (await self._bucket()).get(f"{session}/{name}")
        except ObjectNotFoundError:
            return None
        except (NatsError, TimeoutError) as error:
            raise BrokerError(f"object {name!r} of session {session!r} was not read: {error}") from error
        return found.data or b""

    async def delete(self, session: str, name: str) -> None:
        """Remove an object; none of that name is no error."""
        try:
            await (await self._bucket()).delete(f"{session}/{name}")
        except ObjectNotFoundError:
            return
        except (NatsError, TimeoutError) as error:
            raise BrokerError(f"object {name!r} of session {session!r} was not deleted: {error}") from error


def object_name(data: bytes, label: str) -> str:
    """Return a name for content: a label and 16 hex digits of its SHA-256, so that retries write the same object."""
    return f"{label}-{hashlib.sha256(data).hexdigest()[:16]}"
