"""JSON mode: a stream of JSON values that is stored as the text between the brackets of an array.

What was sent is kept as it was written, so that no number loses a digit on its way.
"""

from __future__ import annotations

import json
import re
from typing import Final

import orjson

from orchestrator_free.durable_streams.refusals import malformed

JSON: Final = "application/json"
_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\n\r]*")


def is_json(content_type: str) -> bool:
    """Whether a stream of this content type is in JSON mode."""
    return content_type.partition(";")[0].strip().lower() == JSON


def flatten(body: bytes) -> bytes:
    """Return the values of a body, separated by commas: of an array its elements, else the value; empty for `[]`.

    Raises:
        Refusal: 400, it is not JSON.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed(f"the body is not JSON ({error}); a stream of application/json takes nothing else") from error
    text = body.strip(b" \t\n\r")
    return text[1:-1].strip(b" \t\n\r") if isinstance(value, list) else text


def prefix(values: bytes, count: int) -> bytes | None:
    """Return the first values of what `flatten` made; None if there are fewer."""
    text = values.decode()
    end = 0
    for number in range(count):
        start = _SPACE.match(text, end).end()  # type: ignore[union-attr]  # it matches anything
        if number:
            if text[start : start + 1] != ",":
                return None
            start = _SPACE.match(text, start + 1).end()  # type: ignore[union-attr]
        if start >= len(text):
            return None
        _, end = _DECODER.raw_decode(text, start)
    return text[:end].encode()
