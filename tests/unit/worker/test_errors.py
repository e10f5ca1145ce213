"""The stored form of an error: class, message, data, codes and frames, without secrets."""

import asyncio
import errno
import json
import os
import socket
import sqlite3
import subprocess
from asyncio import create_subprocess_exec
from collections.abc import Callable, MutableMapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from ctypes import CDLL
from email.message import Message
from functools import partial
from http import HTTPStatus
from http.client import IncompleteRead
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import httpx
import psycopg
import pytest
import requests
import uvloop
from botocore.exceptions import ClientError, NoCredentialsError
from psycopg.conninfo import make_conninfo
from pydantic import AliasChoices, BaseModel, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import ProcessorError, QueueError
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.models import ErrorInfo
from minutehand.worker import Fail, Job, JobContext
from minutehand.worker.errors import CodeLocation, ending_error, error_info, location_in
from minutehand.worker.testing import ProcessorTest
from tests.support.databases import Database
from tests.support.http_server import http_server
from tests.support.queue_model import SETTINGS

SECRET = "sk_live_0123456789abcdef0123456789abcdef"


def raised(error: BaseException, cause: BaseException | None = None) -> ErrorInfo:
    """Raise an error in this module and return its stored form."""
    try:
        raise error from cause
    except BaseException as caught:
        return error_info(caught, __name__)


def missing(values: MutableMapping[str, str]) -> BaseException:
    """Return the error of a lookup of a missing key."""
    with pytest.raises(KeyError) as found:
        values["VENDOR_KEY"]
    return found.value


def incomplete(**options: Any) -> BaseException:
    """Return the error of settings that the environment lacks."""

    class Vendor(BaseSettings):
        model_config = SettingsConfigDict(**options)  # type: ignore[typeddict-item]
        key: str
        alias: str = Field(validation_alias=AliasChoices("VENDOR_ALIAS", "ALIAS"))

    class Values(BaseModel):
        key: str

    with pytest.raises(ValueError, match="key") as found:
        Vendor() if options else Values.model_validate({})
    return found.value


def refused(body: bytes = b"") -> BaseException:
    """Return an error of an HTTP client."""
    request = httpx.Request("GET", "https://a.test")
    response = httpx.Response(429, content=body)
    return httpx.HTTPStatusError("no", request=request, response=response)


def rejected_by_aws(code: str) -> BaseException:
    """Return an error of a client of AWS."""
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    return ClientError(answer, "PutObject")


class VendorError(Exception):
    """An error of a vendor's library, which keeps no response."""

    def __init__(self, **fields: object) -> None:
        vars(self).update(fields)


class SMTPError(VendorError, TimeoutError):
    pass


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (refused(), {"status": 429}),
        (VendorError(status_code=401), {"status": 401}),
        (VendorError(status=503, code="busy"), {"status": 503}),
        (VendorError(status="error", code=HTTPStatus.FORBIDDEN), {"status": 403}),
        (VendorError(code=302), {"status": None}),
        (SMTPError(code=550), {"status": None}),
        (OSError(errno.ENOSPC, "no space"), {"errno": "ENOSPC"}),
        (ConnectionRefusedError("mail.test:587"), {"errno": "ECONNREFUSED"}),
        (OSError(errno.ENOSPC, "no space", "/tmp/a"), {"path": "/tmp/a"}),
        (IncompleteRead(b""), {"errno": "EOF"}),
        (httpx.PoolTimeout("full"), {"errno": "PoolTimeout"}),
        (httpx.ConnectTimeout("late"), {"errno": "ConnectTimeout"}),
        (psycopg.errors.ConnectionTimeout("late"), {"errno": "ConnectTimeout"}),
        (NoCredentialsError(), {"errno": "NoCredentialsError"}),
        (rejected_by_aws("AccessDenied"), {"status": 403}),
        (VendorError(response={"Error": "no"}), {"errno": None}),
        (rejected_by_aws("ThrottlingException"), {"errno": "ThrottlingException"}),
        (SMTPError(smtp_code=535), {"errno": "SMTP 535"}),
        (SMTPError(), {"errno": "TimeoutError"}),
        (TimeoutError(), {"errno": "TimeoutError"}),
        (TimeoutError(errno.ETIMEDOUT, "no"), {"errno": "ETIMEDOUT"}),
        (socket.gaierror(socket.EAI_AGAIN, "later"), {"errno": "EAI_AGAIN"}),
        (MemoryError(), {"errno": "ENOMEM"}),
        (psycopg.errors.TooManyConnections("full"), {"sqlstate": "53300"}),
        (psycopg.OperationalError("closed"), {"sqlstate": None}),
        (QueueError("no right", status=403, code="42501"), {"sqlstate": "42501"}),
        (QueueError("no function", status=404, code="PGRST202"), {"sqlstate": "PGRST202"}),
        (refused(b'{"code":"PGRST202"}'), {"sqlstate": "PGRST202"}),
        (subprocess.CalledProcessError(-9, "ffmpeg"), {"signal": "SIGKILL"}),
        (missing(os.environ), {"variable": "VENDOR_KEY"}),
        (missing({}), {"variable": None}),
        (incomplete(env_prefix="VENDOR_"), {"variable": "VENDOR_KEY"}),
        (incomplete(env_prefix="my_", case_sensitive=True), {"variable": "my_key"}),
        (incomplete(), {"variable": None}),
        (subprocess.CalledProcessError(3, "lp", stderr=b"no font\n"), {"response": "no font"}),
    ],
)
def test_a_code_is_what_its_class_says_also_of_a_cause(
    error: BaseException, code: dict[str, Any]
) -> None:
    """The stored error has the status, errno, SQLSTATE or signal of the error or its cause."""
    [(name, value)] = code.items()

    assert getattr(raised(error), name) == value
    assert getattr(raised(RuntimeError("wrapped"), error), name) == value


def test_frames_are_own_first_and_hold_no_values() -> None:
    """A stored traceback lists the project's own frames before those of libraries.

    It contains no values.
    """
    password = SECRET

    def reads() -> None:
        httpx.URL(len(password))  # type: ignore[arg-type]

    try:
        reads()
    except Exception as error:
        result = raised(RuntimeError(f"token={SECRET}"), error)
        chosen = raised(ProcessorError("sorry"), error)

    assert result.message == "token=[hidden]"
    traceback: Any = result.traceback
    assert traceback["frames"][0]["function"] == "raised"
    [cause] = traceback["causes"]
    assert [frame["own"] for frame in cause["frames"][:2]] == [True, True]
    assert cause["frames"][0]["function"] == "reads"
    assert not cause["frames"][-1]["own"]
    assert SECRET not in str(result.model_dump())
    assert chosen.traceback is not None
    assert "causes" not in chosen.traceback


def lock_file(folder: Path) -> None:
    first, second = (sqlite3.connect(folder / "a.db", timeout=0) for _ in range(2))
    with closing(first), closing(second):
        first.execute("begin exclusive")
        second.execute("begin exclusive")


def end_process() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(os._exit, 9).result()


@pytest.mark.parametrize(
    ("run", "codes"),
    [
        (lambda _: import_module("no_such_module"), {"module": "no_such_module"}),
        (lambda _: subprocess.run(["no-program"]), {"errno": "ENOENT", "program": "no-program"}),
        (lambda _: asyncio.run(create_subprocess_exec("/no/a")), {"program": "/no/a"}),
        (lambda _: uvloop.run(create_subprocess_exec("no-program")), {"program": "no-program"}),
        (lambda _: uvloop.run(create_subprocess_exec("ls", cwd="/no")), {"program": None}),
        (lambda _: subprocess.run("no -a"), {"program": None}),
        (lambda _: subprocess.run(["ls"], cwd="/no"), {"program": None, "path": "/no"}),
        (lock_file, {"errno": "SQLITE_BUSY"}),
        (lambda _: end_process(), {"errno": "BrokenProcessPool"}),
    ],
)
def test_an_error_of_the_machine_has_the_code_of_its_remedy(
    run: Callable[[Path], object], codes: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises((OSError, ImportError, sqlite3.Error, BrokenExecutor)) as found:
        run(tmp_path)

    assert error_info(found.value).model_dump(include=set(codes)) == codes


def closed_client() -> None:
    client = httpx.Client()
    client.close()
    client.get("http://a.test")


def closed_loop() -> None:
    loop = asyncio.SelectorEventLoop()
    loop.close()
    loop.call_soon(print)


def closed_connection(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.close()
        connection.execute("select 1")


def closed_cursor(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.close()
        connection.cursor()


def test_an_object_that_was_closed_before_the_call_has_a_code(database: Database) -> None:
    """No connection was attempted, so neither its address nor its password can be wrong."""
    calls: list[Callable[[], None]] = [closed_client, closed_loop]
    calls += [partial(call, database.url) for call in (closed_connection, closed_cursor)]
    for call in calls:
        with pytest.raises(Exception, match="closed") as found:
            call()
        assert error_info(found.value, __name__).errno == "Closed"


def test_a_connection_that_the_database_has_not_left_has_a_code(database: Database) -> None:
    """The driver of Postgres gives the error of a connection no code."""
    database.run("create role crowded login password 'x' connection limit 1")
    url = make_conninfo(database.url, user="crowded", password="x")
    try:
        with psycopg.connect(url), pytest.raises(psycopg.OperationalError) as found:
            psycopg.connect(url)
    finally:
        database.run("drop role crowded")

    assert error_info(found.value, __name__).sqlstate == "53300"
    pooled = psycopg.errors.InternalError_("Max client connections reached")
    assert error_info(pooled).sqlstate == "53300"
    assert error_info(RuntimeError("Max client connections reached")).sqlstate is None


def locked_row(url: str) -> None:
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("do $$ begin raise sqlstate '55P03'; end $$")


def lost_connection(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("select pg_terminate_backend(pg_backend_pid())")


def rejected_request(url: str) -> None:
    with httpx.Client() as client, client.stream("GET", url) as response:
        response.raise_for_status()


def test_an_object_that_is_closed_after_the_error_is_not_its_cause(database: Database) -> None:
    with http_server(lambda *_: (503, b"", {})) as url:
        calls = {
            "55P03": partial(locked_row, database.url),
            "57P01": partial(lost_connection, database.url),
            503: partial(rejected_request, url),
        }
        for code, call in calls.items():
            with pytest.raises((psycopg.Error, httpx.HTTPError)) as found:
                call()
            info = error_info(found.value, __name__)
            assert (info.sqlstate or info.status, info.errno) == (code, None)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("x", name="q", path=Path("a.so")),  # type: ignore[arg-type]
        ImportError("x", name=["q"], path="a.so"),  # type: ignore[arg-type]
        RuntimeError("x"),
    ],
)
def test_an_odd_error_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as found:
        exec("raise error", {"error": error})
    assert error_info(found.value, __name__).traceback


def test_a_library_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    extension = tmp_path / "minutehand_extension.so"
    extension.write_bytes(b"no library")
    spec: Any = spec_from_file_location(extension.stem, extension)
    for library, load in (
        ("libvips-cpp.so.42", partial(CDLL, "libvips-cpp.so.42")),
        (str(extension), partial(module_from_spec, spec)),
    ):
        with pytest.raises((OSError, ImportError)) as found:
            load()
        info = error_info(found.value, __name__)
        assert (info.errno, info.path) == ("dlopen", library)


@pytest.mark.parametrize(
    ("response", "scheme", "code"),
    [
        (b"", "http", "EOF"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "http", "EOF"),
        (b"no HTTP\r\n\r\n", "http", None),
        (b"HTTP/1.1 400 No\r\n\r\n", "https", "WRONG_VERSION_NUMBER"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", "http", 302),
    ],
)
def test_a_server_that_answers_otherwise_than_expected_is_named_with_a_code(
    response: bytes, scheme: str, code: object
) -> None:
    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(response)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
        threads.submit(serve)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(httpx.HTTPError) as found:
            httpx.get(f"{scheme}://{address}").raise_for_status()

    info = error_info(found.value)
    assert (info.status or info.errno, info.address) == (code, address)


def test_a_failed_request_names_the_address() -> None:
    """The message of a failed request contains the server's host and port, but no secret."""
    request = httpx.Request("POST", "https://u:secret@vendor.test/v1/chat?key=secret")
    below = httpx.ConnectError("[Errno 111] Connection refused", request=request)
    busy = HTTPError(str(request.url), 503, "Busy", Message(), BytesIO())

    for info in (raised(below), raised(ConnectionError("no connection"), below), raised(busy)):
        assert "(vendor.test:443)" in info.message
        assert "secret" not in info.message
    no_host = httpx.UnsupportedProtocol("no http://", request=httpx.Request("POST", "/chat"))
    for other in (refused(), no_host):
        assert "(" not in raised(other).message
    with pytest.raises(URLError) as found:
        build_opener(ProxyHandler({})).open("http://127.0.0.1:1/v1")
    assert error_info(found.value).message.endswith("refused> (127.0.0.1:1)")


def test_an_answer_that_is_not_json_is_stored_with_its_server() -> None:
    """Other texts that are not JSON may be private."""
    with http_server(lambda *_: (200, b"<html>busy", {})) as server:
        for get in (httpx.get, requests.get):
            with pytest.raises(ValueError, match="Expecting value") as found:
                get(server).json()
            info = error_info(found.value)
            assert (info.response, info.status) == ("<html>busy", None)
            assert info.message.endswith(f"({server.removeprefix('http://')})")

    # aiohttp, which the tests do not install, keeps the content and the request under other names
    aiohttp: dict[str, Any] = {"__name__": "aiohttp.client_reqrep", "json": json}
    exec("class ClientResponse:\n def json(self): return json.loads(self._body)", aiohttp)
    response = aiohttp["ClientResponse"]()
    response._body, response.request_info = b"<html>busy", SimpleNamespace(url="http://a.test/b")
    with pytest.raises(ValueError, match="Expecting value") as found:
        response.json()
    info = error_info(found.value)
    assert (info.response, info.address) == ("<html>busy", "a.test:80")

    class Document:
        _content = b"private"
        read = 0

        @property
        def request(self) -> object:
            self.read += 1
            return self

        def json(self) -> object:
            return json.loads(self._content)

    document = Document()
    with pytest.raises(ValueError, match="Expecting value") as found:
        document.json()
    assert "private" not in str(error_info(found.value))
    assert document.read == 0


async def test_a_refused_call_of_a_workers_function_names_its_role() -> None:
    denied = httpx.Response(403, json={"code": "42501", "message": "permission denied"})
    network = httpx.MockTransport(lambda _: denied)
    functions = WorkerFunctions(SETTINGS, api=DataApi("http://a.test", transport=network))
    with pytest.raises(QueueError) as found:
        await functions.call("mine", {})

    assert error_info(found.value).role == "job_worker"
    assert raised(QueueError("no right", code="42501")).role is None


@pytest.mark.parametrize("url", ["http://vat.test/", "https://vat.test/"])
def test_an_error_of_a_proxy_names_the_proxy(url: str) -> None:
    """The server of the request was never contacted."""
    proxy = "http://127.0.0.1:1"
    with pytest.raises(httpx.ConnectError) as found, httpx.Client(proxy=proxy) as client:
        client.get(url)

    async def call() -> None:
        async with httpx.AsyncClient(proxy=proxy) as client:
            await client.get(url)

    with pytest.raises(httpx.ConnectError) as later:
        asyncio.run(call())

    for info in map(error_info, (found.value, later.value)):
        assert info.address == "127.0.0.1:1"
        assert "(127.0.0.1:1 for vat.test:" in info.message
    with pytest.raises(ConnectionRefusedError) as refusal:
        socket.create_connection(("localhost", 1))
    assert error_info(refusal.value).address == "localhost:1"


def test_a_proxy_that_refuses_to_connect_is_named_with_its_status() -> None:
    """The server of the request sent no response."""
    url = "https://vat.test/"
    with http_server(lambda *_: (200, b"", {})) as server:  # it rejects the method CONNECT
        proxy = server.removeprefix("http://")
        opener = build_opener(ProxyHandler({"https": f"http://u:secret@{proxy}"}))
        calls = partial(httpx.get, url, proxy=server), partial(opener.open, url)
        for call, error in zip(calls, (httpx.ProxyError, URLError), strict=True):
            with pytest.raises(error) as found:
                call()
            info = error_info(found.value)
            assert (info.address, info.model_dump()["status"]) == (proxy, 501)
            assert f"({proxy}" in info.message  # urllib does not name the server
            assert "secret" not in str(info)


@pytest.mark.parametrize(
    ("address", "found"),
    [(("::1", 5, 0, 0), "::1:5"), ("u:secret@db.test", None), (("u:secret@db.test", 5), None)],
)
def test_an_address_of_another_kind_hides_no_code_and_shows_no_secret(
    address: object, found: str | None
) -> None:
    """Code of the user may also have a function create_connection."""

    def create_connection(address: object) -> None:
        raise ConnectionRefusedError(111, "no")

    with pytest.raises(ConnectionRefusedError) as refusal:
        create_connection(address)

    info = error_info(refusal.value)
    assert (info.errno, info.address) == ("ECONNREFUSED", found)
    assert "secret" not in info.message


def test_an_error_is_read_without_calls_of_the_objects_in_its_frames() -> None:
    """An attribute of a client may be a call of its server."""
    called = []

    class Client:
        def __getattr__(self, name: str) -> object:
            called.append(name)
            return self

        def __eq__(self, other: object) -> bool:
            called.append("==")
            return True

        def _receive_event(self, data: object) -> None:
            raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError) as found:
        Client()._receive_event(Client())

    assert (error_info(found.value).errno, called) == ("ECONNREFUSED", [])


def test_code_and_address_come_from_one_error() -> None:
    """An error that was handled when another one was raised did not cause it."""
    mail = ConnectionRefusedError("smtp.test:587 refused")
    plain = RuntimeError("no mail")
    found = []
    for error in (mail, plain):
        try:
            try:
                raise refused()
            except httpx.HTTPStatusError:
                raise error  # noqa: B904
        except (OSError, RuntimeError) as caught:
            found.append(error_info(caught, __name__))
            found.append(error_info(caught, "another.package"))  # a library converts errors

    assert [(info.status, info.errno, info.address) for info in found] == [
        *2 * [(None, "ECONNREFUSED", None)],
        (None, None, None),
        (429, None, "a.test:443"),
    ]
    handled: Any = [info.traceback and info.traceback["causes"][0] for info in found]
    assert ["handled" in each for each in handled] == [True, False, True, False]
    info = raised(mail, refused())
    assert (info.status, info.address) == (None, None)


async def test_an_error_about_a_coroutine_says_that_a_call_was_not_awaited() -> None:
    async def rate() -> int:
        return 7

    async def forget(job: Job[Any], ctx: JobContext) -> Any:
        return {"rate": call} if job.payload else json.dumps(call)

    for payload in ({}, {"returns": True}):
        call = rate()
        run = await ProcessorTest(forget, payload).run()
        call.close()
        assert run.error is not None
        assert "; a call was not awaited" in run.error.message


def test_of_a_task_group_the_first_error_is_named() -> None:
    """The stored error of a task group is its first error, with the number of the others."""
    result = raised(ExceptionGroup("both", [ValueError("one"), OSError("two")]))

    assert (result.type, result.message) == ("ValueError", "one (and 1 more in its task group)")


async def test_what_a_processor_returns_is_filtered_too() -> None:
    """Secrets in the message and data of a returned `Fail` are hidden."""

    async def fail(job: Job[Any], ctx: JobContext) -> Fail:
        return Fail(f"token={SECRET}", data={"api_key": SECRET, "n": 3})

    run = await ProcessorTest(fail, {}).run()

    assert run.error is not None
    assert (run.outcome, run.error.message) == ("failed", "token=[hidden]")
    assert run.error.data == {"api_key": "[hidden]", "n": 3}
    assert ending_error("Fail", "no", ["row 3"]).data == {"value": ["row 3"]}


def running(file: str, module: str, *functions: str) -> list[tuple[FrameType, int]]:
    """Return frames of functions that a module has called one in another."""
    code = "import sys\ndef {}():\n return sys._getframe()"
    frames = []
    for line, function in enumerate(functions, 1):
        names: dict[str, Any] = {"__name__": module}
        exec(compile(code.format(function), file, "exec"), names)
        frames.append((names[function](), line))
    return frames


def test_a_running_line_is_the_projects_innermost_with_the_calls_that_led_there() -> None:
    """The calls of the project and the innermost call of a library have six bounded lines."""
    own = running("shop/jobs.py", "shop.jobs", *"abcdefg")
    library = running("asyncio/tasks.py", "asyncio.tasks", "wait_for", "sleep")
    engine = running("minutehand/job.py", "minutehand.job", "call")

    def found(*frames: tuple[FrameType, int]) -> CodeLocation:
        location = location_in(frames, "shop.jobs")
        assert location is not None
        return location

    innermost = found(*engine, *library, *own, *library)
    assert innermost.place == "shop/jobs.py:7"
    assert innermost.calls == [f"shop/jobs.py:{n} {'abcdefg'[n - 1]}" for n in range(3, 8)] + [
        "asyncio/tasks.py:2 sleep"
    ]
    assert found(*own[:2]).calls == ["shop/jobs.py:1 a", "shop/jobs.py:2 b"]
    assert (found(*library).place, found(*library).code) == ("asyncio/tasks.py:2", "")
    [call] = found(*running("deep/" * 40 + "a.py", "shop", "work")).calls
    assert (len(call), call[-11:]) == (120, "a.py:1 work")
    assert location_in(engine, "shop.jobs") is None


def test_the_text_of_a_running_line_has_no_secrets_and_can_be_stored(tmp_path: Path) -> None:
    lines = Path(__file__).read_text().splitlines()
    number = lines.index(f'SECRET = "{SECRET}"') + 1
    assert CodeLocation(__file__, number, []).code == 'SECRET = "[hidden]"'
    template = tmp_path / "mail.html"
    template.write_text("a\0b")
    assert CodeLocation(str(template), 1, []).code == "a\ufffdb"
