"""Each option of a job follows equal rules in all six ways to enqueue a job."""

import contextlib
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.contract.api import Api
from tests.contract.observed import refused
from tests.support.engine import ACME, Engine, Json

#: A placeholder that is replaced by a unique text at each use.
ONCE = "<once>"
LATER = "2031-01-01T00:00:00+00:00"
INSTANTS = ["1969-12-31T23:59:59Z", "9999-06-01T00:00:00Z", "soon"]
TYPE_ERROR = None  # Postgres rejects a value of a wrong type without a column name
Way = Callable[[Json], Awaitable[str]]
Ways = dict[str, Way]

#: For each option: values that an enqueue must accept, and values that it must reject.
TABLE: dict[str, tuple[list[Any], list[Any]]] = {
    "queue": (["q", "q" * 100], ["", "q" * 101, "q\x07", "undeclared"]),
    "priority": ([0, 1000], [-1, 1001, "high"]),
    "scheduled_for": ([LATER], INSTANTS),
    "delay_seconds": ([0, 60.5], [-1, 315360001, "long"]),
    "max_attempts": ([1, 50], [0, 51, "many"]),
    "idempotency_key": ([ONCE], ["", "k" * 256]),
    "concurrency_key": (["c", "c" * 255], ["", "c" * 256, "c\n"]),
    "session_id": ([ONCE], ["", "s" * 256]),
    "parent_id": ([], ["no-uuid"]),
    "deadline_at": ([LATER], INSTANTS),
    "timeout_seconds": ([1, 43200], [0, 43201, "long"]),
    "start_by_seconds": ([1, 315360000], [0, 315360001, 1.5, "long"]),
    "unique": (
        [{"key": ONCE}, {"key": ONCE, "until": "leased", "on_conflict": "replace"}],
        [
            {"key": ""},
            {"key": "k" * 256},
            {},
            {"key": "k", "until": "ever"},
            "k",
            {"key": "k", "on_conflict": "fight"},
            {"key": "k", "x": 1},
        ],
    ),
    "debounce_seconds": ([], [1, -1, 86401, "long"]),
    "schema_version": ([1], [0, 2, "new"]),
    "tags": ([["a", "b"]], [["t"] * 21, [""], ["t" * 101], "tag", [["t"], ["u"]]]),
    "traceparent": (["t", "t" * 255], ["", "t" * 256]),
}
#: Combinations of options, and whether an enqueue accepts the combination.
PAIRS: list[tuple[Json, bool]] = [
    ({"scheduled_for": LATER, "delay_seconds": 60}, False),
    ({"unique": {"key": ONCE}, "debounce_seconds": 0.05}, False),
    ({"unique": {"key": ONCE}, "debounce_seconds": 30}, True),
    ({"prioritty": 5}, False),
]
#: Options of the enqueue functions that are not columns of `jobs`, so an INSERT lacks them.
NOT_COLUMNS = {"delay_seconds", "unique", "debounce_seconds", "prioritty"}
#: Options that a replacement of the unique job cannot change.
AS_MADE = {
    *("queue", "max_attempts", "timeout_seconds", "deadline_at"),
    *("concurrency_key", "session_id", "traceparent"),
}
#: Options that a retry removes.
OF_ONE_START = {"scheduled_for", "deadline_at", "start_by_seconds"}
#: Options that a replay does not copy and a schedule rejects.
OF_ONE_JOB = {
    *("scheduled_for", "deadline_at", "idempotency_key"),
    *("parent_id", "debounce_seconds", "traceparent"),
}


class Refused(Exception):
    """An enqueue was rejected. The attribute `field` is the option that the error names."""

    def __init__(self, field: str | None) -> None:
        self.field = field
        super().__init__(field)


def field_of(detail: str | None) -> str | None:
    """Return the option that an error's detail names, without the job's path in the request."""
    if detail is None:
        return None
    return re.split(r"[.\[]", re.sub(r"^(jobs|children)(\.0|\[0\])\.", "", detail))[0]


@pytest.fixture
def ways(api: Api) -> Ways:
    """The six ways to enqueue a job.

    Each is a function that returns the job's id or raises Refused.
    """
    engine = api.engine
    engine.declare("q", "q" * 100)
    engine.enqueue()
    lease = engine.lease_one(lease_seconds=9000)

    def fresh(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fresh(each) for name, each in value.items()}
        return uuid.uuid4().hex if value == ONCE else value

    async def http(path: str, body: Json) -> Any:
        answer = await api.call("POST", path, json={"workspace_id": ACME, **body})
        if answer.status_code < 300:
            return answer.json()
        assert answer.status_code in {400, 422}, answer.text
        detail = answer.json()["detail"]
        raise Refused(field_of(detail[0]["field"]) if isinstance(detail, list) else None)

    async def one(options: Json) -> str:
        return (await http("/api/jobs", item(fresh(options))[0]))["id"]

    async def many(options: Json) -> str:
        answer = await http("/api/jobs/bulk", {"jobs": item(fresh(options))})
        return answer["jobs"][0]["job"]["id"]

    def by(action: Callable[[Json], str]) -> Way:
        async def way(options: Json) -> str:
            try:
                return action(fresh(options))
            except psycopg.Error as error:
                if (error.sqlstate or "")[:2] == "22":  # a value of a wrong type in an INSERT
                    raise Refused(TYPE_ERROR) from error
                if error.sqlstate not in {"PT400", "PT422"}:
                    raise
                raise Refused(field_of(error.diag.message_detail)) from error

        return way

    def insert(options: Json) -> str:
        columns = ", ".join(options)
        statement = (
            f"insert into jobs (workspace_id, job_type, {columns})"
            f" select %s, 'work', {columns} from jsonb_populate_record(null::jobs, %s)"
            " returning id::text"
        )
        return str(engine.one(statement, ACME, Jsonb(options)))

    def item(options: Json) -> list[Json]:
        return [{"job_type": "work", **options}]

    return {
        "one": one,
        "many": many,
        "function": by(lambda options: engine.enqueue(**options)),
        "bulk function": by(lambda options: engine.enqueue_all(item(options))[0]),
        "insert": by(insert),
        "spawn": by(lambda options: engine.spawn(lease, uuid.uuid4().hex, item(options))[0]),
    }


def that_know(ways: Ways, options: Json) -> Ways:
    without = {"insert"} if options.keys() & NOT_COLUMNS else set()
    if "parent_id" in options:
        without |= {"spawn"}  # a child's parent is the job that spawns it
    return {name: way for name, way in ways.items() if name not in without}


async def answers(ways: Ways, options: Json) -> Json:
    """Enqueue in each way.

    Return True for each way that accepted the job, and otherwise the rejected option.
    """
    found: Json = {}
    for name, way in that_know(ways, options).items():
        try:
            await way(options)
        except Refused as refusal:
            found[name] = refusal.field
        else:
            found[name] = True
    return found


@pytest.mark.parametrize("option", TABLE)
async def test_each_way_keeps_or_refuses_a_value_alike(ways: Ways, api: Api, option: str) -> None:
    """Every way to enqueue stores an option's value equally, or rejects the value.

    The error names the option.
    """
    accepted, rejected = TABLE[option]
    for value in rejected:
        found = await answers(ways, {option: value})

        assert True not in found.values(), (value, found)
        assert set(found.values()) <= {option, TYPE_ERROR}, (value, found)
    timers = "queue.deferred where job_id = %s and not is_place"
    for value in accepted:
        kept: Json = {}
        for name, way in that_know(ways, {option: value}).items():
            job_id = await way({option: value})
            job = api.engine.job(job_id)
            assert job["status"] == "pending"
            if option not in NOT_COLUMNS and value != ONCE:
                assert job[option] == value, name
            kept[name] = api.engine.count(timers, job_id)

        assert len(set(kept.values())) == 1, (value, kept)


@pytest.mark.parametrize("how", ["replace", "debounce"])
def test_a_replacement_keeps_each_option_unless_it_brings_its_own(engine: Engine, how: str) -> None:
    """A replacement of a unique job keeps each option that the second call does not set."""
    engine.declare("q", "q" * 100)
    own = {"scheduled_for"} if how == "debounce" else set()
    # A replacement keeps the parent and the idempotency key, because they identify the job.
    others = TABLE.keys() - NOT_COLUMNS - own - {"parent_id", "idempotency_key"}
    kept, brought = set[str](), set[str]()
    for option in others:
        options = {option: TABLE[option][0][-1]}
        value = engine.job(engine.enqueue(**options))[option]
        for first, second in ((options, {}), ({}, options)):
            unique = {"key": uuid.uuid4().hex}
            job_id = engine.enqueue(unique=unique, **first)
            later: Json = {"debounce_seconds": 30} if how == "debounce" else {}
            unique |= {} if later else {"on_conflict": "replace"}
            assert engine.enqueue({"n": 2}, unique=unique, **later, **second) == job_id
            job = engine.job(job_id)
            assert job["payload"] == {"n": 2}
            if job[option] == value:
                (kept if first else brought).add(option)

    assert kept == others
    assert brought == others - AS_MADE


def test_retries_replays_and_schedules_keep_each_option(engine: Engine) -> None:
    """A retry, a replay and the jobs of a schedule keep the options that concern no single job."""
    engine.declare("q", "q" * 100)
    options = {option: good[-1] for option, (good, _) in TABLE.items() if good}
    columns = options.keys() - NOT_COLUMNS
    values: Json = {}
    accepted, retried, replayed = set[str](), set[str](), set[str]()
    for option, given in options.items():
        with contextlib.suppress(psycopg.Error):
            engine.put_schedule(name=option, payload={"of": option}, options={option: given})
            accepted.add(option)
        if option in columns:
            job_id = engine.enqueue(**{option: given})
            values[option] = engine.job(job_id)[option]
            engine.cancel(job_id)
            if engine.rpc("replay_job", p_job_id=job_id)["job"][option] == values[option]:
                replayed.add(option)
            if engine.retry(job_id)[option] == values[option]:
                retried.add(option)
    engine.elapse(60)
    jobs = engine.rows("select to_jsonb(j) from jobs as j where payload ? 'of'")

    of_schedules = {job["payload"]["of"]: job for job in jobs}
    assert of_schedules.keys() == accepted
    for option in accepted & columns:
        assert of_schedules[option][option] == values[option]
    assert accepted == options.keys() - OF_ONE_JOB - {"schema_version"}
    assert retried == columns - OF_ONE_START
    assert replayed == columns - OF_ONE_JOB


async def test_all_agree_on_pairs(ways: Ways) -> None:
    """Every way to enqueue accepts, or rejects, a given combination of options."""
    for options, good in PAIRS:
        found = await answers(ways, options)

        assert {each is True for each in found.values()} == {good}, (options, found)


def test_a_member_cancels_by_update_and_changes_nothing_else(engine: Engine, ada: Engine) -> None:
    job_id = engine.enqueue()
    for column in engine.job(job_id).keys() - {"status"}:
        assert refused(ada.run, f"update jobs set {column} = null")[0] == "42501"
    assert refused(ada.run, "update jobs set status = 'completed'")[0] == "PT409"
    assert refused(ada.run, "delete from jobs")[0] == "42501"
    assert engine.lease_one()["job"]["id"] == job_id


@pytest.mark.parametrize("role", ["postgres", "service_role"])
def test_plain_statements_of_the_owner_keep_the_queue_whole(engine: Engine, role: str) -> None:
    """The table's owner may cancel or delete a job with plain SQL.

    Other changes of the job's state, which would corrupt the queue, are rejected.
    """
    first, second = (engine.enqueue(unique={"key": key}) for key in ("a", "b"))
    with engine.another_session() as owner:
        owner.run(f"set role {role}")
        owner.run("update jobs set status = 'cancelled' where id = %s", first)
        changes = ["status = 'completed'", "status = 'processing'"]
        if role == "postgres":
            changes += ["scheduled_for = now()", "priority = 1"]
            changes += ["status = 'completed', updated_at = now()", "start_by_at = now()"]
            assert refused(owner.run, "truncate jobs")[0] == "PT409"
        else:  # rows with a lane skip the checks, so only the engine may set it
            insert = "insert into jobs (workspace_id, job_type, lane) values (%s, 'work', 1)"
            assert refused(owner.run, insert, ACME)[0] == "42501"
        for change in changes:
            statement = f"update jobs set {change} where id = %s"
            assert refused(owner.run, statement, second)[:2] == ("PT409", "invalid_state")
        owner.delete(second)
    assert engine.events(first) == ["job.created", "job.cancelled"]
    assert engine.enqueue(unique={"key": "a"}) != first
    assert len(engine.lease()) == 1


@pytest.mark.parametrize("value", ["1e400", "-1e309", "1e131000", "[" * 200 + "]" * 200])
def test_a_value_that_no_client_can_read_is_refused_by_every_way(
    engine: Engine, value: str
) -> None:
    """An enqueue with a number beyond the range of a double, or with 200 levels, is rejected.

    Postgres stores such a number in few bytes, but its text can have a hundred thousand digits.
    """
    payload = f'{{"n": {value}}}'
    job = f'{{"job_type": "work", "payload": {payload}}}'
    for statement in (
        f"select enqueue_job('{ACME}', 'work', '{payload}')",
        f"select enqueue_jobs('{ACME}', '[{job}]')",
        "insert into jobs (workspace_id, job_type, payload)"
        f" values ('{ACME}', 'work', '{payload}')",
        f"select emit_event('{ACME}', 'e', '{payload}')",
    ):
        assert refused(engine.run, statement)[0] == "PT422"
