"""The shipped programs as modules, and a way to serve one inside a test."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator_free import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

FOLDER = Path(__file__).parents[2] / "agents"


@cache
def load(name: str) -> ModuleType:
    """Import a program from its file, with no pause between its words."""
    before = os.environ.get("ORCHESTRATOR_FREE_PACE_MS")
    os.environ["ORCHESTRATOR_FREE_PACE_MS"] = "0"
    try:
        spec = importlib.util.spec_from_file_location(f"program_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        os.environ.pop("ORCHESTRATOR_FREE_PACE_MS")
        if before is not None:
            os.environ["ORCHESTRATOR_FREE_PACE_MS"] = before
    return module


@pytest.fixture(scope="session")
def program() -> Callable[[str], ModuleType]:
    """Return a program as a module: `program("outliner")`."""
    return load


@pytest.fixture(scope="session")
def folder() -> Path:
    """Where the programs are."""
    return FOLDER


@contextlib.asynccontextmanager
async def _served(url: str, agent: Any) -> AsyncIterator[None]:
    ready = asyncio.Event()
    async with connect(url, member=agent.name) as broker:
        task = asyncio.create_task(agent.serve(broker, ready=ready.set))
        await ready.wait()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
def served(broker_url: str) -> Callable[[Any], contextlib.AbstractAsyncContextManager[None]]:
    """Serve an agent in this process: `async with served(agent): …`."""
    return lambda agent: _served(broker_url, agent)
