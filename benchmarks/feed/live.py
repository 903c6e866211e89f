"""One live measurement: clients follow, tokens are published at a fixed rate, stamps give the latency."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.feed.measure import Cores, now
from benchmarks.feed.publisher import Bulk, Paced, publish_bulk, publish_paced
from benchmarks.feed.readers import Finish, Seen, Watch, watch
from benchmarks.feed.workers import Worker, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.feed.targets import Target
    from benchmarks.feed.wires import Stream

_SETTLE_SECONDS = 0.3
_WARM_UP_SECONDS = 1.0
_DRAIN_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is published and who follows.

    Attributes:
        sessions: the streams of each session; tokens go to all of them in turn.
        clients: how many follow each session.
        rate: tokens a second in all. seconds: for how long, after one second that does not count.
        rest: how long the reading half rests between rounds of reads.
    """

    sessions: Sequence[Sequence[Stream]]
    clients: int
    rate: float
    seconds: float
    rest: float = 0.0


def fill(target: Target, sessions: Sequence[Sequence[Stream]], tokens: int, **options: bool) -> None:
    """Write histories of `tokens` tokens per stream."""
    run(publish_bulk, Bulk(target.wire, target.log, sessions, tokens, **options))


def measure(target: Target, load: Load) -> Seen:
    """Open the runs, connect the clients, publish, and return what they saw and what it cost."""
    fill(target, load.sessions, 0)
    names = [streams[0].session for streams in load.sessions]
    asks = [target.follow(name) for name in names for _ in range(load.clients)]
    with Worker(watch, Watch(asks, load.rest)) as readers:
        readers.hear()
        time.sleep(_SETTLE_SECONDS)
        streams = [stream for some in load.sessions for stream in some]
        start = now() + int(_SETTLE_SECONDS * 1e9)
        readers.tell(start + int(_WARM_UP_SECONDS * 1e9))
        job = Paced(target.wire, target.log, streams, load.rate, _WARM_UP_SECONDS + load.seconds, start)
        with Worker(publish_paced, job) as publisher:
            publisher.hear()
            generator = {"readers": [readers.pid], "publisher": [publisher.pid]}
            cores = Cores({**target.roles(), **generator})
            published = publisher.hear(load.seconds + 40)
            used = cores.read()
        readers.tell(Finish(job.total // len(names), now() + int(_DRAIN_SECONDS * 1e9)))
        seen: Seen = readers.hear()
    seen.values |= used | published
    return seen
