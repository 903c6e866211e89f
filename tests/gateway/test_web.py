"""What a browser loads from the gateway: the client's modules and the console, and nothing else of this machine."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


async def test_the_client_is_served_as_modules_that_are_loaded_once(gateway: Any) -> None:
    """With the right type, and a tag by which a browser asks whether it has changed."""
    first = await gateway.http.get("/client/index.js")
    again = await gateway.http.get("/client/index.js", headers={"if-none-match": first.headers["etag"]})

    assert first.status_code == 200
    assert first.content == (ROOT / "orchestrator_free/web/client/dist/index.js").read_bytes()
    assert first.headers["content-type"].startswith("text/javascript")
    assert first.headers["x-content-type-options"] == "nosniff"
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/client/nothing.js", "/client/../package.json", "/client/%2e%2e/package.json", "/client/..%2fpackage.json",
        "/client/.hidden.js", "/client/%2fetc%2fpasswd", "/client/index.js%00", "/client/", "/console/..%2f..%2fnothing.js",
    ],
)  # fmt: skip
async def test_nothing_else_of_this_machine_is_served(gateway: Any, path: str) -> None:
    """Whatever the path."""
    found = await gateway.http.get(path)
    assert found.status_code == 404
    assert found.headers["content-type"] == "application/problem+json"


async def test_console_without_a_slash_leads_to_the_page(gateway: Any) -> None:
    """The query goes with it."""
    found = await gateway.http.get("/console?session=s1")
    assert (found.status_code, found.headers["location"]) == (307, "console/?session=s1")


@pytest.mark.slow
def test_the_wheel_contains_what_the_gateway_serves(tmp_path: Path) -> None:
    """Also what is built, which elsewhere is not kept under version control."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    for part in ("client/dist", "console"):
        files = (path for path in (ROOT / "orchestrator_free/web" / part).rglob("*") if path.is_file())
        assert {str(path.relative_to(ROOT)) for path in files} <= names
