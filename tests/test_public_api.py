"""What users import."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import orchestrator_free
from orchestrator_free import Agent, Run
from orchestrator_free.errors import InvalidInput
from orchestrator_free.session.asks import AskOptions, Asks
from orchestrator_free.views.ledger import ToolFilters, tool_calls
from orchestrator_free.working.attempts import AgentOptions, AgentSettings

PACKAGE = Path(orchestrator_free.__file__).parent


def test_public_names_resolve_and_are_sorted() -> None:
    """`from orchestrator_free import …` gives all of `__all__`."""
    assert orchestrator_free.__all__ == sorted(orchestrator_free.__all__)
    assert all(getattr(orchestrator_free, name) is not None for name in orchestrator_free.__all__)


def test_every_public_name_is_explained() -> None:
    """Each has a docstring of its own."""
    assert [name for name in orchestrator_free.__all__ if not getattr(orchestrator_free, name).__doc__] == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_module_can_be_imported_alone_and_says_what_it_is(path: Path) -> None:
    """No hidden order of imports; a docstring at the top."""
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    if name.endswith(("__main__", "_agents")):
        pytest.skip("runs a program")

    assert importlib.import_module(name).__doc__


def test_the_package_is_typed() -> None:
    """Checkers of users read our annotations."""
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize(
    ("options", "function", "left_out"),
    [
        (AgentOptions, AgentSettings, set()),
        (AskOptions, Asks.ask, {"self", "text", "run"}),
        (ToolFilters, tool_calls, {"view", "now"}),
    ],
    ids=["Agent", "Run.ask", "Session.tools"],
)
def test_options_that_are_passed_on_are_known_to_checkers(options: Any, function: Any, left_out: set[str]) -> None:
    """Where a signature says `**options`, an editor completes them and a checker refuses others."""
    assert set(options.__annotations__) == set(inspect.signature(function).parameters) - left_out


async def _writes(run: Run) -> None:
    """A handler."""


async def _yields(run: Run) -> AsyncIterator[str]:
    """What is a handler elsewhere."""
    yield "Hello"


def test_an_agent_has_one_handler_and_it_does_not_yield() -> None:
    """Said where it is written, not when the first input comes."""
    agent = Agent("greeter")
    with pytest.raises(InvalidInput, match="yields"):
        agent(_yields)  # type: ignore[arg-type] # that is the mistake
    agent(_writes)
    with pytest.raises(InvalidInput, match="has a handler already"):
        agent(_writes)


@pytest.mark.parametrize("settings", [{"concurrency": 0}, {"max_attempts": 0}, {"grace_seconds": -1}])
def test_settings_with_which_no_agent_could_work_are_refused(settings: dict[str, Any]) -> None:
    """With the name of the setting and what it may be."""
    [name] = settings
    with pytest.raises(InvalidInput, match=f"{name}=.*expected"):
        Agent("greeter", **settings)
