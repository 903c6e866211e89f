"""The only package that touches NATS: connection, acknowledged publish, log reads, work delivery, presence, objects.

It knows streams, subjects and bytes, not runs or views, and translates every foreign error into the error tree.
"""

from orchestrator_free.jetstream.access import AccessBucket
from orchestrator_free.jetstream.log import Log
from orchestrator_free.jetstream.messages import Message
from orchestrator_free.jetstream.objects import Objects
from orchestrator_free.jetstream.replies import ConsumerState
from orchestrator_free.jetstream.system import System
from orchestrator_free.jetstream.wire import Wire, WireOptions
from orchestrator_free.jetstream.work import Delivery, PullConsumer

__all__ = [
    "AccessBucket",
    "ConsumerState",
    "Delivery",
    "Log",
    "Message",
    "Objects",
    "PullConsumer",
    "System",
    "Wire",
    "WireOptions",
]
