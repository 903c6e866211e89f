"""Grafana dashboards: their structure, and every expression of every panel against a real Prometheus under load."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from tests.prometheus_server import DEPLOY, Prometheus, shipped_prometheus

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator_free.embedded.server import EmbeddedServer

BOARDS = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
UP = "from orchestrator_free.cli import main\nmain()\n"
#: what Grafana puts in, for a look at the last minutes
VARIABLES = {"$__rate_interval": "20s", "$__range": "5m", "$agent": ".*"}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def expressions() -> list[tuple[str, str, str]]:
    """Return (dashboard, panel, expression)."""
    found = []
    for path in BOARDS:
        board = json.loads(path.read_text())
        found += [(path.stem, p["title"], t["expr"]) for p in panels(board) for t in p["targets"]]
    return found


def test_there_is_a_dashboard_for_each_question() -> None:
    """Sessions, agents, broker, viewers, insights; nothing else lies in the folder that Grafana loads."""
    assert [path.stem for path in BOARDS] == ["agents", "broker", "insights", "sessions", "viewers"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_loaded_anywhere(path: Path) -> None:
    """No data source of ours is named in it, ids are unique, panels do not overlap, each says what it shows."""
    board = json.loads(path.read_text())
    shown = panels(board)
    cells = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert board["uid"] == f"orchestrator-free-{path.stem}"
    assert board["templating"]["list"][0] | {"current": {}} == {
        "name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus", "current": {}, "hide": 0,
    }  # fmt: skip
    assert {panel["datasource"]["uid"] for panel in shown} == {"${datasource}"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert all(panel["description"] and panel["targets"] for panel in shown)


def test_provisioning_names_what_is_there() -> None:
    """Grafana's own files: one Prometheus, one folder of dashboards."""
    folder = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards/orchestrator-free.yml").read_text())["providers"]
    scrape = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]

    assert (source["type"], source["jsonData"]["timeInterval"]) == ("prometheus", scrape)
    assert provider["options"]["path"].startswith("/")


@pytest.fixture
async def gateway(programs: Any, broker: EmbeddedServer, eventually: Any, tmp_path: Path) -> str:
    """A gateway as its users start it; its host:port."""
    script = tmp_path / "up.py"
    script.write_text(UP)
    process = programs.start(
        script, "up", "--port", "0", "--broker", broker.url, "--monitor-url", str(broker.monitor_url)
    )
    return str((await eventually(lambda: re.search(r"gateway http://(\S+)", process.output), 40))[1])


async def watch(client: httpx.AsyncClient, session: str, stop: asyncio.Event) -> None:
    """Be a client of a session, and come back when the feed ends."""
    position = ""
    while not stop.is_set():
        async with client.stream("GET", f"/sessions/{session}/events", params={"after": position}) as feed:
            async for line in feed.aiter_lines():
                position = line.removeprefix("id: ") if line.startswith("id: ") else position
                if stop.is_set():
                    return


async def small_load(client: httpx.AsyncClient, session: str, stop: asyncio.Event) -> None:
    """Ask again and again; now and then something goes wrong."""
    number = 0
    while not stop.is_set():
        text = "fail" if number % 5 == 4 else "hello"
        await client.post(f"/sessions/{session}/inputs", json={"text": text, "to": "worker"})
        if number % 10 == 0:  # another session is opened
            await client.post("/sessions", json={"session": f"{session}-{number}"})
            await client.get(f"/sessions/{session}-{number}")
        number += 1
        await asyncio.sleep(0.2)


async def empty_of(prometheus: Prometheus) -> list[str]:
    """Return the expressions that give no number now."""
    empty = []
    for board, panel, expression in expressions():
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        found = await prometheus.query(expression)
        if not any(series["value"][1] != "NaN" for series in found):
            empty.append(f"{board} / {panel}: {expression}")
    return empty


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_every_panel_shows_something(programs: Any, gateway: str, eventually: Any, tmp_path: Path) -> None:
    """Each expression of each panel returns numbers from the real Prometheus that scrapes a real gateway."""
    stop = asyncio.Event()
    targets = {"orchestrator-free-gateway": gateway}
    programs.agent("worker", 'await run.text("hello")\nif run.input.text == "fail":\n    raise ValueError("no")')
    async with (
        httpx.AsyncClient(base_url=f"http://{gateway}", timeout=30) as client,
        shipped_prometheus(tmp_path, targets, every="1s") as prometheus,
        asyncio.TaskGroup() as group,
    ):
        await client.post("/sessions", json={"session": "s1", "agents": ["worker"]})
        group.create_task(watch(client, "s1", stop))
        group.create_task(small_load(client, "s1", stop))
        try:
            left: list[str] = []

            async def all_shown() -> bool:
                left[:] = await empty_of(prometheus)
                return not left

            await eventually(all_shown, 120, every=2)
        except AssertionError:
            raise AssertionError("these panels are empty:\n" + "\n".join(left)) from None
        finally:
            stop.set()
    print(f"\n{len(expressions())} expressions of {len(BOARDS)} dashboards, each with data")
