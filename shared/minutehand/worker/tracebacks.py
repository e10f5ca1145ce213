"""Tracebacks as a failed attempt keeps them: frames without values, the user's own code first.

Who may read them is the database's to decide; see `job_attempts`.
"""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from minutehand.queue.errors import ProcessorError

#: Frames kept of an error, and of each error it was raised from.
MOST_FRAMES: Final = 20
MOST_FRAMES_OF_CAUSE: Final = 8
MOST_CAUSES: Final = 4
#: Characters of a line of code, of a path, and of a cause's message.
MOST_CODE: Final = 200
MOST_PATH: Final = 300
MOST_MESSAGE: Final = 500

#: The engine's own frames say nothing about a job; those of the apps in its package do.
_ENGINE: Final = "minutehand."
_APPS: Final = "minutehand.apps."

HIDDEN: Final = "[hidden]"
_NAMED = r"(?:api_?key|key|secret|token|passw(?:or)?d|credentials?|authorization)"
_SECRETS: Final = (
    # a literal that a telling name is set or compared to: token = "…", {"api_key": '…'}
    (
        re.compile(rf"""(?i)({_NAMED}\w*["']?\s*(?:=|:|==|,)\s*[rbf]*)(["'])(?:(?!\2).)+\2"""),
        rf"\1\2{HIDDEN}\2",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/-]{8,}=*"), rf"\1 {HIDDEN}"),
    (re.compile(r"(\w+://[^\s:/@]+:)[^\s@/]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"\beyJ[\w-]{10,}\.[\w-]{5,}\.[\w-]*"), HIDDEN),
    (re.compile(r"\b(?:sk|pk|rk|sb|gh[opsu]|xox[abp]|whsec)[_-][\w-]{12,}"), HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    (re.compile(r"\b[0-9a-fA-F]{40,}\b"), HIDDEN),
)


def without_secrets(text: str) -> str:
    """`text` with what looks like a key, a token or a password replaced."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def describe(error: BaseException, *, package: str = "") -> dict[str, Any] | None:
    """An error's frames and those of its causes; None when it passed through no code but ours.

    Args:
        package: The module of the processor: frames of its top-level package are the user's own.

    Returns:
        `{frames: [{file, line, function, code, own}], causes, left_out}`: own frames first, then
        the libraries', each the innermost first. No value of any variable is read.
    """
    # a ProcessorError says what its author chose; its causes speak in the worker's log alone
    is_told = isinstance(error, ProcessorError)
    frames = list(_frames(error.__traceback__, package))
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
    told: dict[str, Any] = {"frames": _ordered(frames)[:MOST_FRAMES]}
    if causes:
        told["causes"] = causes
    if len(frames) > MOST_FRAMES:
        told["left_out"] = len(frames) - MOST_FRAMES
    return told


def describe_stack(stack: Iterable[FrameType], *, package: str = "") -> dict[str, Any] | None:
    """The same of code that still runs: where a processor was that did not stop."""
    found = [frame for frame in (_frame(each, each.f_lineno, package) for each in stack) if frame]
    return {"frames": _ordered(found)[:MOST_FRAMES]} if found else None


def _ordered(frames: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    innermost_first = list(frames)[::-1]
    return sorted(innermost_first, key=lambda frame: not frame["own"])  # stable


def _frames(trace: TracebackType | None, package: str) -> Iterator[dict[str, Any]]:
    while trace is not None:
        frame = _frame(trace.tb_frame, trace.tb_lineno, package)
        if frame is not None:
            yield frame
        trace = trace.tb_next


def _frame(frame: FrameType, line: int | None, package: str) -> dict[str, Any] | None:
    module = str(frame.f_globals.get("__name__", ""))
    if module.startswith(_ENGINE) and not module.startswith(_APPS):
        return None
    code = frame.f_code
    text = linecache.getline(code.co_filename, line or 0, frame.f_globals).strip()
    return {
        "file": _short(code.co_filename)[-MOST_PATH:],
        "line": line,
        "function": code.co_name[:100],
        "code": without_secrets(text)[:MOST_CODE],
        "own": _is_own(module, code.co_filename, package),
    }


def _is_own(module: str, path: str, package: str) -> bool:
    top = package.partition(".")[0]
    if package.startswith(_APPS):
        top = ".".join(package.split(".")[:3])
    if top and (module == top or module.startswith(f"{top}.")):
        return True
    if module.startswith(_APPS) or "site-packages" in path or "dist-packages" in path:
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
