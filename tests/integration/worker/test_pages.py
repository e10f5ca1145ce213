"""The pages on own data and on `ctx`: every block runs, and the signatures are the code's."""

from __future__ import annotations

import gc
import inspect
import re
import sys
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from minutehand.cli.own_tables import planned
from minutehand.docs import render
from minutehand.install.rewrite import Schemas
from minutehand.local.users import ADA, PASSWORD
from minutehand.project import Project as Installed
from minutehand.queue import UserQueue
from minutehand.queue.functions import WorkerFunctions
from minutehand.worker import JobContext, Registry, Worker, default_registry
from supabase import AsyncClientOptions, acreate_client
from tests.support.paths import ROOT
from tests.support.project import ACME, Project

HOME = ROOT / "shared" / "minutehand" / "worker"


def blocks(page: str, language: str) -> list[str]:
    """The page's code in a language, in order."""
    text = render((HOME / page).read_text("utf-8"), Schemas())
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """A module for a page's Python, of which nothing is left."""
    made = types.ModuleType("page_of_a_test")
    sys.modules[made.__name__] = made
    yield made
    default_registry.forget(made.__name__)
    del sys.modules[made.__name__]


def run_python(module: types.ModuleType, page: str) -> None:
    schema = 'schema="public"'  # where this run's renamed statements make the table
    for block in blocks(page, "python"):
        block = block.replace('schema="public"', schema)
        exec(compile(block, page, "exec"), module.__dict__)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """What supabase-py sends with; it closes none that it made itself."""
    async with httpx.AsyncClient() as made:
        yield made


async def drain(worker: Worker, project: Project) -> None:
    """Run until nothing is due."""
    for _ in range(20):
        project.make_due()
        if (await worker.tick(budget_seconds=120)).leased == 0:
            return


def run_command(project: Project) -> None:
    """What the page's `minutehand init` writes for the worker's database."""
    [command] = blocks("OWN_DATA.md", "sh")
    _, _, job_type, _, reads, _, writes = command.split()
    here = Installed(root=Path("/nowhere"))
    with project.database.connect() as connection:
        plan = planned(connection, here, "jobs", Path(), job_type, reads=reads, writes=writes)
    project.run_sql(plan.writes[0].text)


async def test_a_processor_uses_own_tables_as_the_page_says(
    project: Project,
    registry: Registry,
    worker: Worker,
    ada: UserQueue,
    module: types.ModuleType,
) -> None:
    """Table, policy, grant, function, call: from the insert of a row to its mail."""
    table, trigger = blocks("OWN_DATA.md", "sql")
    project.run_sql(table)
    run_command(project)
    run_python(module, "OWN_DATA.md")
    module.register(registry, project.settings)
    await worker.register()
    project.run_sql(trigger)
    [made] = project.rows(
        "insert into public.invoices (workspace_id, customer, amount)"
        " values (%s, 'Ada', 12.50) returning id", ACME,
    )  # fmt: skip

    await drain(worker, project)

    [row] = project.rows("select * from public.invoices")
    assert row["sent_at"] is not None
    assert row["message_id"] == "message to Ada: 12.5 EUR"
    page = await ada.list_jobs(ACME, more={"tag": f"invoice_id:{made['id']}"})
    assert [job.status for job in page.jobs] == ["completed"]
    theirs = (await ada.enqueue(ACME, "invoices.send", {"invoice_id": 10**6})).job
    await drain(worker, project)
    assert (await ada.get_job(theirs.id)).error_message == (
        "there is no such invoice in this workspace"
    )
    # a worker keeps it as long as it lives, so the page has nothing that closes it
    for database in [each for each in gc.get_objects() if isinstance(each, WorkerFunctions)]:
        await database.aclose()


def test_the_worker_reaches_the_functions_and_no_table(project: Project) -> None:
    """What the page promises of a stolen key; and the product's own linter finds nothing."""
    table, trigger = blocks("OWN_DATA.md", "sql")
    project.run_sql(table)
    run_command(project)
    project.run_sql(trigger)
    with project.database.connect() as connection:
        connection.execute("set role job_worker")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select * from public.invoices")
        with pytest.raises(psycopg.Error, match="the lease on the job is lost"):
            connection.execute(
                "select public.send_invoices_invoice("
                "jsonb_build_object('job_id', gen_random_uuid(), 'fence', 1))"
            )
        connection.execute("reset role")
        found = connection.execute(
            "select relrowsecurity from pg_class where oid = 'public.invoices'::regclass"
        ).fetchone()
    assert found == (True,)


async def test_the_examples_of_the_context_run(
    project: Project,
    worker: Worker,
    ada: UserQueue,
    module: types.ModuleType,
    http: httpx.AsyncClient,
) -> None:
    """A graph, children, events, versions, schedules, and two ways to enqueue from Python."""
    run_python(module, "CONTEXT.md")
    own = Registry()
    for kind in default_registry:
        if kind.run.__module__ == module.__name__:
            own.add(kind)
    worker.adopt(own)
    await worker.register()
    settings = project.settings
    options = AsyncClientOptions(httpx_client=http, auto_refresh_token=False)
    supabase = await acreate_client(
        settings.supabase_url, settings.supabase_publishable_key, options
    )
    await supabase.auth.sign_in_with_password({"email": ADA.email, "password": PASSWORD})
    order = (await ada.enqueue(ACME, "order.ship", {"order": 7})).job
    project.run_sql("update queue.job_types set payload_schema = null where job_type = 'greeting'")
    cut = (await ada.enqueue(ACME, "clip", {"video": "a"})).job
    page = (await ada.enqueue(ACME, "poster", {"video": "<i>a</i>"})).job
    old = project.insert("greeting", {"name": "Ada Lovelace"}, schema_version=1)
    made, _ = await module.enqueue_report(supabase, ACME, settings.schema_name)

    await drain(worker, project)
    for block in blocks("CONTEXT.md", "sql"):
        project.run_sql(block)
    await drain(worker, project)

    report = await ada.get_job(made)
    assert report.tags == ("quarterly",)
    assert report.result == {"pages": ["page 0", "page 1", "page 99"]}
    assert (await ada.get_job(order.id)).result == {"amount": 12}
    assert (await ada.get_job(cut.id)).result["write"] == "words of a with pictures"
    shown = (await ada.get_job(page.id)).result["url"]
    assert shown == (await ada.artefacts(page.id))[0].url
    assert (await ada.read_artefact(page.id, "poster.html"))[1] == b"<h1><i>a</i></h1>"
    assert (await ada.get_job(old)).result == "Lovelace, Ada"
    declared = project.rows("select name, cron, source from queue.schedules order by name")
    assert {(row["name"], row["cron"]) for row in declared} == {
        ("code:all", "@daily"),
        ("code:digest", "0 7 * * 1-5"),
    }


def test_the_signatures_are_the_codes() -> None:
    """A reference that is out of date costs more than none."""
    text = (HOME / "CONTEXT.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", text, re.MULTILINE))
    public = {
        name: function
        for name, function in inspect.getmembers(JobContext, inspect.isfunction)
        if not name.startswith("_") and name != "restore_steps"  # the worker's, before it starts
    }

    assert set(told) == set(public)
    for name, function in public.items():
        assert told[name] == _arguments(function), name


def _arguments(function: Any) -> str:
    """A function's parameters as the page writes them: without types, long defaults left out."""
    nothing = inspect.Parameter.empty
    plain = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        long = len(str(parameter.default)) > 40
        default = nothing if long else parameter.default
        plain.append(parameter.replace(annotation=nothing, default=default))
    return str(inspect.Signature(plain))[1:-1]


def test_links_of_the_pages_lead_somewhere() -> None:
    """Both ways: they are named where people look first."""
    for page in ("OWN_DATA.md", "CONTEXT.md"):
        text = (HOME / page).read_text("utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (HOME / target).resolve().exists(), target
        assert page in (HOME / "README.md").read_text("utf-8")
        assert page in Path(ROOT / "README.md").read_text("utf-8")
