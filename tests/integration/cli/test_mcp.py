"""`minutehand mcp`, which offers tools to an agent's program over standard input and output."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from minutehand.docs import PAGES
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack

if TYPE_CHECKING:
    from mcp import ClientSession


@asynccontextmanager
async def agent(stack: RunningStack, *options: str) -> AsyncIterator[ClientSession]:
    """Start the server as an agent's program does, and connect to it."""
    from mcp import ClientSession, StdioServerParameters  # takes half a second to import
    from mcp.client.stdio import stdio_client

    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "minutehand.cli.entry", "mcp", *options],
        env={**stack.values, "PYTHONPATH": str(ROOT / "shared"), "HOME": str(ROOT)},
    )
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()
        yield session


async def call(session: ClientSession, name: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool that must succeed, and return its structured result."""
    called = await session.call_tool(name, arguments)
    assert not called.is_error, called.content
    return dict(called.structured_content or {})


async def test_an_agent_reads_jobs_and_follows_its_own_to_the_end(stack: RunningStack) -> None:
    """Without `--write`, an agent's program has only tools that read jobs.

    With `--write`, it enqueues, explains, cancels and watches a job. The descriptions of the eight
    tools are at most 12 kB.
    """
    async with agent(stack) as session:
        reads = {tool.name for tool in (await session.list_tools()).tools}
        pages = {str(page.uri) for page in (await session.list_resources()).resources}
        malformed = await session.call_tool("explain", {"job_id": "no-job"})
    async with agent(stack, "--write") as session:
        tools = (await session.list_tools()).tools
        job = await call(
            session,
            "enqueue",
            job_type="enrich_account",
            payload={"account_id": str(uuid4())},
            delay_seconds=3600,
        )
        listed = await call(session, "list_jobs", limit=1)
        explained = await call(session, "explain", job_id=job["id"])
        cancelled = await call(session, "cancel", job_id=job["id"])
        watched = await call(session, "watch", job_id=job["id"][-12:])

    assert reads == {"list_jobs", "explain", "watch", "status"}
    assert {tool.name for tool in tools} == reads | {"enqueue", "retry", "cancel", "pause"}
    assert sum(len(tool.model_dump_json(exclude_none=True)) for tool in tools) <= 12_000
    assert pages == {f"docs://{page.topic}" for page in PAGES}
    assert malformed.is_error
    assert "no job ids begin or end with 'no-job'" in str(malformed.content)
    assert len(listed["result"]) == 1
    assert explained["explained"]["sentence"]
    assert (cancelled["status"], watched["job"]["status"]) == ("cancelled", "cancelled")
