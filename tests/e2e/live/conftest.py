"""A worker moved by hand in a workspace of its own, and a wire that can be made to misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from minutehand.local.users import ADA
from tests.e2e.console.worker import HandWorker
from tests.e2e.live.wire import Wire
from tests.support.stacks import RunningStack


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
async def wire(stack: RunningStack) -> AsyncIterator[Wire]:
    """A wire to the stack's gateway: honest until told otherwise."""
    async with Wire(int(stack.supabase_url.rsplit(":", 1)[1]), seed=7) as made:
        yield made
