"""The commands of who operates an installation."""

from __future__ import annotations

import typer

from orchestrator_free.cli import audit, backup, doctor, erasing, insights, inspecting, lag, letters, notify, pausing

_PANEL = "Operations"


def register(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command("doctor", rich_help_panel=_PANEL)(doctor.doctor)
    app.command("lag", rich_help_panel=_PANEL)(lag.lag)
    app.command("insights", rich_help_panel=_PANEL)(insights.insights)
    app.command("notify", rich_help_panel=_PANEL)(notify.notify)
    app.add_typer(letters.letters_app, name="deadletters", rich_help_panel=_PANEL)
    app.command("pause-agent", rich_help_panel=_PANEL)(pausing.pause_agent)
    app.command("resume-agent", rich_help_panel=_PANEL)(pausing.resume_agent)
    app.command("drain", rich_help_panel=_PANEL)(pausing.drain)
    app.command("audit", rich_help_panel=_PANEL)(audit.audit)
    app.command("retain", rich_help_panel=_PANEL)(erasing.retain)
    app.command("erase", rich_help_panel=_PANEL)(erasing.erase)
    app.command("inspect", rich_help_panel=_PANEL)(inspecting.inspect)
    app.command("backup", rich_help_panel=_PANEL)(backup.backup)
    app.command("restore", rich_help_panel=_PANEL)(backup.restore_)
