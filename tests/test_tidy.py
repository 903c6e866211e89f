"""House rules that no linter knows; each failure says where."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "orchestrator_free").rglob("*.py"))
MODULE_LINES = 400
BODY_LINES = 40


def tracked(*patterns: str) -> list[Path]:
    """Return the files that git knows; in an unpacked archive without git, those that are there."""
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        return [path for pattern in patterns for path in ROOT.glob(pattern)]
    return [ROOT / line for line in listed.stdout.splitlines()]


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_short(path: Path) -> None:
    """A module fits into a head, a function on a screen."""
    tree = ast.parse(path.read_text())
    lines = len(path.read_text().splitlines())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f"{node.name}: {size}" for node in functions if (size := body_lines(node)) > BODY_LINES]

    assert lines <= MODULE_LINES
    assert long == []


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function's body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_package_shadows_the_openai_agents_sdk() -> None:
    """`agents/` and `broker/` are folders of programs and of files, never packages."""
    assert tracked("agents/__init__.py", "broker/__init__.py", "agents/**/__init__.py") == []


def test_no_program_is_named_like_a_library() -> None:
    """A program's folder is first on its path: `agents/openai.py` would hide the library from its neighbours."""
    names = {path.stem for path in (ROOT / "agents").glob("*.py")}

    assert not names & {"agents", "asyncio", "json", "nats", "openai", "orchestrator_free", "pydantic", "rich", "typer"}


def test_nothing_is_left_unfinished() -> None:
    """No marker of work to do."""
    words = ("TO" + "DO", "FIX" + "ME", "X" + "XX")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in tracked("*.py", "*.js", "*.mjs")
        for word in words
        if word in path.read_text()
    ]

    assert found == []


def test_tests_wait_for_conditions_and_never_just_sleep() -> None:
    """`eventually` in conftest is where time passes; a pause inside a loop with a condition is such a wait, too."""
    found = []
    for path in tracked("tests/*.py"):
        if path.name == "conftest.py" or not path.is_file():
            continue
        tree = ast.parse(path.read_text())
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)):
            if function.name.startswith("test_"):
                found += [f"{path.relative_to(ROOT)}:{line}" for line in bare_sleeps(function)]

    assert found == []


def bare_sleeps(function: ast.AsyncFunctionDef) -> list[int]:
    """Return the lines of sleeps that stand directly in a test."""
    statements = [node.value for node in function.body if isinstance(node, ast.Expr)]
    calls = [node.value for node in statements if isinstance(node, ast.Await) and isinstance(node.value, ast.Call)]
    return [call.lineno for call in calls if ast.unparse(call.func) in ("asyncio.sleep", "time.sleep")]


def test_layers_point_one_way() -> None:
    """import-linter keeps the contracts of pyproject.toml; what they say stands in docs/architecture.md."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout


def test_every_room_is_on_the_map() -> None:
    """docs/architecture.md names every module and every folder of the package."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "orchestrator_free"
    names = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    names |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}

    assert {name for name in names if f"`{name}`" not in page} == set()
