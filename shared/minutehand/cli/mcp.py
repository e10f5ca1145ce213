"""`minutehand mcp`: the jobs for an agent, over stdio as yourself or over HTTP as each caller.

The tools are agent.py's and agent_reads.py's. Over HTTP a call has the rights of the bearer token
that it came with; of this machine's settings it sees where the project is, and no key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Final

import typer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from minutehand.cli.agent import build
from minutehand.cli.agent_reads import Access
from minutehand.error_body import error_body
from minutehand.terminal.connection import CommandFailed, Connection, load_values
from minutehand.terminal.options import EnvFile, Token, Workspace, connected, speaking

#: What a caller over HTTP shares with others: where the project is.
SHARED: Final = ("API_URL", "SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "MINUTEHAND_SCHEMA")
LOCAL: Final = ("127.0.0.1", "localhost", "[::1]")
CONNECTIONS: Final = 200


def mcp(
    *,
    http: Annotated[
        bool, typer.Option("--http", help="Serve HTTP at /mcp; each request brings its own token.")
    ] = False,
    host: Annotated[str, typer.Option(help="With --http: the address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --http: the port to listen on.")] = 8765,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="With --http: a host name it is called by; repeatable."),
    ] = None,
    workspace: Workspace = None,
    token: Token = None,
    env_file: EnvFile = None,
) -> None:
    """Serve the jobs to an agent by the Model Context Protocol, over standard input and output."""
    if not http:
        with speaking(False), connected(env_file, token, workspace) as connection:
            build(Access(lambda _: nullcontext(connection), connection.values)).run("stdio")
        return
    with speaking(False) as output:
        if token or workspace:
            raise CommandFailed(
                "--http takes neither --token nor --workspace: each request brings its own",
                code="bad_usage",
            )
        values = load_values(env_file, token="each request's own")
        shared = {each: values[each] for each in SHARED if values.get(each)}
        app = build(Access(_as_caller(shared), shared)).streamable_http_app(
            stateless_http=True,  # a session would outlive the token that opened it
            json_response=True,
            transport_security=_only_called_by([*LOCAL, *(name or [])]),
        )
        output.note(f"http://{host}:{port}/mcp")
        _serve(_with_token(app), host, port)


def _serve(app: ASGIApp, host: str, port: int) -> None:
    import uvicorn  # comes with the protocol's package, whose absence is to be named first

    from minutehand.terminal.server import guarded

    uvicorn.run(
        app,
        host=host,
        port=port,
        http=guarded(connections=CONNECTIONS),
        log_config=None,
        access_log=False,
        server_header=False,
    )


def _as_caller(
    shared: Mapping[str, str],
) -> Callable[[Mapping[str, str] | None], AbstractContextManager[Connection]]:
    """Connect as the bearer of a request's token, and as no one without one."""

    @contextmanager
    def connect(headers: Mapping[str, str] | None) -> Iterator[Connection]:
        token = _bearer(headers or {})
        if token is None:
            raise CommandFailed("send your access token as a bearer token", code="unauthorized")
        connection = Connection(shared, given_token=token)
        try:
            yield connection
        finally:
            connection.close()

    return connect


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _with_token(app: ASGIApp) -> ASGIApp:
    """Refuse a request without a token, before it is read; whether it is valid says the API."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _bearer(Headers(scope=scope)) is None:
            body = error_body("unauthorized", "Unauthorized", request_id=None)
            refusal = JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
        else:
            await app(scope, receive, send)

    return guard


def _only_called_by(names: list[str]) -> TransportSecuritySettings:
    """Refuse another `Host`, as of a rebound name, and the pages of other origins."""
    hosts = [each for name in names for each in (name, f"{name}:*")]
    origins = [f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)
