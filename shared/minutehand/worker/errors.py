"""The stored form of an error, with class, message, data, codes, and frames without values.

The stored parts of one error together have a maximum number of characters, so that their redaction
takes bounded time. Remedies depend on the class and the codes (HTTP status, SQLSTATE, errno,
signal, missing variable of the environment), never on the error's text. Only a rejected connection
of Postgres has no code, so that its text is read.
"""

import asyncio
import errno
import linecache
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from ctypes import CDLL
from http.client import HTTPConnection
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit

from minutehand.queue.credentials import WORKER_ROLE
from minutehand.queue.errors import ProcessorError
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.models import ErrorInfo
from minutehand.redaction import Redactor
from minutehand.worker.serialization import UNAWAITED, clean_text, is_unawaited, sanitize, text

MAX_MESSAGE = 2_000
#: Maximum bytes of an error's data as JSON, and maximum characters of a vendor's response.
MAX_DATA = 64_000
MAX_RESPONSE = 1_000
#: Maximum causes of an error, frames of the error, and frames of each cause.
MAX_CAUSES = 4
MAX_FRAMES = 20
MAX_FRAMES_PER_CAUSE = 8
#: Maximum calls that lead to a running line, and maximum characters of each call.
MAX_CALLS = 6
MAX_CALL = 120
#: Maximum characters of a line's text.
MAX_CODE = 200
#: Codes of errors without a number, by the name of their class.
_CODES = {
    "BrokenProcessPool": "BrokenProcessPool",
    "ConnectionRefusedError": "ECONNREFUSED",
    "ConnectionResetError": "ECONNRESET",
    "ConnectTimeout": "ConnectTimeout",
    "DefaultCredentialsError": "DefaultCredentialsError",
    "IncompleteRead": "EOF",
    "InvalidHeader": "InvalidHeader",
    "LocalProtocolError": "LocalProtocolError",
    "MemoryError": "ENOMEM",
    "NoCredentialsError": "NoCredentialsError",
    "PartialCredentialsError": "PartialCredentialsError",
    "PoolTimeout": "PoolTimeout",
    "RemoteDisconnected": "EOF",
    "ServerDisconnectedError": "EOF",
    "TimeoutError": "TimeoutError",
    "psycopg.errors.ConnectionTimeout": "ConnectTimeout",
    "psycopg_pool.TooManyRequests": "PoolTimeout",
    "sqlalchemy.exc.TimeoutError": "PoolTimeout",
}
#: Functions that reject a call because its object is closed, and the error that they then raise.
_CLOSED = {
    "aiohttp.client.ClientSession._request": "RuntimeError",
    "asyncio.base_events.BaseEventLoop._check_closed": "RuntimeError",
    "httpx._client.AsyncClient.send": "RuntimeError",
    "httpx._client.Client.send": "RuntimeError",
    "psycopg._connection_base.BaseConnection._check_connection_ok": "OperationalError",
    "psycopg.connection.Connection.execute": "OperationalError",
    "psycopg.connection_async.AsyncConnection.execute": "OperationalError",
    "sqlalchemy.engine.base.Connection._revalidate_connection": "ResourceClosedError",
}
#: Packages whose errors may contain a message of Postgres or of its pooler about a rejected
#: connection, and pattern of the messages of Postgres, PgBouncer and Supavisor.
_DRIVERS = {"asyncpg", "psycopg", "psycopg2", "sqlalchemy"}
_TOO_MANY_CONNECTIONS = re.compile(
    "too many (?:clients|connections)|remaining connection slots|max client|no more connections",
    re.IGNORECASE,
)
#: Methods of responses that parse a response's content as JSON.
_JSON_METHODS = {
    "aiohttp.client_reqrep.ClientResponse.json",
    "httpx._models.Response.json",
    "requests.models.Response.json",
}
#: Names of the errors of name resolution, by number.
_EAI = {number: name for name, number in vars(socket).items() if name.startswith("EAI_")}
#: Package of the engine, whose stack frames are omitted because they do not depend on the job.
_ENGINE = "minutehand."


def ending_error(kind: str, message: object, data: Any = None) -> ErrorInfo:
    """Return the error of an attempt with this type and message."""
    fields = data if data is None or isinstance(data, Mapping) else {"value": data}
    return _info(kind, message, fields, Redactor())


def error_info(error: BaseException, module: str = "") -> ErrorInfo:
    """Return the stored form of an exception, or of a task group's first exception. Never raise.

    Args:
        error: The exception.
        module: Module of the processor. The frames of the module's top-level package are marked as
            own.
    """
    redactor = Redactor()
    first = first_of(error)
    kind = type(first)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    more = len(error.exceptions) - 1 if isinstance(error, BaseExceptionGroup) else 0
    message = text(first) or kind.__name__
    message += UNAWAITED if is_unawaited(first) else ""
    message += f" (and {more} more in its task group)" if more else ""
    chain = [first, *(cause for cause, is_cause in _causes(first, module) if is_cause)]
    shown = None
    try:
        for number, cause in enumerate(chain, 1):
            if parts := _codes(cause, redactor):
                chain = chain[:number]  # the next errors may concern another server
                break
        address, shown = _addresses(chain, parts.get("address"))
        parts |= {"address": address, "traceback": _traceback(error, module, redactor)}
    except BaseException as odd:  # methods of a user's class may raise anything
        parts = {"data": {"unread": text(odd, MAX_MESSAGE)}}
    has_server = any(attribute(cause, "response") is not None for cause in chain)
    # users read a ProcessorError's text
    if shown and not (has_server or shown in message or isinstance(first, ProcessorError)):
        message += f" ({shown})"
    info = _info(name, message, attribute(first, "data"), redactor)
    return info.model_copy(update=sanitize(parts).value or {})


def attribute(error: object, name: str) -> Any:
    """Return an attribute of a user's object, or None if it is missing or cannot be read."""
    try:
        return getattr(error, name, None)
    except BaseException:  # a property of a user's class may raise anything
        return None


def first_of(error: BaseException) -> BaseException:
    """Return the first error of a task group and of groups within it, or the error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _info(kind: str, message: object, data: Any, redactor: Redactor) -> ErrorInfo:
    safe_text = redactor.text(text(message, 2 * MAX_MESSAGE))
    if len(safe_text) > MAX_MESSAGE:
        safe_text = safe_text[: MAX_MESSAGE - 1] + "…"
    details: Any = None
    if isinstance(data, Mapping):
        result = sanitize(data, max_bytes=MAX_DATA)
        if result.refused is None:
            details = redactor.data(result.value) or None
        else:
            details = {
                "repr": redactor.text(text(data, MAX_MESSAGE, repr)),
                "changed": result.refused,
            }
    return ErrorInfo(type=clean_text(kind)[:200], message=safe_text, data=details)


def _codes(cause: BaseException, redactor: Redactor) -> dict[str, Any]:
    """Return the codes in an error of httpx, requests, aiohttp, Postgres or the system."""
    codes: dict[str, Any] = {}
    unparsed = _unparsed_response(cause)
    response = attribute(cause, "response") if unparsed is None else unparsed
    if refused := _refused_by_proxy(cause):
        codes["address"], codes["status"] = refused
    if status := _status(cause, response):
        codes["status"] = status
    if (status or unparsed is not None) and (body := _body(response)):
        codes["response"] = redactor.text(body)
        if found := re.search(r'"code": ?"(PGRST\d+)"', body):
            codes["sqlstate"] = found[1]
    if isinstance(code := _aws_field(response, "Error", "Code"), str):
        codes["errno"] = text(code, 100)
    elif isinstance(cause, socket.gaierror):
        codes["errno"] = _EAI.get(cause.errno or 0, "EAI_NONAME")
    elif isinstance(cause, ssl.SSLError):  # its attribute `errno` is no error of the system
        codes["errno"] = cause.reason
    elif isinstance(cause, OSError) and cause.errno:
        codes["errno"] = errno.errorcode.get(cause.errno)
        program = _missing_program(cause)
        if isinstance(name := program or cause.filename, str):
            codes["program" if program else "path"] = redactor.text(text(name, 300))
    elif library := _unloaded_library(cause):
        codes["errno"], codes["path"] = "dlopen", redactor.text(text(library, 300))
    elif isinstance(cause, ModuleNotFoundError):
        codes["module"] = cause.name and text(cause.name, 200)
    elif variable := _missing_variable(cause):
        codes["variable"] = text(variable, 200)
    else:
        codes["errno"] = _library_code(cause)
    for name in ("sqlstate", "code"):  # errors of the Data API have the attribute `code`
        state = attribute(cause, name)
        # every SQLSTATE has a digit, unlike codes such as QUOTA
        if isinstance(state, str) and re.fullmatch(r"PGRST\d+|(?=.*\d)[0-9A-Z]{5}", state):
            codes.setdefault("sqlstate", state)
    package = type(cause).__module__.partition(".")[0]
    is_uncoded = package in _DRIVERS and codes.get("sqlstate") in {None, "08P01", "XX000"}
    if is_uncoded and _TOO_MANY_CONNECTIONS.search(text(cause, MAX_MESSAGE)):
        codes["sqlstate"] = "53300"
    if codes.get("sqlstate") == "42501" and any(
        type(frame.f_locals.get("self")) is WorkerFunctions for frame in _raised_in(cause)
    ):
        codes["role"] = WORKER_ROLE
    if isinstance(cause, subprocess.CalledProcessError):
        if cause.returncode < 0:
            codes["signal"] = signal_of(cause.returncode)
        if output := _end(cause.stderr or cause.output):
            codes["response"] = redactor.text(output)
    return {name: code for name, code in codes.items() if code is not None}


def _raised_in(error: BaseException) -> list[FrameType]:
    """Return the frames of an error, the innermost last."""
    return [frame for frame, _ in walk_tb(error.__traceback__)]


def _unparsed_response(error: BaseException) -> Any:
    """Return the response of an HTTP library whose content is not JSON, or None."""
    is_error = type(error).__name__ in {"ContentTypeError", "JSONDecodeError"}
    for frame in _raised_in(error) if is_error else ():
        # other objects may run code of the user when an attribute is read
        if f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}" in _JSON_METHODS:
            return frame.f_locals.get("self")
    return None


def _missing_program(error: OSError) -> str | None:
    """Return the name of a program that `subprocess` or uvloop did not find, or None."""
    for frame in _raised_in(error) if error.errno == errno.ENOENT else ():
        names, function = frame.f_locals, frame.f_code
        program: Any = error.filename
        if function.co_name == "_execute_child" and isinstance(program, str):  # or of a directory
            is_missing = names.get("executable") == os.fsencode(program)
        elif function is asyncio.create_subprocess_exec.__code__ and not program:
            program = names["program"]  # uvloop gives no name
            is_missing = isinstance(program, str) and "cwd" not in names["kwds"]
        else:
            continue
        # a command line without `shell=True` has spaces, and is no name of a program
        if is_missing and " " not in program:
            return str(program)
    return None


def _unloaded_library(error: BaseException) -> str | None:
    """Return the library that the system could not load, or None."""
    name: Any = None
    frames = _raised_in(error)
    if type(error) is ImportError and type(error.name) is str and error.name not in sys.modules:
        name = error.path if type(error.path) is str and error.path.endswith(".so") else None
    elif type(error) is OSError and frames and frames[-1].f_code is CDLL.__init__.__code__:
        name = frames[-1].f_locals["name"]
    return name if type(name) is str else None


def _is_closed(error: BaseException) -> bool:
    """Return whether a library rejected a call because its object was closed before the call."""
    for frame in _raised_in(error)[-1:]:
        function = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname}"
        # psycopg opens a cursor first, which fails only if the connection is closed
        return _CLOSED.get(function) == type(error).__name__ and "cur" not in frame.f_locals
    return False


def _library_code(error: BaseException) -> str | None:
    """Return the code of SQLite, the reply code of a mail server, or the code of the class."""
    reply = attribute(error, "smtp_code") or attribute(error, "code")
    if type(error).__name__.startswith("SMTP") and isinstance(reply, int):
        return f"SMTP {reply}"
    if isinstance(name := attribute(error, "sqlite_errorname"), str):
        return name
    for frame in _raised_in(error):  # of httpcore, whose class has other meanings too
        data = frame.f_locals.get("data")
        if frame.f_code.co_name == "_receive_event" and type(data) is bytes and not data:
            return "EOF"
    if _is_closed(error):
        return "Closed"
    for kind in type(error).__mro__:
        for name in (f"{kind.__module__}.{kind.__name__}", kind.__name__):
            if name in _CODES:
                return _CODES[name]
    return None


def _missing_variable(error: BaseException) -> object:
    """Return the variable that `os.environ` or the settings of pydantic-settings lack, or None."""
    if not isinstance(error, KeyError | ValueError):  # pydantic's error is a ValueError
        return None
    frames = _raised_in(error)
    if not frames:
        return None
    if frames[-1].f_code is type(os.environ).__getitem__.__code__:
        return error.args[0]
    kind: Any = type(frames[-1].f_locals.get("self"))
    if not any(base.__module__ == "pydantic_settings.main" for base in kind.__mro__):
        return None
    for each in (attribute(error, "errors") or list)():
        if each["type"] == "missing" and len(each["loc"]) == 1:
            [name] = each["loc"]
            prefix = kind.model_config["env_prefix"] if name in kind.model_fields else ""
            is_exact = kind.model_config["case_sensitive"]
            return f"{prefix}{name}" if is_exact else f"{prefix}{name}".upper()
    return None


def _status(error: BaseException, response: Any) -> int | None:
    """Return the HTTP status of an error's response, or of an error of a vendor's library."""
    values = [attribute(response, "status_code")]
    values.append(_aws_field(response, "ResponseMetadata", "HTTPStatusCode"))
    values += [attribute(error, name) for name in ("status_code", "status")]
    if not type(error).__name__.startswith("SMTP"):  # its code is no HTTP status
        values.append(attribute(error, "code"))
    # only a response can be a redirect
    least = 300 if response is not None or isinstance(error, HTTPError) else 400
    return next((int(n) for n in values if isinstance(n, int) and least <= n <= 599), None)


def _aws_field(response: Any, part: str, name: str) -> Any:
    """Return a field in a response of botocore, or None for another response."""
    fields = response.get(part) if type(response) is dict else None
    return fields.get(name) if type(fields) is dict else None


def _addresses(chain: list[BaseException], contacted: str | None) -> tuple[str | None, str | None]:
    """Return the address that was contacted, and this address as people read it.

    A proxy is contacted for the server of the request.
    """
    requested = next(filter(None, map(_requested, chain)), None)
    contacted = contacted or next(filter(None, map(_contacted, chain)), None)
    if contacted is None or requested is None:
        return (contacted or requested,) * 2
    if f"{contacted}:".startswith(f"{requested.rpartition(':')[0]}:"):
        return requested, requested
    return contacted, f"{contacted} for {requested}"


def _contacted(error: BaseException) -> str | None:
    """Return the address to which no connection could be made, from the frames of an error."""
    for frame in _raised_in(error):
        names = frame.f_locals
        if frame.f_code.co_name in {"connect_tcp", "create_connection"}:
            host, port = names.get("host"), names.get("port")
            if isinstance(address := names.get("address"), tuple):
                host, port = address[:2]
            # code of the user may pass a URL with a password
            is_host = isinstance(host, str) and re.fullmatch(r"[\w.:-]+", host)
            return f"{host}:{port}" if is_host and isinstance(port, int | str) else None
        if frame.f_code.co_name == "start_tls" and (host := names.get("server_hostname")):
            return str(host)
    return None


def _refused_by_proxy(error: BaseException) -> tuple[str, int] | None:
    """Return the proxy that refused to connect to the server, and the status of its response."""
    for frame in _raised_in(error):
        names = frame.f_locals
        connection = names.get("self")
        # other objects may run code of the user when an attribute is read
        is_httpcore = "httpcore" in frame.f_code.co_filename
        if is_httpcore and (origin := attribute(connection, "_proxy_origin")):
            status = attribute(names.get("connect_response"), "status")
            address = f"{origin.host.decode()}:{origin.port}"
        elif frame.f_code.co_name == "_tunnel" and isinstance(connection, HTTPConnection):
            address, status = f"{connection.host}:{connection.port}", names.get("code")
        else:
            continue
        if isinstance(status, int) and status >= 400:
            return address, status
    return None


def _requested(error: BaseException) -> str | None:
    """Return host and port of a failed request."""
    unparsed = _unparsed_response(error)
    try:
        source = error if unparsed is None else unparsed
        request = error if isinstance(error, HTTPError) else attribute(source, "request")
        request = request or attribute(source, "request_info")  # of aiohttp
        if (url := attribute(request, "url") or attribute(source, "url")) is None:
            # other errors of urllib have no request, but a frame of the traceback has the
            # connection
            for frame in _raised_in(error):
                if isinstance(connection := frame.f_locals.get("self"), HTTPConnection):
                    return f"{connection.host}:{connection.port}"
            return None
        parts = urlsplit(str(url))
        if parts.hostname is None:
            return None
        return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    except BaseException:  # methods of a user's class may raise anything
        return None


def signal_of(code: int) -> str | None:
    """Return the name of the signal that ended a program with this exit code, or None."""
    if code >= 0:
        return None
    return signal.Signals(-code).name if -code in {*signal.Signals} else str(-code)


def _body(response: Any) -> str:
    """Return the beginning of a vendor's response if its content was already read."""
    # `.content` and `.text` would read the rest of the content. httpx and requests store content
    # that was read in `_content`, and aiohttp in `_body`.
    content = attribute(response, "_content") or attribute(response, "_body")
    if not isinstance(content, bytes):
        return ""
    return text(content[: 4 * MAX_RESPONSE].decode("utf-8", "replace"), MAX_RESPONSE)


def _end(output: object) -> str:
    """Return the end of a program's output, where programs print their error."""
    if isinstance(output, bytes):
        output = output.decode("utf-8", "replace")
    return text(output[-MAX_RESPONSE:].strip(), MAX_RESPONSE) if isinstance(output, str) else ""


def _causes(error: BaseException, package: str) -> Iterator[tuple[BaseException, bool]]:
    """Yield the errors below an error or in its group, and whether they caused it.

    An error that code of the user was only handling caused nothing. But libraries often convert an
    error without `from`.
    """
    if isinstance(error, BaseExceptionGroup):
        yield from ((each, True) for each in error.exceptions[:MAX_CAUSES])
        return
    seen = {id(error)}
    is_cause = True
    for _ in range(MAX_CAUSES):
        # httpcore raises errors `from None`, with the cause as argument of the error
        nested = next((arg for arg in error.args[:1] if isinstance(arg, BaseException)), None)
        context = None if error.__suppress_context__ else error.__context__
        cause = error.__cause__ or nested or context
        if cause is None or id(cause) in seen or isinstance(cause, asyncio.CancelledError):
            return
        seen.add(id(cause))
        is_explicit = cause is error.__cause__ or cause is nested
        is_cause &= is_explicit or _converts(error, package)
        yield cause, is_cause
        error = cause


def _converts(error: BaseException, package: str) -> bool:
    """Return whether a function of a library caught an error and raised this error instead."""
    frames = _raised_in(error)
    if error.__context__ is None or not frames:
        return False
    found = _frame(frames[-1], 0, package)
    is_own = found is not None and found["own"]
    return not is_own and frames[-1] in _raised_in(error.__context__)


def _traceback(error: BaseException, package: str, redactor: Redactor) -> dict[str, Any] | None:
    """Return frames of an error and its causes, or None if only the engine's code raised it.

    The form is `{frames: [{file, line, function, code, own}], causes, left_out}`. Frames of the
    user's code come before frames of libraries, and inner frames before outer frames. The values of
    variables are not read.
    """
    trail = list(_frames(walk_tb(error.__traceback__), package))
    group = error
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
        trail += _frames(walk_tb(group.__traceback__), package)
    # omit the causes of a ProcessorError, because its author chose the text. The worker's log
    # contains the causes.
    chain = [
        {
            "type": type(cause).__qualname__,
            "message": redactor.text(text(cause, 500) or type(cause).__name__),
            "frames": _limit_frames(
                _frames(walk_tb(cause.__traceback__), package), MAX_FRAMES_PER_CAUSE, redactor
            ),
            **({} if is_cause else {"handled": True}),
        }
        for cause, is_cause in (
            () if isinstance(error, ProcessorError) else _causes(error, package)
        )
    ]
    if not trail and not chain:
        return None
    info: dict[str, Any] = {"frames": _limit_frames(trail, MAX_FRAMES, redactor)}
    if chain:
        info["causes"] = chain
    if len(trail) > MAX_FRAMES:
        info["left_out"] = len(trail) - MAX_FRAMES
    return info


class CodeLocation(NamedTuple):
    """The line that an attempt executes."""

    #: Path of the file, and number of the line.
    file: str
    line: int
    #: Calls that led there as `file:line function`, the innermost last.
    calls: list[str]

    @property
    def place(self) -> str:
        """The file and line as people read them."""
        return f"{_short(self.file)[-300:]}:{self.line}"

    @property
    def code(self) -> str:
        """Text of the line without secrets. Empty if the file cannot be read."""
        return _text_of_line(self.file, self.line, Redactor())


def _text_of_line(file: str, line: int | None, redactor: Redactor) -> str:
    return redactor.text(clean_text(linecache.getline(file, line or 0).strip()[:MAX_CODE]))


def _limit_frames(
    frames: Iterable[dict[str, Any]], limit: int, redactor: Redactor
) -> list[dict[str, Any]]:
    innermost_first = list(frames)[::-1]
    chosen = sorted(innermost_first, key=lambda frame: not frame["own"])[:limit]  # a stable sort
    for frame in chosen:
        frame["code"] = _text_of_line(frame["file"], frame["line"], redactor)
        frame["file"] = _short(frame["file"])[-300:]
    return chosen


def _frames(trace: Iterable[tuple[FrameType, int]], package: str) -> Iterator[dict[str, Any]]:
    return filter(None, (_frame(frame, line, package) for frame, line in trace))


def _frame(frame: FrameType, line: int, package: str) -> dict[str, Any] | None:
    """Return the location of a frame, or None for a frame of the engine."""
    code, scope = frame.f_code, frame.f_globals
    module = str(scope.get("__name__", ""))
    if module.startswith(_ENGINE):
        return None
    linecache.lazycache(code.co_filename, scope)
    return {
        "file": code.co_filename,
        "line": line,
        "function": code.co_name[:100],
        "own": not package or module.partition(".")[0] == package.partition(".")[0],
    }


def stack_in(frames: Iterable[tuple[FrameType, int]], package: str) -> list[dict[str, Any]]:
    """Return running frames in the format and order of a stored traceback."""
    return _limit_frames(_frames(frames, package), MAX_FRAMES, Redactor())


def location_in(frames: Iterable[tuple[FrameType, int]], package: str) -> CodeLocation | None:
    """Return the line that runs, or None if only frames of the engine run.

    The line is in the innermost frame of the user's package, or in the innermost frame of all. The
    calls are frames of the package and the innermost frame of all.
    """
    running = [*_frames(frames, package)]
    if not running:
        return None
    own = [frame for frame in running if frame["own"]] or running[-1:]
    chain = own if own[-1] is running[-1] else [*own, running[-1]]
    calls = [
        f"{_short(call['file'])}:{call['line']} {call['function']}"[-MAX_CALL:]
        for call in chain[-MAX_CALLS:]
    ]
    return CodeLocation(own[-1]["file"], own[-1]["line"], calls)


def _short(path: str) -> str:
    """Return a path relative to the longest folder of `sys.path` that contains it."""
    roots = [root for root in sys.path if root and path.startswith(f"{root.rstrip('/')}/")]
    if not roots:
        return Path(path).name if path.startswith("/") else path
    return path[len(max(roots, key=len).rstrip("/")) + 1 :]
