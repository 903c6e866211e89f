"""Alerts and scrape configuration as they are shipped: checked by promtool, and by running the real Prometheus."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from orchestrator_free.lag import living_replicas
from orchestrator_free.operations import pausing
from tests.prometheus_server import SHIPPED, Prometheus, shipped_prometheus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator_free import Broker
    from orchestrator_free.embedded.server import EmbeddedServer

ROOT = Path(__file__).parents[1]
UNIT_TESTS = ROOT / "tests/prometheus/alerts_test.yml"
RUNBOOK = ROOT / "docs/runbook.md"
UP = "from orchestrator_free.cli import main\nmain()\n"
ECHO = 'await run.text("hello")'


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((SHIPPED / "alerts.rules.yml").read_text())["groups"]
    return list(group["rules"])


def promtool(*arguments: str, cwd: Path = ROOT) -> None:
    if shutil.which("promtool") is None:
        pytest.fail("promtool is not installed: rules are not tested (Debian: apt install prometheus)")
    done = subprocess.run(["promtool", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_configuration_and_rules() -> None:
    """What is shipped is loaded by Prometheus as it is."""
    promtool("check", "config", str(SHIPPED / "prometheus.yml"))
    promtool("check", "rules", *map(str, sorted(SHIPPED.glob("*.rules.yml"))))


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    """Each has a unit test of promtool's with a time at which it is quiet, and one at which it fires."""
    promtool("test", "rules", UNIT_TESTS.name, cwd=UNIT_TESTS.parent)
    tested = {
        (case["alertname"], bool(case["exp_alerts"]))
        for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
    }

    assert tested == {(rule["alert"], fires) for rule in alerts() for fires in (True, False)}


def test_every_alert_tells_people_what_to_do() -> None:
    """A severity, a sentence, and a section of the runbook that exists; no section without an alert."""
    headings = re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    linked = {rule["annotations"]["runbook_url"].removeprefix("docs/runbook.md#") for rule in alerts()}

    assert {rule["labels"]["severity"] for rule in alerts()} == {"warning", "critical"}
    assert all(len(rule["annotations"]["summary"]) > 30 for rule in alerts())
    assert linked == anchors - {"scaling"}


@pytest.fixture
async def gateway(programs: Any, broker: EmbeddedServer, eventually: Any, tmp_path: Path) -> AsyncIterator[str]:
    """A gateway as its users start it, a process of its own; its host:port."""
    script = tmp_path / "up.py"
    script.write_text(UP)
    process = programs.start(
        script, "up", "--port", "0", "--broker", broker.url, "--monitor-url", str(broker.monitor_url)
    )
    found = await eventually(lambda: re.search(r"gateway http://(\S+)", process.output), 40)
    yield found[1]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_agent_lagging_fires_within_a_minute_and_resolves(
    programs: Any, ann: Broker, gateway: str, eventually: Any, tmp_path: Path
) -> None:
    """An agent that was stopped with inputs waiting is told of within 60 s; started again, the alert is over.

    One that was paused and stopped with inputs waiting is told of only when it is resumed, nor scaled up before.
    Prometheus, its configuration and rules, the gateway and the agent are the real ones; only targets differ.
    """
    async with (
        httpx.AsyncClient(base_url=f"http://{gateway}") as client,
        shipped_prometheus(tmp_path, {"orchestrator-free-gateway": gateway}) as prometheus,
    ):
        await client.post("/sessions", json={"session": "s1"})

        async def ask(to: str = "worker") -> None:
            answer = await client.post("/sessions/s1/inputs", json={"text": "hello", "to": to})
            assert answer.status_code == 202

        (idler,) = programs.agent("idler", ECHO)
        (agent,) = programs.agent("worker", ECHO)
        await eventually(lambda: _lives(ann, "idler"), 60)
        await pausing.pause(ann, "idler")
        idler.kill()
        await ask("idler")
        await ask()
        alive = 'orchestrator_free:agent_replicas:max{agent="worker"} == 1'
        await eventually(lambda: prometheus.query(alive), 60)
        assert ("AgentLagging", "worker") not in await prometheus.firing()
        await eventually(lambda: prometheus.query('orchestrator_free:agent_inputs_waiting:max{agent="idler"} == 1'), 60)
        assert await prometheus.query('orchestrator_free:agent_desired_replicas:max{agent="idler"} == 0')

        agent.kill()
        await ask()
        stopped = time.monotonic()

        async def told() -> bool:
            return ("AgentLagging", "worker") in await prometheus.firing()

        async def over() -> bool:
            return not await told()

        await eventually(told, 90)
        fired = time.monotonic() - stopped
        assert not {alert for alert, agent in await prometheus.firing() if agent == "idler"}
        await pausing.resume(ann, "idler")
        programs.agent("worker", ECHO)
        started = time.monotonic()
        await eventually(over, 90)
        resolved = time.monotonic() - started
        print(
            f"\nAgentLagging fired {fired:.1f} s after the input that waited, resolved {resolved:.1f} s after the start"
        )

        assert fired < 60
        assert not {alert for alert, agent in await prometheus.firing() if agent == "worker"} - {"AgentSilent"}
        await eventually(
            lambda: prometheus.query('orchestrator_free:agent_desired_replicas:max{agent="idler"} == 1'), 60
        )
        await eventually(lambda: _fires(prometheus, "AgentSilent", "idler"), 90)


async def _lives(ann: Broker, agent: str) -> bool:
    return any(replica.agent == agent for replica in await living_replicas(ann.log))


async def _fires(prometheus: Prometheus, alert: str, agent: str) -> bool:
    return (alert, agent) in await prometheus.firing()
