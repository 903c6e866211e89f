"""What every translation is: a framework's events in, a sheet in our vocabulary out. Pure."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from orchestrator_free.adapters.sheet import Sheet
from orchestrator_free.errors import OrchestratorFreeError


class SourceFailed(OrchestratorFreeError):  # noqa: N818
    """A framework's stream broke off, failed or made no sense; the run keeps what came before."""


class MissingExtra(OrchestratorFreeError, ImportError):  # noqa: N818
    """A framework's package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'orchestrator-free[{extra}]'")


class Malformed(ValueError):  # noqa: N818
    """An event of a known type without what it has to have."""


class Translation(ABC):
    """Puts the events of one stream on a sheet.

    Attributes:
        framework: its name, for messages. sheet: where the events go.
        output: what the framework gives as the result, where that is more than text.
        stop: why the model stopped, in the framework's word. messages: what this stream adds to the conversation, in
            the framework's own form.
        pending: what the framework waits for people with, in its own form.
        steer: hands what people say to the framework while it works; None where it cannot take it: then `run.steers()`
            is left to the caller, for the next turn.
    """

    framework: ClassVar[str]

    def __init__(self) -> None:
        self.sheet = Sheet()
        self.output: Any = None
        self.stop: str = ""
        self.messages: list[Any] = []
        self.pending: list[Any] = []
        self.steer: Callable[[str], Awaitable[None]] | None = None

    @abstractmethod
    def take(self, event: Any) -> None:
        """Translate one event; one of an unknown type is counted in `sheet.skipped`.

        Raises:
            Malformed: or any error of looking into it: the event makes no sense.
            SourceFailed: it says that the stream has failed.
        """

    def end(self) -> None:  # noqa: B027 - most streams may end anywhere
        """The stream has ended by itself.

        Raises:
            SourceFailed: it was not at its end.
        """

    def fail(self, why: str) -> SourceFailed:
        """Return the error that ends the stream."""
        return SourceFailed(f"{self.framework} {why}")


def plain(event: Any) -> Mapping[str, Any]:
    """Return an event of a vendor's package as its JSON object.

    Raises:
        Malformed: it is none.
    """
    if isinstance(event, Mapping):
        return event
    if hasattr(event, "model_dump"):
        found = event.model_dump(mode="json", by_alias=True, warnings=False)
        if isinstance(found, dict):
            return found
    raise Malformed(f"{type(event).__name__} is no event")


def field(event: Mapping[str, Any], name: str, kind: type[Any] = str) -> Any:
    """Return a field that has to be there.

    Raises:
        Malformed: it is not, or is of another type.
    """
    value = event.get(name)
    if not isinstance(value, kind):
        raise Malformed(f"{name} is {type(value).__name__}, not {kind.__name__}")
    return value


def require(package: str, extra: str) -> Any:
    """Import a framework's package when it is needed.

    Raises:
        MissingExtra: it is not installed; says which extra has it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is not None and not package.startswith(error.name):
            raise  # the package is there, something that it needs is not
        raise MissingExtra(package.partition(".")[0], extra) from None
