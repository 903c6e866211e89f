"""A real Prometheus with the shipped configuration, aimed at what a test runs."""

from __future__ import annotations

import asyncio
import shutil
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEPLOY = Path(__file__).parents[1] / "deploy"
SHIPPED = DEPLOY / "prometheus"


class Prometheus:
    """What a running Prometheus says."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self._client = client

    async def query(self, promql: str) -> list[dict[str, Any]]:
        """Return the series of an instant query, none while Prometheus is not up.

        A query that is wrong raises.
        """
        try:
            answer = await self._client.get(f"{self.url}/api/v1/query", params={"query": promql})
        except httpx.TransportError:
            return []
        if answer.status_code == 503:
            return []
        found = answer.json()
        assert found["status"] == "success", f"{promql}: {found.get('error')}"
        return list(found["data"]["result"])

    async def firing(self) -> set[tuple[str, str]]:
        """Return (alert, agent) of everything that fires now."""
        try:
            alerts = (await self._client.get(f"{self.url}/api/v1/alerts")).json()["data"]["alerts"]
        except httpx.TransportError:
            return set()
        return {(a["labels"]["alertname"], a["labels"].get("agent", "")) for a in alerts if a["state"] == "firing"}


@asynccontextmanager
async def shipped_prometheus(folder: Path, targets: dict[str, str], *, every: str = "") -> AsyncIterator[Prometheus]:
    """Run Debian's Prometheus with `deploy/prometheus`, only the targets changed.

    Args:
        folder: where its data goes.
        targets: host:port by job; other jobs are left out.
        every: scrape and evaluate so often instead of as shipped.
    """
    if shutil.which("prometheus") is None:
        pytest.fail("prometheus is not installed: alerts are not tested (Debian: apt install prometheus)")
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    jobs = [job for job in config["scrape_configs"] if job["job_name"] in targets]
    for job in jobs:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    config["scrape_configs"] = jobs
    if every:
        config["global"] = {"scrape_interval": every, "evaluation_interval": every}
    for rules in config["rule_files"]:
        shutil.copy(SHIPPED / rules, folder)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder / 'tsdb'}",
               f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        async with httpx.AsyncClient() as client:
            yield Prometheus(f"http://127.0.0.1:{port}", client)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
