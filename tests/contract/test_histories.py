"""Random histories of the queue: three sessions, open transactions, repeated and stale calls.

The test itself remembers facts that a single snapshot cannot show: two leases of a job, repeated
responses, lost jobs. After each step the engine's tables must be consistent, and no task of
maintenance may fail.
"""

import os
import random
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, seed, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.contract.observed import breaches, later
from tests.sql.conftest import INVARIANTS
from tests.support.databases import Database
from tests.support.engine import ACME, CLOCK, ERROR, GLOBEX, Engine, Json, handle

LEASE_SECONDS = 100
TYPES: dict[str, Json] = {
    "plain": {},
    "keyed": {"key_concurrency": 1, "workspace_concurrency": 3},
    "few": {"max_concurrency": 2},
    "rated": {"rate_limit": {"limit": 3, "per_seconds": 300}},
    "quiet": {"events": "minimal", "max_attempts": 1},
}
RUNNING = "from jobs where status = 'processing' and job_type"
CAPS = {
    "a suspect in company": "select 1 from queue.leases as l"
    " join queue.suspects as s using (job_id) join queue.leases as o on o.worker = l.worker"
    " left join queue.suspects as t on t.job_id = o.job_id"
    " where t.company is distinct from s.company",
    "started late": "select 1 from jobs where started_at >= start_by_at",
    "started, and cancelled for not starting": "select 1 from jobs where started_at"
    " is not null and start_by_at is not null and error_data ->> 'type' = 'StartByPassed'",
    "few": f"select 1 {RUNNING} = 'few' having count(*) > 2",
    "keyed here": f"select 1 {RUNNING} = 'keyed' group by workspace_id having count(*) > 3",
    "keyed": f"select 1 {RUNNING} = 'keyed' and concurrency_key is not null"
    " group by workspace_id, concurrency_key having count(*) > 1",
}
#: Raise lock timeouts of seconds, because the machine may be slow. Timeouts of milliseconds stay.
PATIENT = """
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid from pg_catalog.pg_proc as p, unnest(p.proconfig) as c
    where c ~ '^lock_timeout=\\d+s$'
  loop
    execute format('alter function %s set lock_timeout = ''60s''', v_function);
  end loop;
end $$
"""
OUTCOMES = ["completed", "retry", "failed", "snoozed", "released", "waiting", "cancelled"]
WAITS = ("sleep", "ask", "event", "children")
SESSIONS = st.integers(0, 2)
#: The database session of a call, and whether its transaction stays open after the call.
At = tuple[int, bool]
PLACES = st.tuples(SESSIONS, st.sampled_from([False, False, True]))
OPTIONS = st.builds(
    lambda **given: {name: value for name, value in given.items() if value},
    concurrency_key=st.sampled_from([None, "a", "b"]),
    priority=st.sampled_from([5, 100]),
    delay_seconds=st.sampled_from([None, None, 150]),
    start_by_seconds=st.sampled_from([None, None, 100]),
)
FRACTIONS = st.floats(0, 1, exclude_max=True)
Note = Callable[[Any], None]
IGNORED: Note = lambda _: None  # noqa: E731
if_enqueued = precondition(lambda self: self.jobs)
if_leased = precondition(lambda self: self.held)


class QueueMachine(RuleBasedStateMachine):
    """Calls that clients and workers may make, in any order, repeated, and too late."""

    engines: list[Engine]
    #: The clock continues over all histories, so rows that one history leaves are old in the next.
    ahead = 0.0

    @initialize(seed=st.integers(0, 2**32))
    def open(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.sessions, self.watcher = self.engines, self.engines[3]
        self.now = QueueMachine.ahead = QueueMachine.ahead + 10_000
        run = self.watcher.run
        run(CLOCK.format(seconds=self.now))
        run("delete from jobs")
        # makes names and keys differ from those of earlier histories
        self.run_id = uuid.uuid4().hex[:8]
        made = "insert into workspaces (id, name) values (%s, 'A'), (%s, 'G')"
        run(f"{made} on conflict do nothing", ACME, GLOBEX)
        types = [
            {"job_type": name, "lease_seconds": LEASE_SECONDS, **policy}
            for name, policy in TYPES.items()
        ]
        self.watcher.rpc("register_job_types", p_types=types)
        self.began = time.monotonic()
        self.open_since: dict[int, Callable[[], None]] = {}
        self.jobs: dict[str, str] = {}
        self.spawned: set[str] = set()
        self.held: dict[tuple[str, int], Json] = {}
        self.fences: dict[str, int] = {}
        self.answers: dict[tuple[str, int], Json] = {}
        self.calls: list[tuple[Json, set[tuple[str, int]]]] = []
        self.workers = [f"w{index} of {self.run_id}" for index in range(3)]
        self.keys: dict[str, tuple[str, int]] = {}
        self.not_before: dict[str, float] = {}
        self.results: Json = {}
        self.reported: dict[str, int] = {}
        self.cursor = self.watcher.rpc("event_feed", p_workspace_id=ACME)["cursor"]
        for job_type in ("plain", "keyed", "keyed", "few", "rated", "quiet"):
            self.enqueue((0, False), ACME, job_type, 3, {"concurrency_key": "a"})
        self.lease((0, False), 100, None)

    def instant(self) -> float:
        """Return the seconds of the database's clock, which advances with this machine's clock."""
        return self.now + time.monotonic() - self.began

    def move(self, seconds: float) -> None:
        self.now += seconds
        self.watcher.run(CLOCK.format(seconds=self.now))

    def teardown(self) -> None:
        if not hasattr(self, "sessions"):
            return
        try:
            for index in list(self.open_since):
                self.end(index, commit=True)
            self.run_dry()
        finally:
            QueueMachine.ahead = self.now
            for session in self.sessions:
                session.connection.rollback()

    # --- sessions that may wait for each other ---

    def call(self, at: At, action: Callable[[Engine], Any], note: Note) -> None:
        """Run `action` in a session. If it waits for an open transaction, end that transaction.

        Args:
            at: The session, and whether to leave its transaction open. If the transaction is left
                open, `note` is called when it commits.
        """
        index, hold = at
        if index in self.open_since:
            self.end(index, commit=True)
        session = self.sessions[index]
        if hold:
            session.run("begin")
        answer = self.wait(session, index, lambda: action(session))
        if isinstance(answer, psycopg.Error):
            if hold:
                session.run("rollback")
                hold = False
            if not (answer.sqlstate or "").startswith("PT"):
                raise answer
        if hold:
            self.open_since[index] = lambda: note(answer)
        else:
            note(answer)

    def rpc(self, at: At, note: Note, function: str, **arguments: Any) -> None:
        self.call(at, lambda session: session.rpc(function, **arguments), note)

    def wait(self, session: Engine, index: int, work: Callable[[], Any]) -> Any:
        """Do `work` in a thread. While it waits for an open transaction, end such a transaction."""

        def attempt() -> Any:
            try:
                return work()
            except psycopg.Error as error:
                return error

        if not set(self.open_since) - {index}:
            return attempt()
        blocking = (
            "select count(*) from pg_stat_activity"
            " where pid = %s and (wait_event_type = 'Lock' or wait_event = 'PgSleep')"
        )
        with ThreadPoolExecutor(1) as threads:
            future = threads.submit(attempt)
            while wait([future], timeout=0.004).not_done:
                other = next(iter(set(self.open_since) - {index}), None)
                pid = session.connection.info.backend_pid
                if other is not None and self.watcher.one(blocking, pid):
                    self.end(other, commit=self.random.random() < 0.8)
        return future.result()

    def end(self, index: int, *, commit: bool) -> None:
        """Commit or roll back a session's open transaction."""
        note = self.open_since.pop(index)
        self.sessions[index].run("commit" if commit else "rollback")
        if commit:
            note()

    @rule(index=SESSIONS, commit=st.booleans())
    def finish_transaction(self, index: int, commit: bool) -> None:
        if index in self.open_since:
            self.end(index, commit=commit)

    # --- clients ---

    @rule(
        at=PLACES,
        workspace=st.sampled_from([ACME, GLOBEX]),
        job_type=st.sampled_from(sorted(TYPES)),
        count=st.integers(1, 4),
        options=OPTIONS,
    )
    def enqueue(self, at: At, workspace: str, job_type: str, count: int, options: Json) -> None:
        note = lambda answer: self.made(answer, workspace)  # noqa: E731
        of = {"p_workspace_id": workspace}
        if count == 1:
            one = {**of, "p_job_type": job_type, "p_options": options}
            self.rpc(at, note, "enqueue_job", **one)
            return
        jobs = [{"job_type": job_type, **options}] * count
        self.rpc(at, note, "enqueue_jobs", **of, p_jobs=jobs, p_return="ids")

    def made(self, answer: Any, workspace: str = ACME) -> None:
        ids = answer["ids"] if "ids" in answer else [answer["job"]["id"]]
        self.jobs.update(dict.fromkeys(ids, workspace))

    def enqueue_plain(self, at: At, note: Note, **job: Any) -> None:
        of = {"p_workspace_id": ACME, "p_job_type": "plain"}
        self.rpc(at, note, "enqueue_job", **of, **job)

    @rule(at=PLACES, key=st.sampled_from("xy"), payload=st.sampled_from([1, 1, 2]))
    def enqueue_with_key_twice(self, at: At, key: str, payload: int) -> None:
        """A client repeats its call or reuses a key.

        The first transaction may still be open.
        """

        def note(sent: int, answer: Any) -> None:
            known = self.keys.get(key)
            if isinstance(answer, psycopg.Error):
                assert answer.diag.message_hint == "idempotency_conflict"
                assert known is None or known[1] != sent, "a repeat was refused"
                return
            job_id = answer["job"]["id"]
            if known is not None:
                assert known == (job_id, sent), "a key stood for two jobs or two payloads"
                assert not answer["created"]
            self.keys[key] = (job_id, sent)
            self.made(answer)

        options = {"idempotency_key": f"{key} of {self.run_id}"}
        for place, sent in ((at, 1), (((at[0] + 1) % 3, False), payload)):
            self.enqueue_plain(place, partial(note, sent), p_payload={"v": sent}, p_options=options)

    @rule(
        at=PLACES,
        conflict=st.sampled_from(["skip", "replace"]),
        until=st.sampled_from(["leased", "finished"]),
    )
    def enqueue_unique(self, at: At, conflict: str, until: str) -> None:
        unique = {"key": f"u of {self.run_id}", "on_conflict": conflict, "until": until}
        self.enqueue_plain(at, self.made, p_options={"unique": unique})

    def some_job(self, pick: float) -> str:
        return list(self.jobs)[int(pick * len(self.jobs))]

    @if_enqueued
    @rule(at=PLACES, pick=FRACTIONS, answer=st.booleans())
    def cancel_or_answer(self, at: At, pick: float, answer: bool) -> None:
        function = "answer_job" if answer else "cancel_job"
        more = {"p_answer": {"answer": 1}} if answer else {}
        self.rpc(at, IGNORED, function, p_job_id=self.some_job(pick), **more)

    @if_enqueued
    @rule(at=PLACES, pick=FRACTIONS)
    def retry(self, at: At, pick: float) -> None:
        job_id = self.some_job(pick)

        def note(_: Any) -> None:
            self.not_before.pop(job_id, None)
            self.results.pop(job_id, None)

        self.rpc(at, note, "retry_job", p_job_id=job_id)

    @if_enqueued
    @rule(pick=FRACTIONS)
    def delete(self, pick: float) -> None:
        job_id = self.some_job(pick)

        def note(_: Any) -> None:
            self.jobs.pop(job_id, None)
            self.keys = {key: known for key, known in self.keys.items() if known[0] != job_id}

        statement = "delete from jobs where id = %s"
        self.call((0, False), lambda session: session.run(statement, job_id), note)

    @rule(limit=st.integers(1, 3), pages=st.integers(1, 4))
    def follow(self, limit: int, pages: int) -> None:
        """Read the workspace's feed page by page."""
        for _ in range(pages):
            of = {"p_workspace_id": ACME, "p_cursor": self.cursor, "p_limit": limit}
            page = self.watcher.rpc("event_feed", **of)
            self.cursor = page["cursor"]
            for event in page["events"]:
                assert event["seq"] > self.reported.get(event["job_id"], 0), (
                    "reported twice, or backwards"
                )
                self.reported[event["job_id"]] = event["seq"]

    @rule(at=PLACES, name=st.sampled_from("pq"))
    def emit(self, at: At, name: str) -> None:
        of = {"p_workspace_id": ACME, "p_name": name + self.run_id}
        self.rpc(at, IGNORED, "emit_event", **of)

    # --- workers ---

    @rule(at=PLACES, limit=st.integers(1, 6), types=st.sampled_from([None, ["few", "rated"]]))
    def lease(self, at: At, limit: int, types: list[str] | None) -> None:
        worker = self.workers[at[0]]
        tick = {"worker_id": worker, "tick_id": str(uuid.uuid4()), "call": 1 + limit % 2}
        request = {**tick, "limit": limit, "job_types": types}

        def act(session: Engine) -> Any:
            session.maintain()
            return session.rpc("lease_jobs", p_request=request)

        self.call(at, act, lambda answer: self.leased(request, answer))

    def leased(self, request: Json, answer: Any) -> None:
        given = set()
        for lease in answer["leases"]:
            job_id, fence = lease["job"]["id"], lease["fence"]
            given.add((job_id, fence))
            assert (job_id, fence) not in self.held, "a lease was given twice"
            assert fence > self.fences.get(job_id, 0), "the fence did not rise"
            assert self.not_before.get(job_id, -1) <= self.instant() + 30, "leased before its time"
            self.fences[job_id] = fence
            at = self.instant()
            worker = request["worker_id"]
            entry = {"lease": lease, "renewed": at, "state": "held", "worker": worker}
            self.held[job_id, fence] = entry
        assert len(given) <= request["limit"]
        self.calls.append((request, given))

    @precondition(lambda self: self.calls)
    @rule(index=SESSIONS, pick=FRACTIONS)
    def lease_again(self, index: int, pick: float) -> None:
        request, given = self.calls[int(pick * len(self.calls))]

        def note(answer: Any) -> None:
            again = {(lease["job"]["id"], lease["fence"]) for lease in answer["leases"]}
            assert again <= given, "a repeated call got new leases"

        self.rpc((index, False), note, "lease_jobs", p_request=request)

    @if_leased
    @rule(index=SESSIONS, is_reported=st.booleans())
    def kill(self, index: int, is_reported: bool) -> None:
        """End a worker's process with its jobs.

        The worker's host reports the end, or has also ended.
        """
        if index in self.open_since:  # the lease is committed before the process ends
            self.end(index, commit=True)
        worker, self.workers[index] = self.workers[index], f"{self.workers[index]}+"
        for entry in self.held.values():
            if entry["worker"] == worker and entry["state"] == "held":
                entry["state"] = "dead"
        if is_reported:
            request = {"worker_id": worker, "evidence": {"signal": "SIGKILL"}}
            self.rpc((index, False), IGNORED, "tick_finished", p_request=request)

    def some_lease(self, pick: float) -> Json:
        known = list(self.held.values())
        return known[-1 - int(pick * min(len(known), 20))]

    def must_hold(self, entry: Json) -> bool:
        """Return whether this lease must still be valid, whatever calls were made."""
        job_id = entry["lease"]["job"]["id"]
        return (
            entry["state"] == "held"
            and job_id in self.jobs
            and self.instant() - entry["renewed"] < LEASE_SECONDS - 30
            and self.fences[job_id] == entry["lease"]["fence"]
        )

    @if_leased
    @rule(at=PLACES, picks=st.lists(FRACTIONS, min_size=1, max_size=4), news=st.booleans())
    def report(self, at: At, picks: list[float], news: bool) -> None:
        """Report some live and lost leases in one call."""
        entries = list({id(one): one for one in map(self.some_lease, picks)}.values())
        reported: Json = {"progress": {"percentage": 7}}
        reported["logs"] = [{"level": "info", "message": "x"}]
        reported["steps"] = [{"name": "s", "result": 1}]
        items = [{**handle(entry["lease"]), **(reported if news else {})} for entry in entries]
        sent, sure = self.instant(), [self.must_hold(entry) for entry in entries]
        stale = [
            self.fences.get(item["job_id"], 0) > item["fence"] or entry["state"] == "settled"
            for item, entry in zip(items, entries, strict=True)
        ]

        def note(answer: Any) -> None:
            outcomes = {(one["job_id"], one["fence"]): one for one in answer["results"]}
            for entry, item, certain, old in zip(entries, items, sure, stale, strict=True):
                result = outcomes[item["job_id"], item["fence"]]
                lost = result["outcome"] == "lost"
                assert lost or not old, "a stale report was taken"
                alive = entry["state"] == "held" and item["job_id"] in self.jobs
                assert not (lost and certain and alive), "a live lease was lost"
                # a lease that was reclaimed at that moment is reported unchanged, not renewed
                left = "select %s::timestamptz > queue.clock() + make_interval(secs => %s)"
                until = result.get("lease_expires_at")
                if not lost and self.watcher.one(left, until, LEASE_SECONDS - 30):
                    entry["renewed"] = max(entry["renewed"], sent)

        self.rpc(at, note, "report_jobs", p_request={"items": items})

    @if_leased
    @rule(at=PLACES, pick=FRACTIONS, outcome=st.sampled_from(OUTCOMES), wait=st.sampled_from(WAITS))
    def settle(self, at: At, pick: float, outcome: str, wait: str) -> None:
        entry = self.some_lease(pick)
        if outcome == "waiting" and wait == "children":
            self.spawn((at[0], False), pick)
        self.settle_entry(at, entry, outcome, wait)

    def item_of(self, entry: Json, outcome: str, wait: str) -> Json:
        waits: dict[str, Json] = {
            "sleep": {"until": later(self.watcher, 150)},
            "ask": {"question": "?", "timeout_at": later(self.watcher, 400)},
            "event": {"event": "p" + self.run_id},
            "children": {"job_ids": entry.get("children", [])},
        }
        known: dict[str, Json] = {
            "completed": {"result": self.random.randrange(1000)},
            "retry": {"error": ERROR},
            "failed": {"error": ERROR},
            "snoozed": {"delay_seconds": 150},
            "waiting": {"wait": {"kind": wait, "name": "w", **waits[wait]}},
        }
        return {**handle(entry["lease"]), "outcome": outcome, **known.get(outcome, {})}

    def settle_entry(self, at: At, entry: Json, outcome: str, wait: str = "sleep") -> None:
        job_id, fence = handle(entry["lease"]).values()
        item = self.item_of(entry, outcome, wait)
        stale, sure = self.fences.get(job_id, 0) > fence, self.must_hold(entry)

        def note(answer: Any) -> None:
            [result] = answer["results"]
            response = result["outcome"]
            first = self.answers.get((job_id, fence))
            if first is not None and first["outcome"] == outcome and job_id in self.jobs:
                assert response == first["said"], "a repeated settle was answered differently"
            elif first is not None or stale:
                again = first is not None and first["status"] == "failed"
                assert response != "applied" or again, "a stale settle was applied"
            elif response in ("applied", "cancelled"):
                entry["state"] = "settled"
                kept = {"outcome": outcome, "said": response, "status": result["status"]}
                self.answers[job_id, fence] = kept
                self.settled(job_id, outcome, result["status"], item)
            else:
                assert not (sure and job_id in self.jobs), "a live lease was lost"

        self.rpc(at, note, "settle_jobs", p_request={"items": [item]})

    def settled(self, job_id: str, outcome: str, status: str, item: Json) -> None:
        """Record the time and the result that the end of an attempt must leave."""
        if outcome in ("snoozed", "retry") and status == "pending":
            wait = 150 if outcome == "snoozed" else 50
            self.not_before[job_id] = self.instant() + wait
        if status == "completed":
            self.results[job_id] = item["result"]

    @if_leased
    @rule(at=PLACES, pick=FRACTIONS)
    def spawn(self, at: At, pick: float) -> None:
        entry = self.some_lease(pick)
        job_id = entry["lease"]["job"]["id"]
        children = [{"job_type": "plain"}] * 2
        request = {**handle(entry["lease"]), "name": "s", "children": children}

        def note(answer: Any) -> None:
            if isinstance(answer, psycopg.Error):
                return
            if "children" in entry:  # some children may have been deleted since
                assert entry["children"] == answer["job_ids"], "a repeat made other children"
                return
            entry["children"] = answer["job_ids"]
            # another attempt of the job gets the same children, some of which may have been deleted
            new = [child for child in answer["job_ids"] if child not in self.spawned]
            self.spawned.update(new)
            self.jobs.update(dict.fromkeys(new, self.jobs.get(job_id, ACME)))

        if job_id in self.jobs:
            self.rpc(at, note, "spawn_jobs", p_request=request)

    @rule(
        limit=st.integers(3, 6),
        job_type=st.sampled_from(["few", "few", "keyed", "rated"]),
        seconds=st.sampled_from([0, 130]),
    )
    def race_leases(self, limit: int, job_type: str, seconds: int) -> None:
        """Two runs lease at the same moment, while more urgent work arrives."""
        self.time_passes(seconds)
        self.enqueue((1, False), ACME, job_type, 3, {"concurrency_key": "a"})
        self.lease((0, True), limit, [job_type])
        self.enqueue((1, False), ACME, job_type, 3, {"concurrency_key": "a", "priority": 5})
        self.lease((1, False), limit, None)

    @if_leased
    @rule()
    def event_comes_first(self) -> None:
        """The event that a job will wait for has already happened."""
        self.emit((1, False), "p")
        for entry in reversed(list(self.held.values())):
            if self.must_hold(entry) and entry["lease"]["job"]["workspace_id"] == ACME:
                self.settle_entry((2, False), entry, "waiting", "event")
                return

    @if_leased
    @rule(outcome=st.sampled_from(["completed", "retry"]))
    def end_what_is_held(self, outcome: str) -> None:
        """End leased jobs, also those without another attempt."""
        for entry in list(self.held.values()):
            if self.must_hold(entry):
                self.settle_entry((2, False), entry, outcome)

    @if_leased
    @rule()
    def work_long(self) -> None:
        """A job outlasts its lease several times, and renews it in time."""
        for _ in range(3):
            self.report((2, False), [0.0, 0.2, 0.4, 0.6], False)
            self.time_passes(60)
        self.lease((1, False), 1, None)

    @rule(seconds=st.sampled_from([5, 40, 60, 130, 400]))
    def time_passes(self, seconds: int) -> None:
        for index in list(self.open_since):
            self.end(index, commit=True)
        self.move(seconds)

    # --- what must hold ---

    @invariant()
    def nothing_is_broken(self) -> None:
        if hasattr(self, "sessions"):
            assert breaches(self.watcher.connection, **CAPS, **INVARIANTS) == {}
            failing = "select name, failure from queue.tasks where failures > 0"
            assert self.watcher.rows(failing) == []

    def run_dry(self) -> None:
        """No job is unreachable: after enough time and answers, each job ends."""
        one, rows = self.watcher.one, self.watcher.rows
        self.move(130)
        self.nothing_is_broken()
        lost = set(self.jobs) - {str(job_id) for job_id in rows("select id from jobs")}
        assert not lost, "a committed job is gone"
        for job_id, result in self.results.items():
            if job_id in self.jobs:
                kept = one("select result from jobs where id = %s", job_id)
                assert kept == result, "a result changed"
        for workspace in (ACME, GLOBEX):
            self.watcher.rpc("emit_event", p_workspace_id=workspace, p_name="p" + self.run_id)
        for _ in range(60 + len(self.jobs)):  # some types run two jobs at once, or three per minute
            if leases := self.watcher.lease(100):
                self.watcher.complete(leases)
            elif not one("select exists (select 1 from jobs where finished_at is null)"):
                break
            else:
                self.follow(1000, 3)  # a workspace's feed is kept for hours, not forever
                self.move(400)
        left = "select status, job_type, count(*) from jobs where finished_at is null"
        assert rows(f"{left} group by 1, 2") == [], "jobs were left behind"
        self.follow(1000, 3)
        last = rows(
            "select job_id::text, max(seq) from job_events where workspace_id = %s"
            " and type not in ('job.progress', 'job.log') group by 1",
            ACME,
        )
        assert {job: seq for job, seq in last if self.reported.get(job) != seq} == {}, (
            "never reported"
        )
        self.nothing_is_broken()
        starts = rows(
            "select extract(epoch from e.created_at)::float from job_events as e"
            " join jobs as j on j.id = e.job_id"
            " where j.job_type = 'rated' and e.type = 'job.leased' order by 1"
        )
        for first, since in enumerate(starts):
            for place in range(first, len(starts)):
                most = 3 + (starts[place] - since) / 100 + 0.05
                assert place - first + 1 <= most, "the rate was exceeded"


# these are thousands of statements, which take minutes on a busy machine
@pytest.mark.timeout(0 if "MACHINE_EXAMPLES" in os.environ else 900)
def test_no_random_history_breaks_an_invariant(database: Database) -> None:
    """Transactions interleave, and calls are repeated, stale, expired, cancelled or deleted.

    The histories are the same each time. `make machine` runs more and different histories.
    """
    engines = [Engine(database, database.connect()) for _ in range(4)]
    for engine in engines:
        engine.run("set deadlock_timeout = '50ms'")
    # a wait for a lock has no short timeout, because the machine may be busy
    engines[0].run(PATIENT)
    machine = type("BoundQueueMachine", (QueueMachine,), {"engines": engines})
    examples = os.environ.get("MACHINE_EXAMPLES")
    if examples is not None:
        chosen = int(os.environ.get("MACHINE_SEED") or random.SystemRandom().randrange(10**9))
        print(f"make machine EXAMPLES={examples} SEED={chosen}", flush=True)
        machine = seed(chosen)(machine)
    run = settings(
        max_examples=int(examples or 6),
        stateful_step_count=40,
        database=None,
        derandomize=examples is None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    run_state_machine_as_test(machine, settings=run)
