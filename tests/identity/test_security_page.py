"""docs/security.md says what there is: capabilities, limits with their defaults, options."""

from __future__ import annotations

import re
from pathlib import Path

from typer.main import get_command

from orchestrator_free.cli.app import app
from orchestrator_free.cli.guarding import _LIMITS
from orchestrator_free.identity.principal import CAPABILITIES

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text()


def test_the_page_names_every_capability_limit_and_option() -> None:
    """And none that is not."""
    cells = set(re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE))
    assert cells >= set(CAPABILITIES)
    for name, (_, most) in _LIMITS.items():
        assert f"`{name}`" in PAGE
        assert str(most) in PAGE
    up = get_command(app).commands["up"]  # type: ignore[attr-defined]
    options = {option for parameter in up.params for option in parameter.opts}
    told = set(re.findall(r"--(?:auth-[a-z]+|open|limit|trust-proxy|metrics|host)", PAGE))
    assert told <= options
    assert told >= {
        "--auth-keys",
        "--auth-jwks",
        "--auth-issuer",
        "--auth-audience",
        "--open",
        "--limit",
        "--trust-proxy",
    }
