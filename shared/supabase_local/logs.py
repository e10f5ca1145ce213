"""Prints the output of child processes with a coloured prefix, and writes it to files."""

import asyncio
import json
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.markup import escape

#: Colours for the names of parts, in the order in which the parts start.
COLOURS = ("green", "yellow", "magenta", "cyan", "blue")
#: Number of lines of a part's log that are shown if the part does not start.
LAST_LINES = 12
_LEVELS = logging.getLevelNamesMapping()
_PLUMBING = {"timestamp", "at", "level", "message", "logger", "event", "exception", "color_message"}


class Logs:
    """Destination of the output of all parts.

    Args:
        threshold: Minimum level of lines that are printed. Files contain all lines.
    """

    def __init__(self, console: Console, folder: Path, *, threshold: str = "INFO") -> None:
        self._console = console
        self._folder = folder
        self.threshold = threshold
        self._readers: set[asyncio.Task[None]] = set()
        self._colours: dict[str, str] = {}

    def follow(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Forward the output of a child process until the process ends."""
        assert process.stdout is not None
        self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])
        task = asyncio.create_task(self._read(name, process.stdout), name=f"logs of {name}")
        self._readers.add(task)
        task.add_done_callback(self._readers.discard)

    async def drain(self) -> None:
        """Wait until the output of ended child processes is forwarded."""
        if self._readers:
            await asyncio.wait(self._readers, timeout=1)

    def last_lines(self, name: str) -> str:
        """Return the last lines of a part's log, and the path of the log file."""
        path = self._folder / f"{name}.log"
        words = path.read_text(errors="replace").splitlines() if path.exists() else []
        shown = "\n".join(f"  {readable(line)[1]}" for line in words[-LAST_LINES:])
        return f"last output in {path}:\n{shown or '  (none)'}"

    async def _read(self, name: str, stream: IO[bytes]) -> None:
        reader = asyncio.StreamReader(limit=1 << 20)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), stream
        )
        with (self._folder / f"{name}.log").open("ab", buffering=0) as file:
            while line := await _next_line(reader):
                file.write(line)
                self._show(name, line.decode(errors="replace").rstrip())
        transport.close()

    def _show(self, name: str, line: str) -> None:
        level, text = readable(line)
        if line and _LEVELS.get(level, 20) >= _LEVELS[self.threshold]:
            colour = self._colours[name]
            style = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}.get(level, "")
            body = f"[{style}]{escape(text)}[/]" if style else escape(text)
            self._console.print(f"[{colour}]{name:>8} │[/] {body}", highlight=False)


async def _next_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:  # the rest of a long line becomes another line
        return await reader.read(1 << 16)


def readable(line: str) -> tuple[str, str]:
    """Return the level and the short form of a line. A JSON line becomes its message and values."""
    try:
        entry: Any = json.loads(line)
    except ValueError:
        return "INFO", line
    if not isinstance(entry, dict) or "message" not in entry:
        return "INFO", line
    values = " ".join(
        f"{key}={_short(value)}"
        for key, value in entry.items()
        if key not in _PLUMBING and value is not None
    )
    text = f"{entry['message']}  {values}".rstrip()
    if "exception" in entry:
        text += "\n" + str(entry["exception"])
    return str(entry.get("level", "INFO")), text


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


Say = Callable[[str], None]
