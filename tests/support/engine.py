"""Calls of the queue's SQL functions as a worker, a member or plain SQL."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tests.support.databases import Database
from tests.support.patience import until

#: A JSON object, such as a job, a lease or a response.
Json = dict[str, Any]

ACME = "11111111-1111-4111-8111-111111111111"
GLOBEX = "22222222-2222-4222-8222-222222222222"
ADA = "aaaaaaaa-0000-4000-8000-000000000001"
BOB = "aaaaaaaa-0000-4000-8000-000000000002"
EVE = "aaaaaaaa-0000-4000-8000-000000000003"
#: An id that no row has.
MISSING = "00000000-0000-4000-8000-00000000dead"
#: The id of a worker run.
TICK = "00000000-0000-4000-8000-000000000001"
ERROR = {"type": "E", "message": "no"}
SEALED = "mh1.a2V5.d3JhcHBlZA==.Ym9keQ=="

CLOCK = """
create or replace function queue.clock() returns timestamptz
language sql volatile parallel safe set search_path = ''
as $$ select clock_timestamp() + interval '{seconds} seconds' $$
"""
STOPPED_CLOCK = CLOCK.replace("clock_timestamp()", "timestamptz '{instant}'")


class Engine:
    def __init__(self, database: Database, connection: psycopg.Connection[Any]) -> None:
        self.database = database
        self.connection = connection
        self.ahead = 0.0
        self.stopped_at: datetime | None = None

    def run(self, statement: str, *values: Any) -> None:
        self.connection.execute(statement, values or None)

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """Return all rows. A row with one column is returned as its value."""
        found = self.connection.execute(statement, values or None).fetchall()
        return [row[0] if len(row) == 1 else row for row in found]

    def one(self, statement: str, *values: Any) -> Any:
        [row] = self.rows(statement, *values)
        return row

    def blocks(self, statement: str, *values: Any) -> int:
        """Run an SQL statement, and return how many blocks of tables and indexes it read."""
        [found] = self.one(f"explain (analyze, buffers, format json) {statement}", *values)
        return int(found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"])

    def rpc(self, function: str, **arguments: Any) -> Any:
        """Call a public SQL function with named arguments. Dicts and lists are sent as jsonb."""
        places = ", ".join(f"{name} => %({name})s" for name in arguments)
        values = {
            name: Jsonb(value) if isinstance(value, dict | list) else value
            for name, value in arguments.items()
        }
        [row] = self.connection.execute(f"select {function}({places})", values)
        return row[0]

    def register(self, job_type: str = "work", **policy: Any) -> None:
        self.rpc("register_job_types", p_types=[{"job_type": job_type, **policy}])

    def set(self, **settings: Any) -> None:
        self.rpc("set_settings", p_settings=settings)

    def allow_guests(self, per_minute: int | None = None) -> None:
        """Allow guests. Guests' calls are limited by address only if a limit is given."""
        self.set(allow_anonymous=True)
        limits = "update queue.settings set value = %s where name ~ '_guest_.*_per_minute'"
        self.run(limits, Jsonb(per_minute))

    def limit(self, workspace: str = ACME, **limits: Any) -> None:
        self.rpc("set_workspace_limits", p_workspace_id=workspace, p_limits=limits)

    def pause(self, kind: str, name: str = ACME, **more: Any) -> Json:
        return self.rpc("pause_jobs", p_request={"kind": kind, "name": name, **more})

    def resume(self, kind: str, name: str = ACME, **more: Any) -> Json:
        return self.pause(kind, name, paused=False, **more)

    def put_schedule(self, workspace: str = ACME, **schedule: Any) -> Json:
        """Store a schedule that is due every minute, unless the arguments change it."""
        wanted = {"name": "s", "cron": "* * * * *", "job_type": "work", **schedule}
        return self.rpc("put_schedule", p_workspace_id=workspace, p_schedule=wanted)

    def put_webhook(self, workspace: str = ACME, **webhook: Any) -> Json:
        hook = {"url": "https://example.com/hooks", "sealed_secret": SEALED, **webhook}
        return self.rpc("put_webhook", p_workspace_id=workspace, p_webhook=hook)

    def add_workspaces(self, count: int) -> list[str]:
        made = "insert into workspaces (name) select 'T' from generate_series(1, %s)"
        return self.rows(f"{made} returning id::text", count)

    def add_trigger(self, event: str, body: str, condition: str = "true") -> None:
        """Create a project's trigger on the table jobs, with a condition on the row."""
        self.run(
            "create function public.own() returns trigger language plpgsql"
            f" as $$ begin {body} end $$;"
            f" create trigger z_own {event} on jobs for each row when ({condition})"
            " execute function public.own()"
        )

    def publish_deliveries(self) -> None:
        """Register the job type of webhook deliveries, as a worker does."""
        wait = {"first_seconds": 10}
        policy = {"key_concurrency": 1, "events": "minimal", "internal": True, "backoff": wait}
        self.register("webhook_delivery", **policy)

    def declare(self, *queues: str) -> None:
        """Create queues by registering a job type in each."""
        for queue in queues:
            self.register(f"type-of-{queue}"[:100], queue=queue)

    def enqueue(
        self,
        payload: Json | None = None,
        *,
        workspace: str = ACME,
        job_type: str = "work",
        **options: Any,
    ) -> str:
        answer = self.rpc(
            "enqueue_job",
            p_workspace_id=workspace,
            p_job_type=job_type,
            p_payload=payload or {},
            p_options=options,
        )
        return answer["job"]["id"]

    def enqueue_many(
        self, count: int, *, workspace: str = ACME, job_type: str = "work", **options: Any
    ) -> list[str]:
        item = {"job_type": job_type, "payload": {}, **options}
        ids: list[str] = []
        while items := [item] * min(1000, count - len(ids)):
            ids += self.enqueue_all(items, workspace)
        return ids

    def enqueue_all(self, items: list[Json], workspace: str = ACME) -> list[str]:
        """Enqueue several jobs in one call."""
        answer = self.rpc("enqueue_jobs", p_workspace_id=workspace, p_jobs=items, p_return="ids")
        return answer["ids"]

    def start(self, payload: Json | None = None, **options: Any) -> tuple[str, Json]:
        """Enqueue a job and lease it. Return the job's id and the lease."""
        return self.enqueue(payload, **options), self.lease_one()

    def now(self, seconds: float = 0) -> datetime:
        """Return the time that the database's clock shows, or will show after some seconds."""
        now: datetime = self.one("select queue.clock()")
        return now + timedelta(seconds=seconds)

    def revoke_keys(self, **grace: int | None) -> Json:
        """Revoke the worker keys that were issued until now."""
        return self.rpc("revoke_worker_keys", p_before=self.now(), **grace)

    def cancel(self, job_id: str) -> Json:
        return self.rpc("cancel_job", p_job_id=job_id)

    def retry(self, job_id: str) -> Json:
        return self.rpc("retry_job", p_job_id=job_id)

    def delete(self, job_id: str) -> None:
        self.run("delete from jobs where id = %s", job_id)

    def explain(self, job_id: str) -> Json:
        return self.rpc("explain_job", p_job_id=job_id)

    def sentence(self, job_id: str) -> str:
        return str(self.explain(job_id)["sentence"])

    def get(self, job_id: str) -> Json:
        return self.rpc("get_job", p_job_id=job_id)

    def finish(self, **run: Any) -> Json:
        """Report the end of a worker's run or process."""
        return self.rpc("tick_finished", p_request=run)

    def findings(self, workspace: str | None = None) -> dict[str, Json]:
        """Return the findings of `explain_queue` by reason."""
        return {each["reason"]: each for each in self.overview(workspace)["findings"]}

    def overview(self, workspace: str | None = None) -> Json:
        return self.rpc("explain_queue", p_workspace_id=workspace)

    def undone(self) -> AbstractContextManager[Any]:
        """Return a transaction that is rolled back at its end."""
        return self.connection.transaction(force_rollback=True)

    def follow(self, *topics: str) -> None:
        for topic in topics:
            self.rpc("follow_topic", p_topic=topic, p_follower_id=uuid.uuid4())

    def count(self, rows: str, *values: Any) -> int:
        """Count the rows of a table, which a condition may follow."""
        return self.one(f"select count(*) from {rows}", *values)

    def job(self, job_id: str) -> Json:
        return self.one("select to_jsonb(j) from jobs j where id = %s", job_id)

    def status(self, job_id: str) -> str:
        return self.one("select status from jobs where id = %s", job_id)

    def events(self, job_id: str) -> list[str]:
        return self.rows("select type from job_events where job_id = %s order by seq", job_id)

    def lease_call(self, limit: int = 10, *, worker: str = "w1", **request: Any) -> Json:
        request = {"tick_id": str(uuid.uuid4()), "call": 1, **request}
        if request["call"] == 1:
            self.maintain()
        request |= {"worker_id": worker, "limit": limit}
        return self.rpc("lease_jobs", p_request=request)

    def maintain(self) -> dict[str, int]:
        """Run all due maintenance, and return the counts by task."""
        counts: Counter[str] = Counter()
        for _ in range(1000):
            answer = self.rpc("run_maintenance", p_request={"budget_ms": 5000})
            counts.update(answer["done"])
            if not (answer["more"] and answer["done"]):  # locked rows are skipped
                return dict(counts)
        raise AssertionError(f"maintenance repeats {answer['done']} without an end")

    def lease(self, limit: int = 10, **request: Any) -> list[Json]:
        return self.lease_call(limit, **request)["leases"]

    def lease_one(self, **request: Any) -> Json:
        [lease] = self.lease(**request)
        return lease

    def report(self, lease: Json, **news: Any) -> str:
        [result] = self.report_all([{**handle(lease), **news}])
        return result["outcome"]

    def say(self, lease: Json, *pieces: Json) -> str:
        """Report pieces of output, and return how they were stored."""
        [result] = self.report_all([{**handle(lease), "output": list(pieces)}])
        return result["output"]

    def report_all(self, items: Sequence[Json]) -> list[Json]:
        return self._send("report_jobs", items)

    def settle(self, lease: Json, outcome: str = "completed", **item: Any) -> Json:
        [result] = self.settle_all([{**handle(lease), "outcome": outcome, **item}])
        return result

    def settle_all(self, items: Sequence[Json]) -> list[Json]:
        return self._send("settle_jobs", items)

    def suspend(self, lease: Json, name: str = "w", **wait: Any) -> None:
        """Let a job wait; its claim ends."""
        self.settle(lease, "waiting", wait={"name": name, **wait})

    def complete(self, leases: Iterable[Json], **item: Any) -> None:
        self.settle_all([{**handle(lease), "outcome": "completed", **item} for lease in leases])

    def complete_and_lease(self, leases: Iterable[Json]) -> list[Json]:
        """Complete jobs, and lease the next jobs in the same call."""
        items = [{**handle(lease), "outcome": "completed"} for lease in leases]
        lease = {"worker_id": "w1", "tick_id": str(uuid.uuid4()), "call": 1, "limit": 10}
        response = self.rpc("settle_jobs", p_request={"items": items, "lease": lease})
        return response["lease"]["leases"]

    def _send(self, function: str, items: Sequence[Json]) -> list[Json]:
        request = {"worker_id": "w1", "tick_id": str(uuid.uuid4()), "items": items}
        return self.rpc(function, p_request=request)["results"]

    def spawn(self, lease: Json, name: str, children: list[Json]) -> list[str]:
        request = {**handle(lease), "name": name, "children": children}
        return self.rpc("spawn_jobs", p_request=request)["job_ids"]

    def run_all(self) -> None:
        while leases := self.lease(1000):
            self.complete(leases)

    def advance(self, seconds: float) -> None:
        self.ahead += seconds
        clock = CLOCK if self.stopped_at is None else STOPPED_CLOCK
        self.run(clock.format(seconds=self.ahead, instant=self.stopped_at))

    def elapse(self, seconds: float) -> None:
        """Advance the clock, and run the maintenance that is then due."""
        self.advance(seconds)
        self.maintain()

    def stop_clock(self) -> None:
        """Stop the clock, so that only `advance` moves it.

        The duration of statements then does not refill a rate limit.
        """
        self.stopped_at, self.ahead = self.now(), 0.0
        self.advance(0)

    @contextmanager
    def another_session(self) -> Iterator[Engine]:
        with self.database.connect() as connection:
            yield Engine(self.database, connection)

    @contextmanager
    def open_transaction(self, statement: str = "", *values: Any) -> Iterator[Engine]:
        """Yield a session in a transaction, which is committed at the end.

        Args:
            statement: First statement of the transaction.
            values: Values of the statement's parameters.
        """
        with self.another_session() as other:
            other.run("begin")
            other.run(statement, *values)
            yield other
            other.run("commit")

    @contextmanager
    def as_role(self, role: str, **claims: Any) -> Iterator[Engine]:
        """Yield a session with a database role and a token's claims, as the Data API opens it."""
        with self.database.as_role(role, claims) as connection:
            yield Engine(self.database, connection)

    def member(self, user_id: str) -> AbstractContextManager[Engine]:
        """Return a signed-in person's session."""
        return self.as_role("authenticated", sub=user_id)

    def race(self, *actions: Callable[[Engine], Any]) -> list[Any]:
        """Run each call in its own session and thread. Return their results or database errors."""
        gate = threading.Barrier(len(actions))

        def act(action: Callable[[Engine], Any]) -> Any:
            with self.another_session() as engine:
                gate.wait()
                try:
                    return action(engine)
                except psycopg.Error as error:
                    return error

        with ThreadPoolExecutor(len(actions)) as threads:
            return list(threads.map(act, actions))

    def blocked(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """Start a call in a thread. Return when the call's session waits for a lock."""
        result = ThreadPoolExecutor(1).submit(call, *args, **options)
        waiting = (
            "select from pg_stat_activity where datname = current_database()"
            " and (wait_event_type = 'Lock' or wait_event = 'PgSleep')"
        )
        with self.database.connect() as connection:
            until(lambda: connection.execute(waiting).rowcount, every=0.02)
        return result


def piece(text: str, start: int = 0, *, attempt: int = 1, **more: Any) -> Json:
    """Return a piece of a job's output stream. The default stream is `reply`."""
    return {"stream": "reply", "attempt": attempt, "start": start, "text": text, **more}


def handle(lease: Json) -> Json:
    return {"job_id": lease["job"]["id"], "fence": lease["fence"]}


def ids_of(leases: Iterable[Json]) -> list[str]:
    return [lease["job"]["id"] for lease in leases]


def remedy(shown: Json) -> str:
    """Return the words of the first step that an explanation or a finding advises."""
    return shown["next"][0]["words"]


def remedy_command(shown: Json) -> str:
    """Return the command of the first step that an explanation or a finding advises."""
    return shown["next"][0]["command"]


def refusal(error: psycopg.Error) -> tuple[str | None, str | None, str | None]:
    return error.sqlstate, error.diag.message_hint, error.diag.message_detail
