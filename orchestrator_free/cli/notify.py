"""`notify`: the service that tells a webhook what happened while nobody was watching; and its dead letters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from orchestrator_free.cli.auditing import audited
from orchestrator_free.cli.options import AsJson, err, out, reach, run, write_json
from orchestrator_free.cli.render import clean
from orchestrator_free.errors import InvalidInput

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from orchestrator_free.notify import DeadLetter, NotifierSettings, WebhookSettings

_SENDING = "Sending"
_LETTERS = "Dead letters"
_WHAT = (
    "What to tell, separated by commas: run.finished, run.failed, run.stalled, run.lost, ask.open, ask.escalated, "
    "floor.requested, run.cancelled; all but the last if absent."
)


@audited("notify", "retry", when=lambda given: given["retry"] is not None and not given["dead_letters"])
def notify(
    webhook: Annotated[
        str | None,
        typer.Option(envvar="ORCHESTRATOR_FREE_WEBHOOK", help="https://… to tell.", rich_help_panel=_SENDING),
    ] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option(help="File with the secret, whsec_…; of several each signs.", rich_help_panel=_SENDING),
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            envvar="ORCHESTRATOR_FREE_WEBHOOK_SECRET",
            help="The secret itself; everybody on the machine sees options, so rather set the variable.",
            rich_help_panel=_SENDING,
        ),
    ] = None,
    events: Annotated[str | None, typer.Option(help=_WHAT, rich_help_panel=_SENDING)] = None,
    always: Annotated[bool, typer.Option("--always", help="Also while somebody watches.")] = False,
    name: Annotated[str, typer.Option(help="Instances of one name share the work; one name per webhook.")] = "notify",
    link: Annotated[str | None, typer.Option(help="Address for people; {session} is replaced.")] = None,
    settle: Annotated[float, typer.Option(help="Seconds that an event is old when it is looked at.")] = 10.0,
    tries: Annotated[int, typer.Option(help="Given up after so many.")] = 8,
    first_pause: Annotated[float, typer.Option(help="Seconds after the first try; then four times longer each.")] = 5.0,
    timeout: Annotated[float, typer.Option(help="Seconds for one try.", min=0.1)] = 15.0,
    public_only: Annotated[bool, typer.Option("--public-only", help="Refuse private and local addresses.")] = False,
    metrics_port: Annotated[int | None, typer.Option(help="Serve Prometheus metrics there.")] = None,
    metrics_host: Annotated[str, typer.Option(help="Address of the metrics.")] = "127.0.0.1",
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="List what could not be told.", rich_help_panel=_LETTERS)
    ] = False,
    retry: Annotated[
        str | None, typer.Option(metavar="ID", help="Have a dead letter tried again.", rich_help_panel=_LETTERS)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell a webhook when runs end, stall or are lost, when people are asked or called, and nobody watches."""
    if dead_letters:
        run(_list(as_json=as_json))
    if retry is not None:
        run(_retry(retry))

    async def work() -> None:
        settings, target = _settings(
            webhook, secret, secret_file, events, link, always=always, settle=settle, tries=tries,
            first_pause=first_pause, timeout=timeout, public_only=public_only,
        )  # fmt: skip
        await _serve(name, settings, target, None if metrics_port is None else (metrics_host, metrics_port))

    run(work(), endless=True)


def _settings(
    webhook: str | None,
    secret: str | None,
    secret_file: Path | None,
    events: str | None,
    link: str | None,
    *,
    always: bool,
    settle: float,
    tries: int,
    first_pause: float,
    timeout: float,
    public_only: bool,
) -> tuple[NotifierSettings, WebhookSettings]:
    """Check all options before anything begins."""
    try:
        from orchestrator_free.notify import DEFAULT_EVENTS, NotifierSettings, WebhookSettings, read_secrets
    except ImportError as error:
        raise InvalidInput(str(error)) from error
    if webhook is None:
        raise InvalidInput("say whom to tell: --webhook https://…, or ORCHESTRATOR_FREE_WEBHOOK")
    names = DEFAULT_EVENTS if events is None else [one.strip() for one in events.split(",") if one.strip()]
    settings = NotifierSettings(
        events=frozenset(names), always=always, settle_seconds=settle, tries=tries, first_pause_seconds=first_pause,
        link=link,
    )  # fmt: skip
    secrets = read_secrets(secret, secret_file)
    return settings, WebhookSettings(webhook, secrets, public_only=public_only, timeout_seconds=timeout)


async def _serve(
    name: str, settings: NotifierSettings, target: WebhookSettings, metrics: tuple[str, int] | None
) -> None:
    from prometheus_client import CollectorRegistry

    from orchestrator_free.notify import Notifier, Webhook

    registry = CollectorRegistry()
    if metrics is not None:
        _serve_metrics(*metrics, registry)
    async with reach.connect(name) as broker, Webhook(target) as webhook:
        notifier = Notifier(broker, webhook, settings, registry=registry)
        await notifier.run(ready=lambda: err.print(f"telling {target.host} as {name}", highlight=False, markup=False))


def _serve_metrics(host: str, port: int, registry: CollectorRegistry) -> None:
    from prometheus_client import start_http_server

    try:
        start_http_server(port, addr=host, registry=registry)
    except (OSError, OverflowError) as error:
        raise InvalidInput(f"cannot listen on {host}:{port} ({error}); choose another --metrics-port") from error


async def _list(*, as_json: bool) -> int:
    from orchestrator_free.notify import dead_letters

    async with reach.connect() as broker:
        found = await dead_letters(broker)
    if as_json:
        for letter in found:
            write_json(letter.as_dict())
    elif found:
        out.print(_table(found))
    else:
        err.print("nothing: every notification arrived, or is still being tried")
    return 0


def _table(letters: list[DeadLetter]) -> Table:
    table = Table("id", "session", "about", "status", "tries", "error", "time")
    for one in letters:
        cells = (one.id, one.session, one.about, one.status, str(one.tries), one.error, one.time)
        table.add_row(*(Text(clean(cell), overflow="fold") for cell in cells))
    return table


async def _retry(id: str) -> int:
    from orchestrator_free.notify import retry_dead_letter

    async with reach.connect() as broker:
        letter = await retry_dead_letter(broker, id)
    err.print(
        f"{letter.service} is asked to tell {letter.about} of {letter.session} again", highlight=False, markup=False
    )
    return 0
