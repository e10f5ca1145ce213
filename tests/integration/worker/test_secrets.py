"""A failed attempt reaches members, feeds, webhooks and terminals: its secrets do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from minutehand.cli import show
from minutehand.redaction import HIDDEN
from minutehand.terminal.output import Output
from minutehand.worker import Backoff, Job, JobContext, Registry, Worker
from tests.support.engine import ACME, Engine, handle
from tests.support.payloads import Nothing
from tests.support.project import Project

SECRETS = ("hunter22", "sesame99", "AKIAABCDEFGHIJKLMNOP")


class VendorError(Exception):
    """What a vendor's client raises, with all that it knows."""

    data: ClassVar = {
        "url": "https://api.example/v1?api_key=sesame99",
        "headers": {"x-api-key": "sesame99"},
    }


def told_by_webhook(engine: Engine, job_id: str) -> Any:
    [lease] = engine.lease(50, job_types=["webhook_delivery"])
    return engine.rpc("webhook_to_send", p_request=handle(lease))["body"]


def told_by_command(engine: Engine, job_id: str) -> Any:
    output = Output()
    with output.out.capture() as shown:
        show._head(output, {"times": {}, **engine.rpc("get_job", p_job_id=job_id)})
        show._attempts(output, engine.rpc("job_attempts", p_job_id=job_id)["attempts"])
    return shown.get()


WAYS_OUT: dict[str, Callable[[Engine, str], Any]] = {
    "list": lambda engine, _: engine.rpc("list_jobs", p_filter={"workspace_id": ACME}),
    "sorted list": lambda engine, _: engine.rpc("sort_jobs", p_filter={"workspace_id": ACME}),
    "page": lambda engine, job_id: engine.rpc("get_job", p_job_id=job_id),
    "explain": lambda engine, job_id: engine.rpc("explain_job", p_job_id=job_id),
    "attempts": lambda engine, job_id: engine.rpc("job_attempts", p_job_id=job_id),
    "trace": lambda engine, job_id: engine.rpc("job_trace", p_job_id=job_id),
    "log": lambda engine, _: engine.rows("select message, metadata from public.job_logs"),
    "event": lambda engine, _: engine.rpc("event_feed", p_workspace_id=ACME, p_cursor="1:1:"),
    "live": lambda engine, _: engine.rows("select payload from realtime.messages"),
    "group of failures": lambda engine, _: engine.rpc("dead_letters", p_workspace_id=ACME),
    "webhook": told_by_webhook,
    "command": told_by_command,
}


@pytest.fixture
async def failed(project: Project, registry: Registry, worker: Worker) -> str:
    """A job whose processor raised all it knew."""

    @registry.processor("vendor", payload=Nothing, max_attempts=1)
    async def vendor(job: Job[Nothing], ctx: JobContext) -> None:
        async def ask() -> None:
            raise VendorError(
                "no answer from postgres://ada:hunter22@db/x for AKIAABCDEFGHIJKLMNOP"
            )

        await ctx.step("ask", ask, tries=2, backoff=Backoff(first=0, cap=0))

    await worker.register()
    with project.database.connect() as connection:
        engine = Engine(project.database, connection)
        webhook = {"url": "https://hooks.example.com/in", "sealed_secret": "mh1.a.b.c"}
        webhook["event_types"] = ["job.failed"]  # type: ignore[assignment]
        engine.rpc("put_webhook", p_workspace_id=ACME, p_webhook=webhook)
        job_id = engine.enqueue(job_type="vendor")
    await worker.tick(budget_seconds=120)
    return job_id


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_way_out_shows_a_secret(project: Project, failed: str, way: str) -> None:
    """Filtered where the error is made: whatever is added later, and every vendor's client."""
    with project.database.connect() as connection:
        engine = Engine(project.database, connection)
        assert engine.status(failed) == "failed"

        told = str(WAYS_OUT[way](engine, failed))

    assert not any(secret in told for secret in SECRETS), told
    assert HIDDEN in told or way == "trace", told


def test_a_password_that_changes_does_not_make_another_group(project: Project, failed: str) -> None:
    """Failures are grouped by their messages."""
    with project.database.connect() as connection:
        engine = Engine(project.database, connection)
        [group] = engine.rpc("dead_letters", p_workspace_id=ACME)["groups"]

    said = f"VendorError: no answer from postgres://ada:{HIDDEN}@db/x for {HIDDEN}"
    assert group["error_message"] == said
