"""Tracebacks as a failed attempt keeps them: frames without values, the user's own code first.

Who may read them is the database's to decide; see `job_attempts`.
"""

from __future__ import annotations

import asyncio
import linecache
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from minutehand.queue.errors import ProcessorError
from minutehand.redaction import without_secrets

#: Frames kept of an error, and of each error it was raised from.
MOST_FRAMES: Final = 20
MOST_FRAMES_OF_CAUSE: Final = 8
MOST_CAUSES: Final = 4
#: Functions that call each other in a circle of so many are folded.
MOST_CYCLE: Final = 4
#: Characters of a line of code, of a path, and of a cause's message.
MOST_CODE: Final = 200
MOST_PATH: Final = 300
MOST_MESSAGE: Final = 500

#: The engine's own frames say nothing about a job.
_ENGINE: Final = "minutehand."


def describe(error: BaseException, *, package: str = "") -> dict[str, Any] | None:
    """An error's frames and those of its causes; None when it passed through no code but ours.

    Args:
        package: The module of the processor: frames of its top-level package are the user's own.

    Returns:
        `{frames: [{file, line, function, code, own, times?}], causes, left_out}`: own frames first,
        then the libraries', each the innermost first; a recursion's once, with `times`. No value of
        any variable is read.
    """
    # a ProcessorError says what its author chose; its causes speak in the worker's log alone
    is_told = isinstance(error, ProcessorError)
    frames = _trail(error, package, is_told=is_told)
    causes = [
        {
            "type": type(cause).__qualname__,
            "message": without_secrets(_message(cause))[:MOST_MESSAGE],
            "frames": _ordered(_frames(cause.__traceback__, package))[:MOST_FRAMES_OF_CAUSE],
        }
        for cause in (() if is_told else _causes(error))
    ]
    if not frames and not causes:
        return None
    folded = _folded(frames)
    told: dict[str, Any] = {"frames": _kept(folded)}
    if causes:
        told["causes"] = causes
    if len(folded) > MOST_FRAMES:
        told["left_out"] = len(folded) - MOST_FRAMES
    return told


def first_of(error: BaseException) -> BaseException:
    """The first error of a task group and of groups within it; any other error as it is."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def suspended(task: asyncio.Task[Any]) -> list[FrameType]:
    """Where a task waits, outermost first: `Task.get_stack` has the outermost frame alone."""
    found: list[FrameType] = []
    at: Any = task.get_coro()
    while at is not None:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(at, f"{kind}_frame")), None)
        if kind is None:
            break
        if (frame := getattr(at, f"{kind}_frame")) is not None:
            found.append(frame)
        at = getattr(at, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    return found


def running(frame: FrameType | None) -> list[FrameType]:
    """The stack of a thread, outermost first."""
    found = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found[::-1]


def describe_stack(stack: Iterable[FrameType], *, package: str = "") -> dict[str, Any] | None:
    """The same of code that still runs: where a processor was that did not stop."""
    return _framed(_frame(each, each.f_lineno, package) for each in stack)


def describe_lines(
    lines: Iterable[tuple[str, int, str]], *, package: str = ""
) -> dict[str, Any] | None:
    """The same of another process's stack: its lines as (file, line, function), innermost last."""
    return _framed(
        _shown(_short(file).removesuffix(".py").replace("/", "."), file, line, function, package)
        for file, line, function in lines
    )


def _framed(frames: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
    found = _folded(frame for frame in frames if frame)
    return {"frames": _kept(found)} if found else None


def _folded(frames: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Frames of a recursion once, with how often they repeat: `times` of a cycle of frames."""
    kept: list[dict[str, Any]] = []
    for frame in frames:
        kept.append(frame)
        for length in range(1, MOST_CYCLE + 1):
            last, before = kept[-length:], kept[-2 * length : -length]
            if _places(last) == _places(before) and len(before) == length:
                del kept[-length:]
                for one in kept[-length:]:
                    one["times"] = one.get("times", 1) + 1
                break
    return kept


def _places(frames: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(frame["file"], frame["line"], frame["function"]) for frame in frames]


def _kept(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The most that are kept: own frames first, and of too many the outermost own one too."""
    ordered = _ordered(frames)
    kept = ordered[:MOST_FRAMES]
    caller = next((frame for frame in frames if frame["own"]), None)
    if caller is not None and not any(frame is caller for frame in kept):
        kept[-1] = caller
    return kept


def _ordered(frames: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    innermost_first = list(frames)[::-1]
    return sorted(innermost_first, key=lambda frame: not frame["own"])  # stable


def _trail(error: BaseException, package: str, *, is_told: bool) -> list[dict[str, Any]]:
    """The frames to where it went wrong: of a group to its first error, else to what caused it."""
    frames = list(_frames(error.__traceback__, package))
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
        frames += _frames(error.__traceback__, package)  # each goes on where its group was raised
    cause = error.__cause__
    if cause is not None and not is_told and not any(frame["own"] for frame in frames):
        frames += _frames(cause.__traceback__, package)
    return frames


def _frames(trace: TracebackType | None, package: str) -> Iterator[dict[str, Any]]:
    while trace is not None:
        frame = _frame(trace.tb_frame, trace.tb_lineno, package)
        if frame is not None:
            yield frame
        trace = trace.tb_next


def _frame(frame: FrameType, line: int | None, package: str) -> dict[str, Any] | None:
    module, code = str(frame.f_globals.get("__name__", "")), frame.f_code
    linecache.lazycache(code.co_filename, frame.f_globals)
    return _shown(module, code.co_filename, line, code.co_name, package)


def _shown(
    module: str, file: str, line: int | None, function: str, package: str
) -> dict[str, Any] | None:
    if module.startswith(_ENGINE):
        return None
    return {
        "file": _short(file)[-MOST_PATH:],
        "line": line,
        "function": function[:100],
        "code": without_secrets(linecache.getline(file, line or 0).strip())[:MOST_CODE],
        "own": _is_own(module, file, package),
    }


def _is_own(module: str, path: str, package: str) -> bool:
    top = package.partition(".")[0]
    if top and (module == top or module.startswith(f"{top}.")):
        return True
    if "site-packages" in path or "dist-packages" in path:
        return False
    if path.startswith("<") or module.partition(".")[0] in sys.stdlib_module_names:
        return False
    # without a package to go by, what lies beside no installed one is the project's
    return not top


def _short(path: str) -> str:
    """A path as the project writes it: below the longest folder that imports come from."""
    roots = [root for root in sys.path if root and path.startswith(f"{root.rstrip('/')}/")]
    if not roots:
        return Path(path).name if path.startswith("/") else path
    return path[len(max(roots, key=len).rstrip("/")) + 1 :]


def _causes(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        yield from error.exceptions[:MOST_CAUSES]
        return
    seen = {id(error)}
    for _ in range(MOST_CAUSES):
        below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if below is None or id(below) in seen:
            return
        seen.add(id(below))
        yield below
        error = below


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return type(error).__name__
