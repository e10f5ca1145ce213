"""A worker moved by hand in a workspace of its own, and a wire that can be made to misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from uuid import uuid4

import pytest
from websockets.asyncio.client import connect as websocket_connect

from minutehand.local.users import ADA
from tests.e2e.console.worker import HandWorker
from tests.integration.realtime.support import Socket
from tests.support.functions import until
from tests.support.hostile_proxy import HostileProxy
from tests.support.stacks import RunningStack

Open = Callable[..., Awaitable[Socket]]


@pytest.fixture
def worker(stack: RunningStack) -> Iterator[HandWorker]:
    """A worker moved by hand, in a workspace of Ada's."""
    workspace = str(uuid4())
    with stack.connect() as sql:
        sql.execute("insert into public.workspaces (id, name) values (%s, 'Live')", (workspace,))
        sql.execute(
            "insert into public.workspace_members (workspace_id, user_id, role)"
            " values (%s, %s, 'manager')",
            (workspace, ADA.id),
        )
    with HandWorker(stack, workspace) as hand:
        yield hand
    with stack.connect() as sql:
        sql.execute("delete from public.workspaces where id = %s", (workspace,))


@pytest.fixture
def room(stack: RunningStack) -> Callable[[], None]:
    """Wait until what other tests have sent no longer counts; call it to wait once more.

    The budget is one of six seconds; beyond it nothing is sent to topics that no one follows by a
    client of ours, so that silence would say nothing and an event would not come.
    """
    free = (
        "select (coalesce(pg_sequence_last_value('queue.messages_counted'), 0)"
        " <= w.ceiling - 3 * w.quarter + w.quarter / 2)::int from queue.message_window() as w"
    )

    def wait() -> None:
        until(stack, free, 1)

    wait()
    return wait


@pytest.fixture
async def wire(stack: RunningStack) -> AsyncIterator[HostileProxy]:
    """A wire to the stack's gateway: honest until told otherwise."""
    proxy = HostileProxy(int(stack.supabase_url.rsplit(":", 1)[1]), seed=7)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def connect(stack: RunningStack) -> AsyncIterator[Open]:
    """Raw sockets through the gateway, as a browser reaches Realtime."""
    sockets: list[Socket] = []

    async def open_one(key: str | None = None) -> Socket:
        base = stack.supabase_url.replace("http", "ws", 1)
        key = key or stack.supabase_publishable_key
        url = f"{base}/realtime/v1/websocket?apikey={key}&vsn=2.0.0"
        socket = Socket(await websocket_connect(url), 2)
        sockets.append(socket)
        return socket

    yield open_one
    for socket in sockets:
        await socket.connection.close()
