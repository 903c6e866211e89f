"""The table of docs/frameworks.md: every cell has a test that is there, or says why not; every module has the same face."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator_free.adapters import MissingExtra
from orchestrator_free.adapters.translation import require

ROOT = Path(__file__).parents[2]
MODULES = ["openai", "anthropic", "pydantic_ai", "openai_agents", "langgraph", "claude", "agui", "aisdk"]
COLUMNS = [
    "text", "reasoning", "tool calls", "sub-agents", "usage", "cancel", "steer", "history", "approval", "after a crash",
    "bad input",
]  # fmt: skip


def test_every_cell_of_the_table_has_a_test_or_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    """The tests are there under these names; the table is printed."""
    text = (ROOT / "docs/frameworks.md").read_text()
    body, _, tests = text.partition("## The tests")
    notes = dict(re.findall(r"^\[(\d+)\]: (.+)$", tests, re.MULTILINE))
    lines = [
        line for line in body.partition("## The table")[2].partition("\n## ")[0].splitlines() if line.startswith("|")
    ]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    with capsys.disabled():
        print()
        for row in (head, *rows):
            print(" | ".join(f"{cell[:22]:22}" for cell in row))

    assert head[1:] == COLUMNS
    for row in rows:
        assert len(row) == len(COLUMNS) + 1, row
        assert all(re.search(r"\[\d+\]", cell) or re.match(r"no: \S", cell) for cell in row[1:]), row
    assert set(re.findall(r"\[(\d+)\](?!\()", body)) == set(notes)
    for number, note in notes.items():
        file, _, name = note.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in names, (number, note)


@pytest.mark.parametrize("name", MODULES)
def test_every_adapter_has_the_same_two_functions(name: str) -> None:
    """`publish(run, source, …)` and `messages(run)`, both explained."""
    module = importlib.import_module(f"orchestrator_free.adapters.{name}")

    assert list(inspect.signature(module.publish).parameters)[:2] == ["run", "source"]
    assert list(inspect.signature(module.messages).parameters) == ["run"]
    assert {"publish", "messages"} <= set(module.__all__)
    assert module.publish.__doc__
    assert module.messages.__doc__


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one of its modules is what is imported; a fault inside of it is not taken for that."""
    with pytest.raises(
        MissingExtra, match=r"no_such_package is not installed: pip install 'orchestrator-free\[some\]'"
    ):
        require("no_such_package.inner", "some")

    def broken(name: str, *more: Any) -> Any:
        raise ModuleNotFoundError("no xyz", name="xyz")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="no xyz"):
        require("dbos", "dbos")


def test_the_programs_name_the_extras_that_pyproject_has() -> None:
    """Each program's header asks for an extra that exists; every framework of the table has one."""
    extras = set(re.findall(r"^([a-z-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    asked = {
        extra
        for path in (ROOT / "agents").glob("*.py")
        for extra in re.findall(r"orchestrator-free\[([a-z-]+)\]", path.read_text())
    }

    assert asked <= extras
    assert {"openai", "anthropic", "pydantic-ai", "openai-agents", "langgraph", "claude-agent-sdk", "dbos"} <= asked
