"""`lag`: how far agents and subscriptions are behind; once, or for Prometheus."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from orchestrator_free.cli.options import AsJson, err, out, reach, run, write_json
from orchestrator_free.cli.serve import MonitorUrl
from orchestrator_free.lag import lag_table
from orchestrator_free.metrics import serve_lag


def lag(
    serve: Annotated[bool, typer.Option(help="Keep serving it as Prometheus metrics.")] = False,
    host: Annotated[str, typer.Option(help="Address of the metrics.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the metrics; 0 takes a free one.", min=0, max=65535)] = 9464,
    monitor_url: MonitorUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show how far agents and subscriptions are behind; or serve it for Prometheus."""

    async def work() -> None:
        async with reach.connect("lag") as broker:
            if serve:
                await serve_lag(broker, host=host, port=port, monitor_url=monitor_url, ready=_say)
                return
            rows = await lag_table(broker)
        if as_json:
            for row in rows:
                write_json(row.as_dict())
            return
        table = Table(box=None, pad_edge=False)
        for name in ("consumer", "waiting", "in work", "redelivered", "seconds behind", "replicas", "paused"):
            table.add_column(name, justify="left" if name == "consumer" else "right", no_wrap=name == "consumer")
        for row in rows:
            table.add_row(*(_cell(cell) for cell in row.as_dict().values()))
        out.print(table)

    run(work(), endless=serve)


def _say(url: str) -> None:
    err.print(f"metrics {url}/metrics", highlight=False, soft_wrap=True)


def _cell(value: object) -> str:
    """Return a cell of the table."""
    if isinstance(value, bool):
        return "yes" if value else ""
    return "-" if value is None else str(value)
