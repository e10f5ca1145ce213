"""A number is the same number however it is written: 7, 7.0 and 7e0, for every function there is.

Callers in other languages hold floats, and the Data API passes on what they write, as text.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from minutehand.queue import models
from minutehand.queue.keys import WorkerKey
from tests.support.databases import SCHEMAS
from tests.support.project import ACME, Project

#: The functions that clients call, each with its parameters; those of extensions are not ours.
FUNCTIONS = """
select p.proname, array(
  select row (coalesce(p.proargnames[i], ''), format_type(p.proargtypes[i - 1], null),
    i <= p.pronargs - p.pronargdefaults)::text
  from generate_series(1, p.pronargs) as i)
from pg_catalog.pg_proc as p
where p.pronamespace = 'public'::regnamespace and p.prokind = 'f'
  and p.prorettype <> 'trigger'::regtype
order by 1
"""
SPELLINGS = ("7", "7.0", "7e0")
WRONG = ("7.5", "1e30", "-1e30")
#: What is given for a parameter that has no default.
OTHERS = {
    "uuid": json.dumps(ACME),
    "jsonb": "{}",
    "text": '"x"',
    "timestamp with time zone": '"2026-01-01T00:00:00Z"',
    "double precision": "1",
    "numeric": "1",
    "uuid[]": "[]",
    "text[]": "[]",
    "boolean": "false",
}
#: Models of requests that have numbers, each with the call that takes it.
REQUESTS: dict[type[Any], str] = {
    models.EnqueueOptions: "enqueue_job",
    models.NewJob: "enqueue_jobs",
    models.LeaseRequest: "lease_jobs",
    models.ReportItem: "report_jobs",
    models.SettleItem: "settle_jobs",
    models.JobTypeSpec: "register_job_types",
}
NAMESPACES = (SCHEMAS.clients, SCHEMAS.engine, "beacon", "chat", "enrichment", "plans", "training")
#: Read what the engine has written, or has looked at.
INTERNAL = {"count_states", "failed_remedy", "whole_steps"}
SPEC = {"job_type": "numbers.seven", "schema_version": 7}


def parameters_of(project: Project) -> dict[str, list[tuple[str, str, bool]]]:
    """Every function's parameters: name, type, whether it must be given."""
    read = {}
    for row in project.rows(FUNCTIONS):
        fields = [re.fullmatch(r'\(([^,]*),"?([^"]*?)"?,(t|f)\)', one) for one in row["array"]]
        read[row["proname"]] = [(f[1], f[2], f[3] == "t") for f in fields if f is not None]
    return read


class Caller:
    """Sends bodies as they are written, as whoever may call."""

    def __init__(self, project: Project) -> None:
        settings = project.settings
        url, key = settings.supabase_url, settings.supabase_publishable_key
        self.http = httpx.Client(base_url=f"{url}/rest/v1/rpc/", timeout=30)
        self.http.headers["Content-Profile"] = settings.schema_name
        self._callers: list[dict[str, str]] = [
            {"apikey": settings.supabase_secret_key or ""},
            {"apikey": key, "Authorization": f"Bearer {project.token()}"},
            dict(WorkerKey(settings).headers()),
        ]

    def call(self, function: str, body: str) -> httpx.Response:
        """The answer to the first caller who is not turned away at the door."""
        for headers in self._callers:
            headers = {**headers, "Content-Type": "application/json"}
            answer = self.http.post(function, content=body, headers=headers)
            if answer.status_code != 403 or answer.json()["code"] != "42501":
                break
        return answer


@pytest.fixture
def caller(project: Project) -> Iterator[Caller]:
    """Calls by text."""
    made = Caller(project)
    yield made
    made.http.close()


def gist(answer: httpx.Response) -> tuple[int, str, str]:
    """What must not depend on a number's spelling."""
    body = answer.json() if answer.content else {}
    refusal = body if isinstance(body, dict) and not answer.is_success else {}
    return answer.status_code, refusal.get("code", ""), refusal.get("message", "")


def body_with(parameters: list[tuple[str, str, bool]], name: str, number: str) -> str:
    """Arguments of a call, one of them this number."""
    given = {each: OTHERS[kind] for each, kind, required in parameters if required}
    return "{" + ", ".join(f'"{k}": {v}' for k, v in {**given, name: number}.items()) + "}"


def test_no_function_takes_an_integer_that_floats_would_break(project: Project) -> None:
    """The Data API casts the text 7.0 to the parameter's type, and Postgres refuses."""
    typed = {
        f"{function}({name} {kind})"
        for function, parameters in parameters_of(project).items()
        for name, kind, _ in parameters
        if kind in ("integer", "bigint", "smallint")
    }

    assert typed == set(), "make it numeric, and read it by queue.whole or queue.big_whole"


def test_no_function_reads_an_integer_out_of_json_by_a_cast(project: Project) -> None:
    """`->> 'limit')::integer` refuses 7.0 in words of Postgres; queue.whole_in names the field."""
    bodies = project.rows(
        "select proname, coalesce(pg_get_function_sqlbody(oid), prosrc) as body "
        "from pg_catalog.pg_proc where pronamespace = any(%s::regnamespace[]) and prokind = 'f'",
        [*NAMESPACES],
    )
    integer = r"(?:integer|bigint|smallint)\b"
    cast = re.compile(
        rf"\bp_[\w.]+ (?:->>|#>>) '[^']+'(?:::text)?\)::{integer}"
        rf"|to_recordset\(p_\w+\) as \w+ \([^)]*\b{integer}"
    )

    found = {row["proname"]: cast.findall(row["body"] or "") for row in bodies}

    assert len(found) > 500
    assert {name for name, casts in found.items() if casts} == INTERNAL


def test_every_numeric_argument_is_one_number_in_every_spelling(
    project: Project, caller: Caller
) -> None:
    """All functions of the catalogue: the same answer for 7, 7.0 and 7e0, and one refusal."""
    told: list[str] = []
    for function, parameters in parameters_of(project).items():
        for name, kind, _ in parameters:
            if kind != "numeric":
                continue
            gists = [
                gist(caller.call(function, body_with(parameters, name, number)))
                for number in SPELLINGS
            ]
            if len(set(gists)) > 1 or gists[0][1].startswith("22"):
                told.append(f"{function} {name}: {gists}")
            for number in WRONG:
                answer = caller.call(function, body_with(parameters, name, number))
                named = answer.status_code == 400 and name in answer.json()["message"]
                # another check may come first, and then refuses every number alike
                if not named and (gists[0][0] < 400 or gist(answer) != gists[0]):
                    told.append(f"{function} {name}={number}: {gist(answer)}")

    assert told == [], "\n".join(told)


def spelled(text: str, spelling: str) -> str:
    """`text` with every 7 written so; strings keep theirs."""
    return re.sub(r"(?<=[:\[,] )7(?=[,}\]])", spelling, text)


def sevens(project: Project, job_id: str, fence: int) -> dict[str, dict[str, Any]]:
    """A body for the function of each model, with a 7 wherever a number can stand."""
    options = models.EnqueueOptions(
        priority=7,
        delay_seconds=7,
        max_attempts=7,
        idempotency_ttl_seconds=7,
        timeout_seconds=7,
        backoff=models.BackoffOptions(first_seconds=7, cap_seconds=7, factor=7),
        schema_version=7,
    ).wire()
    type_names = [
        *("max_concurrency", "workspace_concurrency", "key_concurrency", "lease_seconds"),
        *("timeout_seconds", "max_attempts", "schema_version", "ageing_seconds"),
    ]
    spec = models.JobTypeSpec(
        job_type="numbers.spec",
        rate_limit={"limit": 7, "per_seconds": 7},
        backoff=models.BackoffOptions(first_seconds=7, cap_seconds=7, factor=7),
        **dict.fromkeys(type_names, 7),
    )
    lease = models.LeaseRequest(
        worker_id="w", tick_id=str(uuid.uuid4()), call=7, limit=7, lease_seconds=7, budget_ms=7,
        free_slots=7, job_types=("numbers.none",),
    )  # fmt: skip
    item = {"job_id": job_id, "fence": fence, "logs_from": 7, "progress": {"percentage": 7}}
    report = {**item, "lease_seconds": 7, "step": {"name": "s", "for_ms": 7}}
    settle = {**item, "outcome": "snoozed", "delay_seconds": 7, "duration_ms": 7, "cost_usd": 7}
    return {
        "enqueue_job": {
            "p_workspace_id": ACME,
            "p_job_type": "numbers.seven",
            "p_options": options,
        },
        "enqueue_jobs": {
            "p_workspace_id": ACME,
            "p_jobs": [{**options, "job_type": "numbers.seven", "payload": {"n": 7}}],
        },
        "lease_jobs": {"p_request": lease.wire()},
        "register_job_types": {"p_types": [spec.model_dump(mode="json", exclude_none=True)]},
        "report_jobs": {"p_request": {"worker_id": "w", "items": [report]}},
        "settle_jobs": {"p_request": {"worker_id": "w", "items": [settle]}},
        "set_workspace_limits": {
            "p_workspace_id": ACME,
            "p_limits": {"weight": 7, "max_running": 7, "own_max_running": 7, "max_pending": 7},
        },
    }


def test_every_model_of_a_request_is_sent() -> None:
    """A new one is added to REQUESTS, and to the bodies below."""
    sent = {
        each for each in vars(models).values() if isinstance(each, type) and hasattr(each, "wire")
    }

    assert sent == set(REQUESTS)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_models_arrive_in_every_spelling(project: Project, caller: Caller, spelling: str) -> None:
    """One row comes of them, and what is kept is kept in one spelling."""
    caller.call("register_job_types", json.dumps({"p_types": [SPEC]}))
    made = caller.call(
        "enqueue_job", json.dumps({"p_workspace_id": ACME, "p_job_type": SPEC["job_type"]})
    ).json()["job"]["id"]
    leased = {"worker_id": "w", "tick_id": str(uuid.uuid4()), "call": 1, "limit": 1,
              "job_types": [SPEC["job_type"]]}  # fmt: skip
    answer = caller.call("lease_jobs", json.dumps({"p_request": leased})).json()
    fence = answer["leases"][0]["fence"]
    project.run_sql("update queue.leases set fence = 7")
    project.run_sql("update public.jobs set fence = 7 where id = %s", made)
    assert fence >= 1

    for function, body in sevens(project, made, 7).items():
        answer = caller.call(function, spelled(json.dumps(body), spelling))

        assert answer.status_code == 200, (function, answer.text)
        assert '"lost"' not in answer.text, function
        assert '"stale"' not in answer.text, function
    [kept] = project.rows(
        "select distinct backoff::text, priority, max_attempts from public.jobs where priority = 7"
    )
    assert kept["backoff"] == '{"factor": 7, "cap_seconds": 7, "first_seconds": 7}'


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_is_kept_is_read_again_in_every_spelling(
    project: Project, caller: Caller, spelling: str
) -> None:
    """Settings, a type's retention and its schema are used long after they were accepted."""
    length = {"type": "string", "minLength": 7, "maxLength": 7}
    some = {"type": "array", "minItems": 7, "maxItems": 7}
    schema = {"type": "object", "properties": {"text": length, "items": some}}
    days = {"completed": 7, "cancelled": 7, "failed": 7}
    settings = {"retention_days": days, "realtime_messages_per_second": 7}
    for function, body in {
        "register_job_types": {"p_types": [{**SPEC, "payload_schema": schema}]},
        "set_settings": {"p_settings": settings},
    }.items():
        answer = caller.call(function, spelled(json.dumps(body), spelling))
        assert answer.status_code == 200, answer.text

    for payload, problem in (
        ({"text": "seven..", "items": [7] * 7}, None),
        ({"text": "six..."}, "payload.text must have at least"),
        ({"items": [7] * 8}, "payload.items must have at most"),
    ):
        body = {"p_workspace_id": ACME, "p_job_type": SPEC["job_type"], "p_payload": payload}
        said = caller.call("enqueue_job", json.dumps(body)).text
        assert (problem or '"created": true') in said
    [read] = project.rows(
        "select queue.message_budget() as budget, queue.due_removals(10, now()) as due"
    )
    kept = project.rows("select value::text from queue.settings where name = any(%s)", [*settings])
    assert read == {"budget": 7, "due": []}
    assert not [row for row in kept if "." in row["value"]]


@pytest.mark.parametrize("number", ["7.5", "1e10"])
def test_an_option_that_is_not_whole_is_named(caller: Caller, number: str) -> None:
    """A clear refusal, not a word of Postgres about its integers."""
    caller.call("register_job_types", json.dumps({"p_types": [SPEC]}))

    for name in ("priority", "max_attempts", "schema_version"):
        body = {"p_workspace_id": ACME, "p_job_type": SPEC["job_type"], "p_options": {name: 7}}
        answer = caller.call("enqueue_job", spelled(json.dumps(body), number))

        assert (answer.status_code, answer.json()["code"]) == (400, "PT400")
        assert answer.json()["details"] == name
        assert name in answer.json()["message"]


def test_models_write_whole_numbers_as_such() -> None:
    """What an older function or another server reads of them is an integer."""
    options = models.EnqueueOptions(delay_seconds=60, backoff=models.BackoffOptions(factor=2.5))

    assert json.dumps(options.wire()) == '{"delay_seconds": 60, "backoff": {"factor": 2.5}}'
