"""Lines that a person types, while other lines come: from a terminal with a prompt that stays below, or from a pipe."""

from __future__ import annotations

import asyncio
import codecs
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Final

from rich.console import Console, RenderableType

try:
    import termios
    import tty
except ImportError:  # not on this system: lines come as the terminal gives them
    termios = tty = None  # type: ignore[assignment]

_CLEAR: Final = "\r\x1b[K"
_PIECE: Final = 65536
_INTERRUPT, _END, _ERASE_LINE, _ERASE_WORD = "\x03", "\x04", "\x15", "\x17"
_ERASE: Final = "\x7f\x08"


class Prompt:
    """Standard input as lines, and a place to print above what is being typed.

    Attributes:
        label: what stands before the cursor.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._typed = ""
        self._escape = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._restore: Callable[[], None] = lambda: None
        self.raw = termios is not None and sys.stdin.isatty() and console.is_terminal
        self.label = "> "

    def __enter__(self) -> Prompt:
        loop = asyncio.get_running_loop()
        if self.raw:
            self._enter_raw(loop)
        else:
            threading.Thread(target=self._read_pipe, args=(loop,), daemon=True, name="stdin").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _enter_raw(self, loop: asyncio.AbstractEventLoop) -> None:
        before = termios.tcgetattr(0)
        tty.setcbreak(0)
        mode = termios.tcgetattr(0)
        mode[3] &= ~termios.ISIG  # Ctrl-C comes as a character
        termios.tcsetattr(0, termios.TCSADRAIN, mode)
        loop.add_reader(0, self._on_keys)

        def restore() -> None:
            loop.remove_reader(0)
            termios.tcsetattr(0, termios.TCSADRAIN, before)
            self._write(_CLEAR)

        self._restore = restore
        self._draw()

    def _read_pipe(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read lines in a thread of its own: any kind of file will do, and nothing waits for it at the end."""
        left = b""
        while True:
            try:
                piece = os.read(0, _PIECE)
            except OSError:
                piece = b""
            *lines, left = (left + piece).split(b"\n")
            if not piece and left:
                lines = [left]
            try:
                for line in lines:
                    loop.call_soon_threadsafe(self._lines.put_nowait, line.decode(errors="replace").rstrip("\r"))
                if not piece:
                    loop.call_soon_threadsafe(self._lines.put_nowait, None)
                    return
            except RuntimeError:
                return  # the loop is closed: nobody reads any more

    async def lines(self) -> AsyncIterator[str]:
        """Yield the lines until the input ends."""
        while (line := await self._lines.get()) is not None:
            yield line

    def say(self, *words: RenderableType) -> None:
        """Print above the prompt."""
        if self.raw:
            self._write(_CLEAR)
        for one in words:
            self._console.print(one, highlight=False, markup=False, soft_wrap=True)
        if self.raw:
            self._draw()

    # -- on a terminal ------------------------------------------------------------------------------------------

    def _on_keys(self) -> None:
        for character in self._decoder.decode(os.read(0, _PIECE)):
            self._on_key(character)
        self._draw()

    def _on_key(self, key: str) -> None:
        if self._escape or key == "\x1b":
            self._escape += key
            if len(self._escape) > 1 and (key.isalpha() or key == "~"):
                self._escape = ""  # arrows and the like
        elif key in "\r\n":
            self._write(_CLEAR)
            self._lines.put_nowait(self._typed)
            self._typed = ""
        elif key == _INTERRUPT or (key == _END and not self._typed):
            self._lines.put_nowait(None)
        elif key in _ERASE:
            self._typed = self._typed[:-1]
        elif key == _ERASE_LINE:
            self._typed = ""
        elif key == _ERASE_WORD:
            self._typed = self._typed.rstrip().rpartition(" ")[0]
        elif key.isprintable():
            self._typed += key

    def _draw(self) -> None:
        room = max(10, shutil.get_terminal_size().columns - len(self.label) - 1)
        self._write(f"{_CLEAR}\x1b[1m{self.label}\x1b[0m{self._typed[-room:]}")

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()
