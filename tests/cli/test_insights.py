"""`orchestrator-free insights`: for people, for machines, as a page and a picture; wrong use is said."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.inside import serving

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_free import Broker, Run


async def greet(run: Run) -> None:
    await run.text("hello")


async def test_insights_of_a_real_session(
    ann: Broker, broker_url: str, command: Any, fresh: Any, tmp_path: Path
) -> None:
    """The same figures on the terminal, as JSON, as a page and as a picture."""
    name = fresh("bot")
    session = ann.session(fresh("s"))
    await session.create(agents=[name])
    async with serving(broker_url, name, greet):
        sent = await session.send("hi", to=name)
        await session.result(name, sent.run, timeout=20)
    page, picture = tmp_path / "r.html", tmp_path / "r.png"
    shown = command("insights", "--agents", name, "--html", str(page), "--png", str(picture))
    (report,) = command("insights", "--agents", name, "--json").json

    assert shown.code == 0
    assert "1, half of them shorter than" in shown.out
    assert all(head in shown.out for head in ("cancelled", "taken over", "waited p50"))  # whole, on 80 columns
    assert report["sessions"] == 1
    assert report["agents"][name]["statuses"] == {"done": 1}
    assert report["agents"][name]["first_output"]["count"] == 1
    assert f"<td>{name}</td>" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


async def test_what_was_said_to_everybody_is_no_agent_without_runs(ann: Broker, command: Any, fresh: Any) -> None:
    """A cancel to `all` stands where people step in, under a name of its own; nobody takes it for a total of 0 runs."""
    session = ann.session(fresh("s"))
    await session.create()
    await session.control.cancel()

    shown = command("insights").out

    first, second, third = (shown.index(head) for head in ("how runs end", "stepping in", "times"))
    assert "(everybody)" not in shown[first:second] + shown[third:]
    assert re.search(r"^\(everybody\) +1 ", shown[second:third], re.MULTILINE)
    assert not re.search(r"^all ", shown, re.MULTILINE)


async def test_wrong_use_is_said(command: Any) -> None:
    """A time that is none, a threshold of nothing, a gateway that is not there, a name that cannot be one: exit code 2."""
    for options, word in (
        (("--since", "soon"), "--since 'soon'"), (("--silence", "0"), "above 0"),
        (("--gateway", "http://127.0.0.1:1"), "does not tell its metrics"), (("--agents", "a b"), "--agents 'a b'"),
        (("--gateway", "file:///etc/passwd"), "is no address"),
    ):  # fmt: skip
        done = command("insights", *options)
        assert done.code == 2
        assert word in done.err
