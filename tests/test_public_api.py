"""What users import."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import orchestrator_free

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
