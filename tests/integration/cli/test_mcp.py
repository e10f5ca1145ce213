"""`minutehand mcp` started by an agent's program, with tools over standard input and output."""

from __future__ import annotations

import sys
from uuid import uuid4

from tests.support.paths import ROOT
from tests.support.stacks import RunningStack


async def test_an_agent_reads_jobs_and_changes_none(stack: RunningStack) -> None:
    """Rights to change jobs come from the command line, and not from a prompt."""
    from mcp import ClientSession, StdioServerParameters  # takes half a second to import
    from mcp.client.stdio import stdio_client

    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "minutehand.cli.entry", "mcp"],
        env={**stack.values, "PYTHONPATH": str(ROOT / "shared"), "HOME": str(ROOT)},
    )
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()
        names = [tool.name for tool in (await session.list_tools()).tools]
        listed = next(name for name in names if "list_jobs" in name)
        called = await session.call_tool(listed, {"workspace_id": stack.demo_workspace_id})
        [output] = [name for name in names if "output" in name]
        missing = await session.call_tool(output, {"job_id": str(uuid4()), "name": "reply"})

    assert not [name for name in names if "cancel" in name or "create" in name]
    assert not called.is_error
    assert missing.is_error
    assert "job not found" in str(missing.content).lower()
