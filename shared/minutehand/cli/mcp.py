"""`minutehand mcp`: serves the API's operations to an agent as MCP tools."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from minutehand.terminal.connection import Connection
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output
from minutehand.version import VERSION


@verb
def mcp(
    output: Output,
    connection: Connection,
    *,
    write: Annotated[
        bool,
        typer.Option("--write", help="Also offer tools that change jobs, e.g. enqueue and cancel."),
    ] = False,
) -> None:
    """Serve jobs to an agent as MCP tools with your rights; read-only by default."""
    import httpx
    from fastmcp import FastMCP
    from fastmcp.server.providers.openapi import MCPType, RouteMap

    document = connection.get("/api/openapi.json")
    allowed: Any = ["GET", "POST", "PUT", "PATCH", "DELETE"] if write else ["GET"]
    maps = [
        RouteMap(
            methods=allowed, pattern=r"^/api/(jobs|types|status|workspaces)", mcp_type=MCPType.TOOL
        ),
        RouteMap(mcp_type=MCPType.EXCLUDE),
    ]
    client: Any = httpx.AsyncClient(
        base_url=connection.need("API_URL"),
        headers={"authorization": f"Bearer {connection.token}"},
        timeout=30,
    )
    server = FastMCP.from_openapi(
        document, client=client, name="minutehand", route_maps=maps, version=VERSION
    )
    server.run("stdio", show_banner=False)
