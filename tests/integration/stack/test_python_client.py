"""The Python client for applications, on the whole stack."""

import asyncio
from typing import Any

import httpx
import pytest

from minutehand.client import Client
from minutehand.docs import PAGES, Names, render
from minutehand.install.rewrite import Schemas
from minutehand.local.users import ADA
from supabase import AsyncClient, AsyncClientOptions, create_client
from tests.e2e.console.worker import HandWorker
from tests.support.pages import blocks
from tests.support.stacks import RunningStack


async def test_a_job_is_enqueued_and_read_to_its_end(stack: RunningStack) -> None:
    """The client enqueues a job with a person's token and reads its events to the end."""
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        async with httpx.AsyncClient(trust_env=False) as http:
            options = AsyncClientOptions(httpx_client=http)
            supabase = AsyncClient(stack.supabase_url, stack.supabase_publishable_key, options)
            token = stack.sign_in(ADA.email)
            async with Client(supabase, schema="public", token=token) as client:
                made = await client.enqueue(
                    worker.job_type, {"n": 1}, workspace_id=stack.demo_workspace_id
                )
                [lease] = await asyncio.to_thread(worker.lease)
                await asyncio.to_thread(worker.settle, lease, result={"done": True})
                events = await client.events_after(made.job.id)
                job = await client.get_job(made.job.id)

    assert [event.type for event in events] == ["job.created", "job.leased", "job.completed"]
    assert (job.status, job.result) == ("completed", {"done": True})


# supabase-py passes these parameters to its own client of the Data API.
@pytest.mark.filterwarnings("ignore:The '.+' parameter is deprecated:DeprecationWarning")
def test_synchronous_code_enqueues_and_reads_as_the_page_says(stack: RunningStack) -> None:
    """The documentation's example enqueues and reads a job with supabase-py and a secret key."""
    recipes = next(page for page in PAGES if page.topic == "recipes")
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        names = Names(Schemas("public"), job_type=worker.job_type)
        [code] = [
            each for each in blocks(render(recipes.text, names), "py") if "create_client" in each
        ]
        response: dict[str, Any] = {
            "url": stack.supabase_url,
            "secret_key": stack.values["SUPABASE_SECRET_KEY"],
            "tenant": stack.demo_workspace_id,
        }
        exec(compile(code, "recipes.md", "exec"), response)
        response["queue"].session.close()

    assert (response["job"]["id"], response["job"]["status"]) == (response["job_id"], "pending")
    assert [each["id"] for each in response["same"]] == [response["job_id"]]


def test_a_synchronous_client_is_refused_with_what_to_write() -> None:
    """A synchronous Supabase client is rejected with the call to write instead."""
    with pytest.raises(TypeError, match=r'`supabase\.schema\("mine"\)\.rpc\("enqueue_job", …\)'):
        Client(create_client("http://127.0.0.1:1", "key"), schema="mine")  # type: ignore[arg-type]
