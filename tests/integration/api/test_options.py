"""Every option of a job, good and bad, by every way in: what one accepts, all accept.

Five ways lead into the queue: HTTP (one, many), `enqueue_job`, `enqueue_jobs`, a plain insert and
a worker's `spawn_jobs`. Each is asked with the same values, and the answers are compared.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from minutehand.client.client import Options
from minutehand.functions.jobs.app import build_app
from minutehand.functions.jobs.models import JobOptions
from minutehand.queue import EnqueueOptions
from minutehand.resources import resource
from tests.support.engine import Engine
from tests.support.paths import ROOT
from tests.support.project import ACME, Project, settings_at
from tests.support.renewed import Renewed

#: Stands for a text that is used once.
ONCE = "<once>"
JOB_TYPE = "with_options"
SOMEONE = str(uuid.uuid4())
LATER = "2031-01-01T00:00:00+00:00"
TYPE_ERROR = None  # a value of the wrong type is refused; which field it was may go untold
Way = Callable[[dict[str, Any]], Awaitable[str]]

#: By option: good values, and bad ones.
TABLE: dict[str, tuple[list[Any], list[Any]]] = {
    "queue": (["q", "q" * 100], ["", "q" * 101, "q\x07"]),
    "priority": ([0, 1000], [-1, 1001, "high"]),
    "scheduled_for": ([LATER], ["1969-12-31T23:59:59Z", "9999-06-01T00:00:00Z", "soon"]),
    "delay_seconds": ([0, 60.5], [-1, 315360001, "long"]),
    "max_attempts": ([1, 50], [0, 51, "many"]),
    "idempotency_key": ([ONCE], ["", "k" * 256]),
    "idempotency_ttl_seconds": ([60], [-1, 315360001, "long"]),
    "concurrency_key": (["c", "c" * 255], ["", "c" * 256, "c\n"]),
    "session_id": ([ONCE], ["", "s" * 256]),
    "parent_id": ([], ["nobody"]),
    "deadline_at": ([LATER], ["1969-12-31T23:59:59Z", "9999-06-01T00:00:00Z", "soon"]),
    "timeout_seconds": ([1, 43200], [0, 43201, "long"]),
    "backoff": (
        [{"first_seconds": 1, "cap_seconds": 60, "factor": 2}],
        [{"first_seconds": -1}, {"cap_seconds": 604801}, {"factor": 11}, {"x": 1}, "slow"],
    ),
    "unique": (
        [{"key": ONCE}, {"key": ONCE, "until": "leased", "on_conflict": "replace"}],
        [{"key": ""}, {"key": "k" * 256}, {}, {"key": "k", "until": "ever"}, "k",
         {"key": "k", "on_conflict": "fight"}, {"key": "k", "x": 1}],
    ),
    "debounce_seconds": ([], [1, -1, 86401, "long"]),
    "schema_version": ([1], [0, 2, "new"]),
    "tags": ([["a", "b"]], [["t"] * 21, [""], ["t" * 101], "tag"]),
}  # fmt: skip
#: Together they say two things at once, or need each other.
PAIRS: list[tuple[dict[str, Any], bool]] = [
    ({"scheduled_for": LATER, "delay_seconds": 60}, False),
    ({"unique": {"key": ONCE}, "debounce_seconds": 0.05}, False),
    ({"unique": {"key": ONCE}, "debounce_seconds": 30}, True),
    ({"prioritty": 5}, False),
]
#: Of a call, not of a row; a plain insert has no word for them.
NOT_COLUMNS = {
    "delay_seconds", "idempotency_ttl_seconds", "unique",
    "debounce_seconds",
}  # fmt: skip


def test_every_option_of_every_face_is_in_the_table() -> None:
    """SQL, HTTP, the client, the library, JavaScript and the guide name the same options."""
    named = set(EnqueueOptions.model_fields)
    sql_type = resource("migrations").glob("*150_create_enqueue.sql")
    [columns] = re.findall(
        r"create type queue.enqueue_item as \((.*?)\n\);", next(sql_type).read_text(), re.S
    )
    types = (ROOT / "infra/console/lib/jobs/types.d.ts").read_text()
    [lines] = re.findall(r"export type EnqueueOptions = \{\n(.*?)\n\};", types, re.S)
    guide = (ROOT / "supabase/README.md").read_text()

    assert set(Options.__annotations__) == named
    assert set(JobOptions.model_fields) == named - {"traceparent"}  # its own header
    assert set(TABLE) == named - {"traceparent"}
    in_sql = {column.split()[0].strip('"') for column in columns.split(",")}
    assert in_sql == named | {"job_type", "payload", "user_id"}
    assert set(re.findall(r"^  (\w+)\?:", lines, re.M)) == named
    assert {name for name in named if not re.search(rf"`{name}\b", guide)} == set()


class Refused(Exception):
    """A way refused the job; `field` is the option it names."""

    def __init__(self, field: str | None) -> None:
        self.field = field
        super().__init__(field)


def field_of(detail: str | None) -> str | None:
    """The option of a refusal's detail, wherever the job lies in the request."""
    if detail is None:
        return None
    return re.split(r"[.\[]", re.sub(r"^jobs(\.0|\[0\])\.", "", detail))[0]


@pytest.fixture
def project(renewed: Renewed) -> Project:
    """An empty queue that knows the one type."""
    # no app: their routes take longer to make than a test
    settings = settings_at(renewed.gateway.url).model_copy(update={"apps": ()})
    database = renewed.database
    Engine(database, database.session()).register(JOB_TYPE, max_concurrency=1000)
    return Project(settings, database, renewed.gateway)


@pytest.fixture
async def ada(project: Project) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP API as a manager of Acme."""
    app = build_app(project.settings)
    headers = {"authorization": f"Bearer {project.token()}"}
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api", headers=headers) as client,
    ):
        yield client


@pytest.fixture
def ways(ada: httpx.AsyncClient, project: Project) -> dict[str, Way]:
    """Each enqueues a job with options and returns its id, or raises Refused."""
    engine = Engine(project.database, project.database.session())
    engine.enqueue(workspace=ACME, job_type=JOB_TYPE)
    lease = engine.lease_one()

    def fresh(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fresh(each) for name, each in value.items()}
        return uuid.uuid4().hex if value == ONCE else value

    async def http(path: str, body: dict[str, Any]) -> Any:
        answer = await ada.post(path, json={"workspace_id": ACME, **body})
        if answer.status_code < 300:
            return answer.json()
        assert answer.status_code in {400, 422}, answer.text
        detail = answer.json()["detail"]
        raise Refused(field_of(detail[0]["field"]) if isinstance(detail, list) else None)

    async def one(options: dict[str, Any]) -> str:
        made = await http("/api/jobs", {"job_type": JOB_TYPE, **fresh(options)})
        return str(made["id"])

    async def many(options: dict[str, Any]) -> str:
        body = {"jobs": [{"job_type": JOB_TYPE, **fresh(options)}]}
        return str((await http("/api/jobs/bulk", body))["jobs"][0]["job"]["id"])

    def call(statement: Any, *values: Any) -> Any:
        try:
            row = project.database.session().execute(statement, values).fetchone()
        except psycopg.Error as error:
            if (error.sqlstate or "")[:2] == "22":  # a plain insert's value of another type
                raise Refused(TYPE_ERROR) from error
            if error.sqlstate not in {"PT400", "PT422"}:
                raise
            raise Refused(field_of(error.diag.message_detail)) from error
        assert row is not None
        return row[0]

    async def by_function(options: dict[str, Any]) -> str:
        return str(
            call(
                "select public.enqueue_job(%s, %s, '{}', %s) -> 'job' ->> 'id'",
                ACME, JOB_TYPE, Jsonb(fresh(options)),
            )
        )  # fmt: skip

    async def by_bulk_function(options: dict[str, Any]) -> str:
        jobs = Jsonb([{"job_type": JOB_TYPE, **fresh(options)}])
        return str(call("select public.enqueue_jobs(%s, %s) #>> '{jobs,0,job,id}'", ACME, jobs))

    async def by_insert(options: dict[str, Any]) -> str:
        given = fresh(options)
        columns = sql.SQL(", ").join(map(sql.Identifier, given))
        values = sql.SQL(", ").join(
            sql.SQL("(jsonb_populate_record(null::public.jobs, {})).{}").format(
                Jsonb({name: value}), sql.Identifier(name)
            )
            for name, value in given.items()
        )
        statement = sql.SQL(
            "insert into public.jobs (workspace_id, job_type, {}) select %s, %s, {} returning id"
        ).format(columns, values)
        return str(call(statement, ACME, JOB_TYPE))

    async def by_spawn(options: dict[str, Any]) -> str:
        child = {"job_type": JOB_TYPE, **fresh(options)}
        request = {
            "job_id": lease["job"]["id"], "fence": lease["fence"], "name": uuid.uuid4().hex,
            "children": [child],
        }  # fmt: skip
        return str(call("select public.spawn_jobs(%s) #>> '{job_ids,0}'", Jsonb(request)))

    return {
        "HTTP": one, "HTTP, many": many, "enqueue_job": by_function,
        "enqueue_jobs": by_bulk_function, "insert": by_insert, "spawn_jobs": by_spawn,
    }  # fmt: skip


def that_know(ways: dict[str, Way], options: dict[str, Any]) -> dict[str, Way]:
    """Those of the ways that have words for the options."""
    without = {"insert"} if options.keys() & (NOT_COLUMNS | {"prioritty"}) else set()
    if "parent_id" in options:
        without |= {"spawn_jobs"}  # a child's parent is who spawns it
    return {name: way for name, way in ways.items() if name not in without}


async def answers(ways: dict[str, Way], options: dict[str, Any]) -> dict[str, Any]:
    """By way: `True` when it took the job, else the option it refused."""
    found: dict[str, Any] = {}
    for name, way in that_know(ways, options).items():
        try:
            await way(options)
        except Refused as refused:
            found[name] = refused.field
        else:
            found[name] = True
    return found


@pytest.mark.parametrize("option", TABLE)
async def test_what_one_way_refuses_all_refuse_by_the_options_name(
    ways: dict[str, Way], option: str
) -> None:
    """A rule that one way alone keeps is a way around it."""
    for value in TABLE[option][1]:
        found = await answers(ways, {option: value})

        assert True not in found.values(), (value, found)
        if not isinstance(value, str) or value == "" or len(value) > 20:
            assert set(found.values()) <= {option, TYPE_ERROR}, (value, found)


@pytest.mark.parametrize("option", TABLE)
async def test_what_one_way_accepts_all_accept_and_keep_alike(
    ways: dict[str, Way], project: Project, option: str
) -> None:
    """The same row comes of the same words."""
    for value in TABLE[option][0]:
        kept: dict[str, Any] = {}
        for name, way in that_know(ways, {option: value}).items():
            job_id = await way({option: value})
            [row] = project.rows(
                "select to_jsonb(j) - '{id,idempotency_key,session_id,unique_key}'::text[] as job"
                " from public.jobs as j where id = %s", job_id,
            )  # fmt: skip
            kept[name] = row["job"].get(option)

        assert len({str(each) for each in kept.values()}) == 1, (value, kept)


@pytest.mark.parametrize(("options", "good"), PAIRS)
async def test_what_contradicts_itself_is_refused_by_all(
    ways: dict[str, Way], options: dict[str, Any], good: bool
) -> None:
    """A job must not start in a minute by one way and in years by another."""
    found = await answers(ways, options)

    assert {each is True for each in found.values()} == {good}, found
