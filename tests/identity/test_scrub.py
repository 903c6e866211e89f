"""Secrets stay out of logs, wherever they stand; what is no secret stays as it is."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime

import orjson
import pytest

from orchestrator_free.logs import HIDDEN, hide_secrets, scrub

JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"
SEED = "SUAM" + "A2" * 27


@pytest.mark.parametrize(
    "secret",
    [JWT, JWT[:24], SEED, "tkt_abcDEF-123_x"],
)
@pytest.mark.parametrize(
    "around", ["{}", "GET /x?y={}&z=1", "error: '{}' is bad", '{{"a": "{}"}}', "Bearer {}", "{} {}", "/path/{}/x"]
)
def test_a_secret_in_a_text_is_hidden(secret: str, around: str) -> None:
    """Tokens, cut ones too; seeds; tickets."""
    said = scrub(around.format(secret, secret))
    assert secret not in said
    assert HIDDEN in said


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("nats://user:pa55word@host:4222", "pa55word"), ("Authorization: Bearer opaque-thing", "opaque-thing"),
        ("authorization: Basic YW5uOnNlY3JldA==", "YW5uOnNlY3JldA=="), ("/x?ticket=opaque&y=1", "opaque"),
        ("/x?access_token=opaque", "opaque"), ("/x?a=1&token=opaque", "opaque"),
    ],
)  # fmt: skip
def test_a_secret_is_known_by_its_place(text: str, secret: str) -> None:
    """Passwords in addresses, headers, query strings."""
    assert secret not in scrub(text)


def test_fields_are_hidden_by_their_names_at_any_depth() -> None:
    """Also where the value looks like nothing; exceptions are texts, too."""
    event = {
        "event": "x", "token": "plain", "Authorization": "plain", "nkey_seed": "plain", "x-api-key": "plain",
        "about": {"password": "plain", "list": [{"ticket": "plain"}, JWT]}, "error": ValueError(JWT), "raw": JWT.encode(),
    }  # fmt: skip
    said = str(hide_secrets(None, "info", event))
    assert "plain" not in said
    assert "eyJ" not in said


def test_what_is_no_secret_stays() -> None:
    """A log that hides everything says nothing."""
    event = {
        "event": "reading the log failed", "session": "SUPPORT-1", "path": "/sessions/s1/events?after=ab12cd34-57", "count": 3,
        "ok": True, "nothing": None, "tokens": 17, "url": "nats://127.0.0.1:4222", "agents": ["outliner"],
    }  # fmt: skip
    assert hide_secrets(None, "info", dict(event)) == event


LIBRARY = """
import logging
from orchestrator_free.logs import configure
configure()
logging.getLogger("a.library").error("no %s for nats://user:pa55word@host", "answer")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("a.library").exception("failed")
"""


def test_what_libraries_log_is_json_where_ours_is() -> None:
    """Whoever collects the lines can read each of them; a traceback is a field, a secret is hidden there, too."""
    done = subprocess.run([sys.executable, "-c", LIBRARY], capture_output=True, text=True, check=True)

    first, second = map(orjson.loads, done.stderr.splitlines())

    assert (first["logger"], first["level"]) == ("a.library", "error")
    assert first["event"] == f"no answer for nats://{HIDDEN}@host"
    assert datetime.fromisoformat(first["timestamp"]).tzinfo is not None
    assert "ZeroDivisionError" in second["exception"]
