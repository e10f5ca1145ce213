"""Checks that Python, SQL and the npm client agree on the names and types of all fields.

The database's catalogue and real responses are compared with the Python models.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from pydantic import TypeAdapter

from infra.bench.scratch import scratch_settings
from minutehand.queue import models
from minutehand.queue.direct import DirectApi
from minutehand.queue.errors import LeaseLost, QueueError
from minutehand.queue.worker_client import WorkerQueue
from tests.contract.test_promise_12_options import TABLE
from tests.support.engine import ACME, ERROR, Engine, Json, handle
from tests.support.paths import ROOT

#: Fields of an SQL type that SQL fills itself. No request contains them.
INTERNAL = {"lease_request": {"worker", "job_ids"}, "worker_item": set[str]()}
#: Fields that a public function reads before it converts the request to a composite type.
READ_FIRST = {"lease_request": {"listens": "boolean"}}
#: For each type or format of a JSON schema: the types in SQL, and the type in TypeScript.
TYPES = {
    "integer": ({"integer", "bigint"}, "number"),
    "number": ({"double precision", "integer"}, "number"),
    "boolean": ({"boolean"}, "boolean"),
    "string": ({"text", "uuid"}, "string"),
    "date-time": ({"timestamp with time zone"}, "string"),
}
#: The types of all other fields.
OTHERS = ({"jsonb", "text[]"}, "")

#: Options that only the service role may set in a plain INSERT.
OF_THE_SERVICE = {"parent_id", "timeout_seconds", "traceparent", "schema_version"}
MODELS = "models.py"
TYPESCRIPT = "index.d.ts"
#: Fields that a response may omit, because the Python model has a default.
LEFT_OUT = {
    "new job": {"glimpse", "schedule", "streams"},
    "new job of many": {
        *("error", "next_run_at", "running_since", "state"),
        *("deaths", "glimpse", "schedule", "streams", "times", "waiting_for", "worker_id"),
    },
    "run": {"ended", "refused"},
    "lease_jobs": {"size"},
    "report_jobs": {"output"},
    "settle_jobs": {"error"},
    "event_feed": {"reset"},
}


def schema_in(engine: Engine, function: str) -> Json:
    """Return the JSON schema in the constant `c_schema` of an SQL function."""
    source = engine.one("select prosrc from pg_proc where oid = %s::regproc", function)
    pattern = r"c_schema constant jsonb := (?:'|\$json\$)(.*?)(?:'|\$json\$);"
    [text] = re.findall(pattern, source, re.DOTALL)
    return json.loads(text)


def schema_of(model: Any) -> Json:
    return TypeAdapter(model).json_schema()


def fields_of(model: Any) -> dict[str, tuple[set[str], str]]:
    """Return the fields of a model or dataclass, with their types in SQL and TypeScript."""
    types = {}
    for name, field in schema_of(model)["properties"].items():
        either = field.get("anyOf", [field])[0]  # in `anyOf`, the second type is null
        types[name] = TYPES.get(either.get("format", either.get("type")), OTHERS)
    return types


def lacking(sides: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Return, for each file, the fields that other files have and this file lacks."""
    known = set[str]().union(*sides.values())
    lacks = {file: known.difference(fields) for file, fields in sides.items()}
    return {file: fields for file, fields in lacks.items() if fields}


@pytest.mark.parametrize(
    ("composite", "model"),
    [("lease_request", models.LeaseRequest), ("worker_item", models.SettleItem)],
)
def test_a_request_has_the_fields_that_sql_reads(
    engine: Engine, composite: str, model: type
) -> None:
    """Each field that Python sends exists in the SQL type of the request.

    `jsonb_populate_record` would silently drop an unknown field.
    """
    rows = engine.connection.execute(
        "select attname, atttypid::regtype::text from pg_attribute"
        " where attrelid = ('queue.' || %s)::regclass and attnum > 0",
        (composite,),
    ).fetchall()
    columns = {name: kind for name, kind in rows if name not in INTERNAL[composite]}
    columns |= READ_FIRST.get(composite, {})
    fields = fields_of(model)

    assert lacking({f"queue.{composite}, in SQL": columns, MODELS: fields}) == {}
    for name, kind in columns.items():
        assert kind in fields[name][0], (name, kind)


@pytest.fixture
def answers(engine: Engine) -> Json:
    """A real response of each function whose response a client parses as a model."""
    mine = {"p_workspace_id": ACME}
    made = engine.rpc("enqueue_job", **mine, p_job_type="work", p_payload={}, p_options={})
    many = engine.rpc("enqueue_jobs", **mine, p_jobs=[{"job_type": "work", "payload": {}}])
    leased = engine.lease_call(2, most=1, run_seconds=10)
    first, second = leased["leases"]
    news = {**handle(first), "progress": {"percentage": 5}, "steps": [{"name": "s", "result": 1}]}
    reported = engine.rpc("report_jobs", p_request={"items": [news]})
    items = [
        {**handle(first), "outcome": "retry", "error": ERROR, "cost_usd": 0.5},
        {**handle(second), "outcome": "completed"},
    ]
    settled = engine.rpc("settle_jobs", p_request={"items": items})
    page = engine.rpc("list_jobs", p_filter={"workspace_id": ACME})
    health = engine.rpc("queue_health")
    return {
        "enqueue_job": (made, models.Enqueued),
        "enqueue_jobs": (many, models.EnqueuedBatch),
        "new job": (made["job"], models.Job),
        "new job of many": (many["jobs"][0]["job"], models.Job),
        "run": (leased["run"], models.RunState),
        "lease_jobs": (leased, models.LeaseResponse),
        "lease": (first, models.Lease),
        "leased job": (first["job"], models.LeasedJob),
        "report_jobs": (reported["results"][0], models.ReportResult),
        "settle_jobs": (settled["results"][0], models.SettleResult),
        "run_maintenance": (engine.rpc("run_maintenance"), models.MaintenanceResponse),
        "get_job": (engine.rpc("get_job", p_job_id=made["job"]["id"]), models.Job),
        "list_jobs": (page["jobs"][0], models.ListedJob),
        "event_feed": (engine.rpc("event_feed", **mine), models.FeedPage),
        "queue_health": (health, models.QueueHealth),
    }


def test_an_answer_has_the_fields_that_python_reads(answers: Json) -> None:
    """Each response of an SQL function has exactly the fields of its Python model."""
    for function, (answer, model) in answers.items():
        fields = fields_of(model)
        left_out = LEFT_OUT.get(function, set())
        # A report's response also has fields that the worker does not read.
        read = answer.keys() & fields.keys() if issubclass(model, models.Report) else answer.keys()
        sides = {MODELS: fields, f"{function}, in SQL": read | left_out}
        assert lacking(sides) == {}
        assert not left_out & answer.keys(), function
        assert left_out.isdisjoint(schema_of(model).get("required", ())), function
        TypeAdapter(model).validate_python(answer)


def test_a_job_is_the_same_for_python_sql_and_typescript(answers: Json) -> None:
    """A job has equal fields and types in the Python model, the SQL response and the npm client."""
    source = (ROOT / "infra/console/npm/index.d.ts").read_text()
    [body] = re.findall(r"export type Job<.*?> = \{\n(.*?)\n\};", source, re.DOTALL)
    typed = dict(re.findall(r"^  (\w+)\??: (.+?);$", body, re.MULTILINE))
    fields = fields_of(models.Job)
    job, _ = answers["get_job"]

    assert lacking({TYPESCRIPT: typed, MODELS: fields, "15_reads.sql": job}) == {}
    assert job["cost_usd"] == 0.5
    for name, result in typed.items():
        plain = result.removesuffix(" | null")
        if plain in {"number", "string", "boolean"}:
            assert fields[name][1] in {plain, ""}, (name, result)


def read_by_sql(engine: Engine) -> set[str]:
    """Return the options of an enqueue that SQL accepts from every caller."""
    schema = schema_in(engine, "queue.read_options")
    return set(schema["properties"]) - {"user_id"}


def test_each_option_of_an_enqueue_is_known_by_all(engine: Engine) -> None:
    """Each option of an enqueue exists in Python, SQL, the npm types, tests and documentation."""
    source = (ROOT / "infra/console/npm/index.d.ts").read_text()
    [body] = re.findall(r"export type EnqueueOptions = Optional<\{\n(.*?)\n\}>;", source, re.DOTALL)
    typed = set(re.findall(r"^  (\w+):", body, re.MULTILINE))
    fields = fields_of(models.EnqueueOptions).keys()

    comment = engine.one("select obj_description('enqueue_job'::regproc)")
    page = (ROOT / "supabase/README.md").read_text()
    taken = read_by_sql(engine)
    sides = {
        TYPESCRIPT: typed,
        MODELS: fields,
        "test_promise_12_options.py": TABLE,
        "queue.read_options": taken,
        "comment on enqueue_job": taken & set(re.findall(r"\w+", comment)),
        "supabase/README.md": {name for name in taken if re.search(rf"`{name}\b", page)},
    }
    assert lacking(sides) == {}


def test_each_option_may_be_set_by_a_plain_insert(engine: Engine) -> None:
    """The service role may set every option in a plain INSERT, and a member most options."""
    fields = read_by_sql(engine)
    may = (
        "select attname from pg_attribute where attrelid = 'jobs'::regclass"
        " and attnum > 0 and not has_column_privilege(%s, attrelid, attnum, 'insert')"
    )
    assert fields.isdisjoint(engine.rows(may, "service_role"))
    assert fields & set(engine.rows(may, "authenticated")) == OF_THE_SERVICE


async def test_a_connection_of_the_workers_own_carries_the_same(engine: Engine) -> None:
    """A worker with a direct connection to Postgres acts as the role `job_worker`.

    Calls return the same data and errors as through the Data API.
    """
    job_id = engine.enqueue({"n": 1})
    api = DirectApi(engine.database.url, schema="public")
    queue = WorkerQueue(scratch_settings(), api=api)
    request = models.LeaseRequest(worker_id="w", tick_id=ACME, call=1, limit=5)

    [lease] = (answer := await queue.lease(request)).leases

    assert (lease.job.id, lease.job.payload, answer.size > 100) == (job_id, {"n": 1}, True)
    with pytest.raises(LeaseLost):
        await queue.spawn(lease.job.id, lease.fence + 1, "s", [])
    with pytest.raises(QueueError, match="permission denied"):
        await api.rpc("set_settings", {"p_settings": {}}, headers={}, repeatable=False)
    [connection] = api._free
    role = await (await connection.execute("select current_user")).fetchone()
    assert role == ("job_worker",)
    await queue.aclose()
