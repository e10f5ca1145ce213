"""Each public function can be called by SQL, HTTP, the Python client and the command.

Each of these four ways must have an equal effect. Another tenant's user must get 404.
"""

import json
import re
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from minutehand.queue.client import UserQueue
from minutehand.queue.errors import QueueError
from minutehand.queue.models import NewJob
from tests.contract.api import Api
from tests.contract.observed import ask
from tests.support.engine import ACME, ADA, EVE, Engine, Json

W = f"/api/workspaces/{ACME}"
CRON = {"cron": "0 3 * * *", "job_type": "work"}
Client = Callable[[UserQueue, str], Awaitable[Any]]


@dataclass
class Ways:
    """One public function. `JOB` in its arguments is replaced by the job's id.

    Attributes:
        sql: Arguments of the public function.
        command: Command line without the workspace, which is added if the function takes one.
        client: The client's method, if it is not `call` with the same arguments.
        state: State of the job before the call.
        shows: For a change, a query whose result the call changes. For a read, a word that the
            response must have.
        stranger: Whether another tenant's person gets 404.
    """

    sql: Json
    http: str | None = None
    command: str | None = None
    client: Client | None = None
    body: Any = None
    state: str = "pending"
    shows: str = "JOB"
    stranger: bool = True


JOB = {"p_job_id": "JOB"}
LIMIT = {"own_max_running": 3}
MANY = {"workspace_id": ACME, "filter": {"job_type": "work"}}
OF = {"p_workspace_id": ACME}
STATUS = "select status from jobs where id = 'JOB'"
AGAIN = "select array[status, generation::text] from jobs where id = 'JOB'"
COUNT = "select count(*) from jobs where job_type = 'work'"
TABLE: dict[str, Ways] = {
    "enqueue_job": Ways(
        {**OF, "p_job_type": "work", "p_payload": {"n": 1}},
        "POST /api/jobs",
        "enqueue work '{}'",
        lambda q, _: q.enqueue("work", {"n": 1}, workspace_id=ACME),
        shows=COUNT,
        body={"workspace_id": ACME, "job_type": "work", "payload": {"n": 1}},
    ),
    "enqueue_jobs": Ways(
        {**OF, "p_jobs": [{"job_type": "work"}] * 2},
        "POST /api/jobs/bulk",
        client=lambda q, _: q.enqueue_many([NewJob(job_type="work")] * 2, workspace_id=ACME),
        shows=COUNT,
        body={"workspace_id": ACME, "jobs": [{"job_type": "work"}] * 2},
    ),
    "get_job": Ways(JOB, "GET /api/jobs/JOB", "show JOB", lambda q, job: q.get_job(job)),
    "list_jobs": Ways(
        {"p_filter": {"workspace_id": ACME}},
        f"GET /api/jobs?workspace_id={ACME}",
        f"ls --workspace {ACME}",
        lambda q, _: q.list_jobs(ACME),
    ),
    "count_jobs": Ways(
        OF, f"GET /api/jobs/counts?workspace_id={ACME}", shows="[\"']pending[\"']|queued"
    ),
    "cancel_job": Ways(
        JOB, "POST /api/jobs/JOB/cancel", "cancel JOB", lambda q, job: q.cancel(job), shows=STATUS
    ),
    "cancel_job, retry": Ways(
        {**JOB, "p_retry": True},
        "POST /api/jobs/JOB/cancel",
        "cancel JOB --retry",
        lambda q, job: q.cancel(job, retry=True),
        shows=AGAIN,
        body={"retry": True},
    ),
    "retry_job": Ways(
        JOB,
        "POST /api/jobs/JOB/retry",
        "retry JOB",
        lambda q, job: q.retry(job),
        state="failed",
        shows="select array[status, payload::text] from jobs where id = 'JOB'",
        body={},  # a body without a payload keeps the payload
    ),
    "replay_job": Ways(
        {**JOB, "p_request": {"from_step": "s"}},
        "POST /api/jobs/JOB/replay",
        "replay JOB --from s",
        lambda q, job: q.replay(job, from_step="s"),
        state="completed",
        shows="select count(*) from jobs where replay_of = 'JOB' and replay_from = 's'",
        body={"from_step": "s"},
    ),
    "answer_job": Ways(
        {**JOB, "p_answer": {"answer": "yes"}},
        "POST /api/jobs/JOB/answer",
        "answer JOB yes",
        lambda q, job: q.answer(job, "yes", name="q"),
        state="waiting",
        shows=STATUS,
        body={"answer": "yes", "name": "q"},
    ),
    "emit_event": Ways(
        {**OF, "p_name": "paid", "p_payload": {"n": 1}},
        "POST /api/events",
        client=lambda q, _: q.emit_event(ACME, "paid", {"n": 1}),
        state="expecting",
        shows=STATUS,
        body={"workspace_id": ACME, "name": "paid", "payload": {"n": 1}},
    ),
    "explain_job": Ways(
        JOB, "GET /api/jobs/JOB/explain", "explain JOB", shows="[\"']pending[\"']|status"
    ),
    "explain_queue": Ways(
        OF, f"GET /api/status/explain?workspace_id={ACME}", "status", shows="findings|No worker"
    ),
    "job_trace": Ways(JOB, "GET /api/jobs/JOB/trace", state="completed"),
    "job_attempts": Ways(JOB, "GET /api/jobs/JOB/attempts", state="completed", shows="completed"),
    "job_steps": Ways(JOB, "GET /api/jobs/JOB/steps", state="completed", shows="kept-by-step"),
    "dead_letters": Ways(
        OF, f"GET /api/jobs/failures?workspace_id={ACME}", "failures", state="failed", shows="work"
    ),
    "cancel_jobs": Ways(
        {**OF, "p_filter": MANY["filter"]},
        "POST /api/jobs/cancel",
        "cancel --type work --yes",
        shows=STATUS,
        body=MANY,
    ),
    "cancel_jobs, retry": Ways(
        {**OF, "p_filter": MANY["filter"], "p_retry": True},
        "POST /api/jobs/cancel",
        "cancel --type work --retry --yes",
        shows=AGAIN,
        body={**MANY, "retry": True},
    ),
    "retry_jobs": Ways(
        {**OF, "p_filter": MANY["filter"]},
        "POST /api/jobs/retry",
        "retry --type work --yes",
        state="failed",
        shows=STATUS,
        body=MANY,
    ),
    "pause_jobs": Ways(
        {"p_request": {"kind": "workspace", "name": ACME}},
        f"POST {W}/pause",
        f"pause --all --workspace {ACME}",
        lambda q, _: q.pause(ACME, True),
        shows="select explain_job('JOB') ->> 'reason'",
        body={},
    ),
    "put_schedule": Ways(
        {**OF, "p_schedule": {"name": "s", **CRON}},
        f"PUT {W}/schedules/s",
        shows=f"select jsonb_array_length(list_schedules('{ACME}') -> 'schedules')",
        body=CRON,
    ),
    "list_schedules": Ways(OF, f"GET {W}/schedules", state="scheduled", shows="kept|0 4"),
    "delete_schedule": Ways(
        {**OF, "p_name": "kept"},
        f"DELETE {W}/schedules/kept",
        state="scheduled",
        shows=f"select list_schedules('{ACME}')",
    ),
    "next_runs": Ways(
        {**OF, "p_schedule": CRON}, f"GET {W}/next-runs?cron=0 3 * * *", shows="03:00:00|3, 0"
    ),
    "list_webhooks": Ways(OF, f"GET {W}/webhooks", shows="webhooks|()"),
    "workspace_limits": Ways(OF, f"GET {W}/limits", shows="own_max_running"),
    "set_workspace_limits": Ways(
        {**OF, "p_limits": LIMIT},
        f"PATCH {W}/limits",
        shows=f"select workspace_limits('{ACME}') -> 'own_max_running'",
        body=LIMIT,
    ),
    "list_job_types": Ways(OF, f"GET /api/types?workspace_id={ACME}", "types", shows="work"),
    "queue_stats": Ways(OF, f"GET /api/status?workspace_id={ACME}", shows="work|live"),
    "event_feed": Ways(
        OF, f"GET {W}/events", client=lambda q, _: q.workspace_feed(ACME), shows="cursor"
    ),
    "list_workspaces": Ways({}, shows="Acme", stranger=False),
    "own_workspace": Ways({}, shows=ACME, stranger=False),
    "queue_health": Ways({}, "GET /api/health/ready", shows="ready|live|due", stranger=False),
}


def prepare(engine: Engine, state: str) -> str:
    job_id = engine.enqueue({"n": 0})
    if state == "scheduled":
        engine.put_schedule(name="kept", cron="0 4 * * *")
    if state in {"pending", "scheduled"}:
        return job_id
    lease = next(one for one in engine.lease(100) if one["job"]["id"] == job_id)
    if state == "waiting":
        engine.suspend(lease, **ask())
    elif state == "expecting":
        engine.suspend(lease, kind="event", event="paid")
    else:
        engine.settle(lease, state, steps=[{"name": "s", "result": "kept-by-step"}])
    return job_id


def put(value: Any, job_id: str) -> Any:
    return json.loads(json.dumps(value).replace("JOB", job_id))


async def take(api: Api, way: str, function: str, ways: Ways, job_id: str, user: str) -> str:
    """Call the function in one of the four ways.

    Return the response, or the error's code, as text.
    """
    arguments = put(ways.sql, job_id)
    if way == "SQL":
        try:
            with api.engine.member(user) as person:
                caller = api.engine if function == "queue_health" else person
                return json.dumps(caller.rpc(function, **arguments), default=str)
        except psycopg.Error as error:
            return f"refused: {error.sqlstate}"
    if way == "HTTP":
        assert ways.http is not None
        method, path = ways.http.replace("JOB", job_id).split(" ", 1)
        more = {} if ways.body is None else {"json": put(ways.body, job_id)}
        answer = await api.call(method, path, user=user, **more)
        is_taken = answer.status_code < 300 or answer.status_code == 503
        return answer.text if is_taken else f"refused: PT{answer.status_code}"
    if way == "client":
        client = api.client(user)
        plain = {name.removeprefix("p_"): value for name, value in arguments.items()}
        call = ways.client or (lambda client, _: client.call(function, **plain))
        try:
            return repr(await call(client, job_id))
        except QueueError as error:
            return f"refused: PT{error.status}"
    assert ways.command is not None
    words = shlex.split(ways.command.replace("JOB", job_id))
    words += ["--workspace", ACME] if "p_workspace_id" in ways.sql else []
    printed = await api.command(*words, user=user, code=0 if user == ADA else 1)
    is_missing = user != ADA and re.search(r"not.found|no job", printed, re.IGNORECASE)
    return "refused: PT404" if is_missing else printed


@pytest.mark.parametrize("name", TABLE)
async def test_every_way_arrives(api: Api, name: str) -> None:
    """A call by SQL, HTTP, the client or the command has an equal effect or result.

    Another tenant's user is rejected in every way.
    """
    ways, function = TABLE[name], name.partition(",")[0]
    given = {"SQL": True, "HTTP": ways.http, "client": function != "queue_health"}
    left: Json = {}
    for way in [name for name, known in {**given, "command": ways.command}.items() if known]:
        api.engine.run("delete from jobs")
        job_id = prepare(api.engine, ways.state)
        query = ways.shows.replace("JOB", job_id)
        is_query = query.startswith("select ")
        before = api.engine.one(query) if is_query else None
        if ways.stranger:
            assert await take(api, way, function, ways, job_id, EVE) == "refused: PT404"
        result = await take(api, way, function, ways, job_id, ADA)
        assert not result.startswith("refused"), (way, result)
        if is_query:
            api.engine.maintain()
            left[way] = api.engine.one(query)
            assert left[way] != before, (way, result)
            undo(api.engine)
        else:
            assert re.search(query, result), (way, result)
    assert len({json.dumps(each, default=str) for each in left.values()}) <= 1, left


def undo(engine: Engine) -> None:
    engine.resume("workspace")
    engine.limit(own_max_running=None)
    for schedule in engine.rpc("list_schedules", p_workspace_id=ACME)["schedules"]:
        engine.rpc("delete_schedule", p_workspace_id=ACME, p_name=schedule["name"])


async def test_a_keys_job_is_made_once_by_whatever_way(api: Api) -> None:
    """The first HTTP request with an idempotency key returns 201 with a new job.

    A repeat by HTTP, the client or the command returns that job.
    """
    key = {"idempotency-key": "k"}
    body = {"workspace_id": ACME, "job_type": "work", "payload": {}}
    answers = [await api.call("POST", "/api/jobs", json=body, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    again = await api.client().enqueue("work", {}, workspace_id=ACME, idempotency_key="k")
    result = await api.command("enqueue", "work", "{}", "--key", "k", "--workspace", ACME)
    ids = {answers[0].json()["id"], answers[1].json()["id"], str(again.job.id)}
    assert len(ids) == 1
    assert (job := json.loads(result))["id"] in ids
    assert not job["created"]
    bulk = {"workspace_id": ACME, "jobs": [{"job_type": "work"}] * 2}
    made = [await api.call("POST", "/api/jobs/bulk", json=bulk, headers=key) for _ in range(2)]
    lists = [[line["job"]["id"] for line in answer.json()["jobs"]] for answer in made]
    assert lists[0] == lists[1]
    assert len(set(lists[0])) == 2


async def test_a_mistyped_type_is_no_silence(api: Api) -> None:
    """An enqueue of an unknown job type succeeds, because a worker for it may start later.

    The response warns the caller and names the most similar known type.
    """
    warnings = []
    for job_type in ("work", "works", "xyzzy"):
        body: Json = {"workspace_id": ACME, "job_type": job_type, "payload": {}}
        warnings.append((await api.call("POST", "/api/jobs", json=body)).json()["warning"])
    known, similar, unknown = warnings

    assert known is None
    assert re.search("type works .* most similar", similar)
    assert ("type xyzzy " in unknown, "most similar" in unknown) == (True, False)
    jobs = [{"job_type": name} for name in ("work", "works", "xyzzy", "works")]
    for sent, warning in ((jobs[:1], None), (jobs, f"{similar} {unknown}")):
        bulk = {"workspace_id": ACME, "jobs": sent}
        answer = await api.call("POST", "/api/jobs/bulk", json=bulk)
        assert answer.json()["warning"] == warning
