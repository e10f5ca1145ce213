"""`minutehand.client` as somebody else uses it: its own example in a program of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap

import pytest

from minutehand.client import Client, SyncClient
from minutehand.local.users import ADA
from tests.e2e.console.worker import HandWorker
from tests.support.official import blocking
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.stack

PROGRAM = """\
import asyncio, os
from supabase import acreate_client
from minutehand.client import Client

url, key, email, password, workspace_id = os.environ["CASE"].split()

async def main():
{example}
    await supabase.auth.sign_out()

asyncio.run(main())
"""


def example(of: object) -> str:
    """The example in a docstring, as it stands there."""
    return textwrap.dedent((of.__doc__ or "").split("Example:\n")[1])


async def test_the_example_sees_its_job_live_to_completed(
    stack: RunningStack, worker: HandWorker
) -> None:
    """In a process of its own, signed in by password: what people copy from the docstring."""
    # this stack's jobs are in `public`, and a worker moved by hand has a type of its own
    code = example(Client).replace("Client(supabase)", 'Client(supabase, schema="public")')
    code = code.replace("invoices.mail", worker.job_type)
    case = [
        stack.supabase_url, stack.supabase_publishable_key, ADA.email, stack.demo_password,
        worker.workspace_id,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", PROGRAM.format(example=textwrap.indent(code, "    ")),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={"CASE": " ".join(case), "PYTHONPATH": os.environ.get("PYTHONPATH", "shared"),
             "NO_PROXY": "127.0.0.1", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(250):
        async for line in process.stdout:
            lines.append(line.decode().strip())
            if lines[-1].startswith("1 job.created"):
                lease = await asyncio.to_thread(worker.lease_soon)
                await asyncio.to_thread(worker.report, lease, 50)
                await asyncio.to_thread(worker.settle, lease, result={"sent": 1})
        await process.wait()

    assert process.returncode == 0, lines
    told = [line.split()[1] for line in lines if line[0].isdigit()]
    assert told == ["job.created", "job.leased", "job.progress", "job.completed"]
    assert lines[-1] == "completed {'sent': 1}"


def test_the_blocking_client_steers_a_job(stack: RunningStack, worker: HandWorker) -> None:
    """Enqueue, find, cancel and run again without a loop."""
    with blocking(stack.supabase_url, stack.supabase_publishable_key) as supabase:
        supabase.auth.sign_in_with_password({"email": ADA.email, "password": stack.demo_password})
        client = SyncClient(supabase, schema="public")
        made = client.enqueue(
            worker.job_type, {"n": 1}, workspace_id=worker.workspace_id, idempotency_key="once"
        )
        again = client.enqueue(
            worker.job_type, {"n": 1}, workspace_id=worker.workspace_id, idempotency_key="once"
        )
        page = client.list_jobs(worker.workspace_id, job_type=worker.job_type)
        cancelled = client.cancel(made.job.id)
        retried = client.retry(made.job.id)

    assert (made.created, again.created, again.job.id) == (True, False, made.job.id)
    assert [job.id for job in page.jobs] == [made.job.id]
    assert (cancelled.status, retried.status) == ("cancelled", "pending")
