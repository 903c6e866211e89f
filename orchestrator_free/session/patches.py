"""Changing a JSON value by a patch: RFC 7396 (merge) and RFC 6902 (operations). Pure."""

from __future__ import annotations

from typing import Any, Final

import orjson
from jsonpatch import JsonPatch, JsonPatchException, JsonPatchTestFailed, JsonPointerException

from orchestrator_free.errors import InvalidPatch, PatchFailed, TooLarge

#: operations of one JSON Patch
MAX_OPERATIONS: Final = 1000
_SHOWN_CHARACTERS: Final = 120
#: what an operation has beside its path
_NEEDED: Final = {
    "add": "value", "replace": "value", "test": "value", "move": "from", "copy": "from", "remove": "path",
}  # fmt: skip


def merged(value: Any, patch: Any) -> Any:
    """Return a value after a JSON Merge Patch: objects are merged, null removes a member, all else replaces.

    Args:
        value: any JSON; it is not changed.
        patch: any JSON.
    """
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), change)
    return result


def patched(value: Any, operations: Any, *, limit: int) -> Any:
    """Return a value after a JSON Patch; all operations apply, or none.

    Args:
        value: any JSON; it is not changed.
        operations: `[{"op": "replace", "path": "/a/0", "value": 1}, …]`.
        limit: bytes the value may have on its way, as JSON: a few copies of copies would fill any memory.

    Raises:
        InvalidPatch: not a JSON Patch; says which operation and why.
        PatchFailed: an operation does not apply to this value, or a `test` does not hold.
        TooLarge: beyond the limit.
    """
    steps = _steps(operations)
    result = orjson.loads(orjson.dumps(value))
    for number, (step, operation) in enumerate(steps):
        where = f"operation {number} ({_shown(operation['op'])} {_shown(operation['path'])})"
        try:
            result = step.apply(result, in_place=True)
        except JsonPatchTestFailed as error:
            raise PatchFailed(f"{where}: there is another value, or none; nothing was changed") from error
        except (JsonPatchException, JsonPointerException, RecursionError) as error:
            raise PatchFailed(f"{where} does not apply: {_shown(error)}; nothing was changed") from error
        if operation["op"] == "copy" and (size := len(orjson.dumps(result))) > limit:
            raise TooLarge(f"{where}: the value would have {size} bytes, the limit is {limit}")
    return result


def check_patch(operations: Any) -> None:
    """Check that operations are a JSON Patch.

    Raises:
        InvalidPatch: says which operation is wrong, and why.
    """
    _steps(operations)


def _steps(operations: Any) -> list[tuple[JsonPatch, dict[str, Any]]]:
    """Check a JSON Patch; return each operation as a patch of its own, sharing nothing with what was passed."""
    if not isinstance(operations, list):
        raise InvalidPatch('a JSON Patch is a list of operations: [{"op": "add", "path": "/a", "value": 1}]')
    if len(operations) > MAX_OPERATIONS:
        raise InvalidPatch(f"{len(operations)} operations are more than {MAX_OPERATIONS}; send several patches")
    try:
        copied = orjson.loads(orjson.dumps(operations))
    except TypeError as error:
        raise InvalidPatch(f"cannot be written as JSON: {error}") from error
    found = []
    for number, operation in enumerate(copied):
        if not isinstance(operation, dict):
            raise InvalidPatch(f"operation {number} is no object")
        needed = _NEEDED.get(str(operation.get("op")), "op")
        if needed not in operation:
            raise InvalidPatch(f"operation {number} ({_shown(operation.get('op'))}) has no {needed!r}")
        try:
            found.append((JsonPatch([operation]), operation))
        except (JsonPatchException, JsonPointerException) as error:
            raise InvalidPatch(f"operation {number} ({_shown(operation.get('op'))}): {_shown(error)}") from error
    return found


def _shown(what: object) -> str:
    text = str(what)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
