# ruff: noqa: E501 - queries stay on one line
"""A rule-based machine over the queue: three sessions, open transactions, repeated and stale calls.

After each step what must hold of a committed snapshot is looked at; what a single snapshot cannot
show (two holders, repeated answers, lost jobs) the machine remembers itself.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.contract.observed import breaches
from tests.support.databases import Database
from tests.support.engine import ACME, CLOCK, EVE, GLOBEX, Engine, handle

LEASE_SECONDS = 100
TYPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "keyed": {"key_concurrency": 1, "workspace_concurrency": 3},
    "few": {"max_concurrency": 2},
    "rated": {"rate_limit": {"limit": 3, "per_seconds": 300}},
    "quiet": {"events": "minimal", "max_attempts": 1},
}
RUNNING = "from public.jobs where status = 'processing' and job_type"
CAPS = {
    "few": f"select 1 {RUNNING} = 'few' having count(*) > 2",
    "keyed in a workspace": f"select 1 {RUNNING} = 'keyed' group by workspace_id having count(*) > 3",
    "keyed": f"select 1 {RUNNING} = 'keyed' and concurrency_key is not null"
    " group by workspace_id, concurrency_key having count(*) > 1",
}
#: Locks that a call is to wait for: those of milliseconds are the engine's way to wait for nothing.
PATIENT = """
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid from pg_catalog.pg_proc as p, unnest(p.proconfig) as c where c ~ '^lock_timeout=\\d+s$'
  loop
    execute format('alter function %s set lock_timeout = ''60s''', v_function);
  end loop;
end $$
"""
WAITS = ("sleep", "ask", "event", "children")


def machine_on(database: Database) -> type[QueueMachine]:
    """The machine, bound to one database."""
    engines = [Engine(database, database.connect()) for _ in range(4)]
    stranger = database.connect()
    stranger.execute(
        "select set_config('request.jwt.claims', %s, false)",
        (f'{{"role": "authenticated", "sub": "{EVE}"}}',),
    )
    stranger.execute("set role authenticated")
    for engine in engines:
        engine.run("set deadlock_timeout = '50ms'")
    # what a call waits for is ended when this process gets to it, however busy the machine is
    engines[0].run(PATIENT)
    return type("BoundQueueMachine", (QueueMachine,), {"engines": engines, "eve": stranger})


class QueueMachine(RuleBasedStateMachine):
    """What clients and workers may do, in any order, twice, and too late."""

    engines: list[Engine]
    #: The clock goes on from history to history: what is kept of one is long ago in the next.
    ahead = 0.0
    eve: psycopg.Connection[Any]

    class Refused(Exception):
        """The database raised what it should not have."""

    # --- setting the scene ---

    @initialize(seed=st.integers(0, 2**32))
    def open(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.sessions = self.engines
        self.watcher = self.sessions[3]
        self.now = QueueMachine.ahead = QueueMachine.ahead + 10_000
        self.watcher.run(CLOCK.format(seconds=self.now))
        self.watcher.run("delete from public.workspaces where name in ('A', 'G')")
        self.watcher.run("delete from public.jobs")
        # names of events and keys of before are another history's
        self.run_id = f"{seed}-{uuid.uuid4().hex[:8]}"
        self.watcher.run(
            "insert into public.workspaces (id, name) values (%s, 'A'), (%s, 'G')"
            " on conflict do nothing",
            ACME,
            GLOBEX,
        )
        self.watcher.run(
            "insert into public.workspace_members (workspace_id, user_id) values (%s, %s)"
            " on conflict do nothing",
            GLOBEX,
            EVE,
        )
        self.watcher.rpc("register_job_types", p_types=[
            {"job_type": name, "lease_seconds": LEASE_SECONDS, **policy} for name, policy in TYPES.items()
        ])  # fmt: skip
        self.began = time.monotonic()
        self.open_since: dict[int, list[Callable[[], None]]] = {}
        self.jobs: dict[str, str] = {}
        self.held: dict[tuple[str, int], dict[str, Any]] = {}
        self.fences: dict[str, int] = {}
        self.answers: dict[tuple[str, int], dict[str, Any]] = {}
        self.calls: list[tuple[dict[str, Any], set[tuple[str, int]]]] = []
        self.keys: dict[tuple[str, str], tuple[str, int]] = {}
        self.not_before: dict[str, float] = {}
        self.results: dict[str, Any] = {}
        self.told: dict[str, int] = {}
        self.cursor = self.watcher.rpc("event_feed", p_workspace_id=ACME)["cursor"]
        for job_type, key in (
            ("plain", None),
            ("keyed", "a"),
            ("keyed", None),
            ("few", None),
            ("rated", None),
            ("quiet", None),
        ):
            self.enqueue(0, False, ACME, job_type, 3, key, 100, None)
        self.lease(0, False, 100, None)

    def instant(self) -> float:
        """Seconds on the database's clock since the beginning: it moves while this machine works."""
        return self.now + time.monotonic() - self.began

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

    def call(
        self,
        index: int,
        action: Callable[[Engine], Any],
        note: Callable[[Any], None],
        *,
        hold: bool,
    ) -> None:
        """Run `action` in a session; should it wait for an open transaction, end that one first.

        Args:
            hold: Leave the transaction open; `note` is then taken when it commits.
        """
        if index in self.open_since:
            self.end(index, commit=True)
        session = self.sessions[index]
        if hold:
            session.run("begin")
        answer = self.last = self.wait(session, index, lambda: action(session))
        if isinstance(answer, psycopg.Error):
            if hold:
                session.run("rollback")
            if not (answer.sqlstate or "").startswith("PT"):
                raise self.Refused(f"{answer.sqlstate}: {answer}") from answer
        if hold and not isinstance(answer, psycopg.Error):
            self.open_since[index] = [lambda: note(answer)]
        else:
            note(answer)

    def wait(self, session: Engine, index: int, work: Callable[[], Any]) -> Any:
        """Do `work` in a thread; end open transactions for as long as it waits for one."""
        if not set(self.open_since) - {index}:
            try:
                return work()
            except psycopg.Error as error:
                return error
        future: Future[Any] = Future()

        def act() -> None:
            try:
                future.set_result(work())
            except psycopg.Error as error:
                future.set_result(error)

        thread = threading.Thread(target=act)
        thread.start()
        pid = session.connection.info.backend_pid
        while thread.is_alive():
            thread.join(0.004)
            if thread.is_alive() and self.watcher.one(
                "select cardinality(pg_blocking_pids(%s))", pid
            ):
                other = next(iter(set(self.open_since) - {index}), None)
                if other is not None:
                    self.end(other, commit=self.random.random() < 0.8)
        return future.result()

    def end(self, index: int, *, commit: bool) -> None:
        """Commit or roll back a session's open transaction."""
        notes = self.open_since.pop(index)
        self.sessions[index].run("commit" if commit else "rollback")
        if commit:
            for note in notes:
                note()

    @rule(index=st.integers(0, 2), commit=st.booleans())
    def finish_transaction(self, index: int, commit: bool) -> None:
        if index in self.open_since:
            self.end(index, commit=commit)

    # --- clients ---

    sessions_ = st.integers(0, 2)
    holds = st.sampled_from([False, False, True])

    @rule(
        index=sessions_, hold=holds, workspace=st.sampled_from([ACME, GLOBEX]), job_type=st.sampled_from(sorted(TYPES)), count=st.integers(1, 4),
        key=st.sampled_from([None, "a", "b"]), priority=st.sampled_from([5, 100]), delay=st.sampled_from([None, None, 150]),
    )  # fmt: skip
    def enqueue(
        self,
        index: int,
        hold: bool,
        workspace: str,
        job_type: str,
        count: int,
        key: str | None,
        priority: int,
        delay: int | None,
    ) -> None:
        options = (
            {"priority": priority}
            | ({"concurrency_key": key} if key else {})
            | ({"delay_seconds": delay} if delay else {})
        )

        def note(answer: Any) -> None:
            ids = answer["ids"] if "ids" in answer else [answer["job"]["id"]]
            self.jobs.update(dict.fromkeys(ids, workspace))

        if count == 1:  # a path of its own
            arguments = {"p_workspace_id": workspace, "p_job_type": job_type, "p_options": options}
            self.call(index, lambda s: s.rpc("enqueue_job", **arguments), note, hold=hold)
            return
        items = [{"job_type": job_type, **options}] * count
        self.call(
            index,
            lambda s: s.rpc("enqueue_jobs", p_workspace_id=workspace, p_jobs=items, p_return="ids"),
            note,
            hold=hold,
        )

    @rule(
        index=sessions_,
        hold=holds,
        key=st.sampled_from("xy"),
        payloads=st.sampled_from([(1, 1), (1, 2), (2, 1)]),
    )
    def enqueue_with_key_twice(
        self, index: int, hold: bool, key: str, payloads: tuple[int, int]
    ) -> None:
        """A client repeats itself, or is wrong; the first call's transaction may still be open."""
        self.enqueue_with_key(index, hold, key, payloads[0])
        self.enqueue_with_key((index + 1) % 3, False, key, payloads[1])

    def enqueue_with_key(self, index: int, hold: bool, key: str, payload: int) -> None:
        def note(answer: Any) -> None:
            known = self.keys.get((ACME, key))
            if isinstance(answer, psycopg.Error):
                assert answer.diag.message_hint == "idempotency_conflict"
                assert known is None or known[1] != payload, "a repeat was refused"
                return
            job_id = answer["job"]["id"]
            if known is not None:
                assert known == (job_id, payload), "a key stood for two jobs or two payloads"
                assert not answer["created"]
            self.keys[ACME, key] = (job_id, payload)
            self.jobs[job_id] = ACME

        self.call(
            index,
            lambda s: s.rpc(
                "enqueue_job",
                p_workspace_id=ACME,
                p_job_type="plain",
                p_payload={"v": payload},
                p_options={"idempotency_key": f"{key} of {self.run_id}"},
            ),
            note,
            hold=hold,
        )

    @rule(
        index=sessions_,
        hold=holds,
        on_conflict=st.sampled_from(["skip", "replace"]),
        until=st.sampled_from(["leased", "finished"]),
    )
    def enqueue_unique(self, index: int, hold: bool, on_conflict: str, until: str) -> None:
        def note(answer: Any) -> None:
            self.jobs[answer["job"]["id"]] = ACME

        options = {
            "unique": {"key": f"u of {self.run_id}", "on_conflict": on_conflict, "until": until}
        }
        self.call(
            index,
            lambda s: s.rpc(
                "enqueue_job", p_workspace_id=ACME, p_job_type="plain", p_options=options
            ),
            note,
            hold=hold,
        )

    def some_job(self, pick: float) -> str:
        return list(self.jobs)[int(pick * len(self.jobs))]

    fractions = st.floats(0, 1, exclude_max=True)

    @precondition(lambda self: self.jobs)
    @rule(index=sessions_, hold=holds, pick=fractions)
    def cancel(self, index: int, hold: bool, pick: float) -> None:
        job_id = self.some_job(pick)
        self.call(index, lambda s: s.rpc("cancel_job", p_job_id=job_id), lambda _: None, hold=hold)

    @precondition(lambda self: self.jobs)
    @rule(index=sessions_, hold=holds, pick=fractions)
    def retry(self, index: int, hold: bool, pick: float) -> None:
        job_id = self.some_job(pick)

        def note(_: Any) -> None:
            self.not_before.pop(job_id, None)
            self.results.pop(job_id, None)

        self.call(index, lambda s: s.rpc("retry_job", p_job_id=job_id), note, hold=hold)

    @precondition(lambda self: self.jobs)
    @rule(pick=fractions)
    def delete(self, pick: float) -> None:
        job_id = self.some_job(pick)

        def note(answer: Any) -> None:
            self.jobs.pop(job_id, None)
            self.keys = {key: known for key, known in self.keys.items() if known[0] != job_id}

        self.call(
            0, lambda s: s.run("delete from public.jobs where id = %s", job_id), note, hold=False
        )

    @rule(limit=st.integers(1, 3), pages=st.integers(1, 4))
    def follow(self, limit: int, pages: int) -> None:
        """Somebody reads the workspace's feed, page by page, now and then."""
        for _ in range(pages):
            page = self.watcher.rpc(
                "event_feed", p_workspace_id=ACME, p_cursor=self.cursor, p_limit=limit
            )
            self.cursor = page["cursor"]
            for event in page["events"]:
                assert event["seq"] > self.told.get(event["job_id"], 0), "told twice, or backwards"
                self.told[event["job_id"]] = event["seq"]

    @rule(index=sessions_, hold=holds, name=st.sampled_from("pq"))
    def emit(self, index: int, hold: bool, name: str) -> None:
        self.call(
            index,
            lambda s: s.rpc("emit_event", p_workspace_id=ACME, p_name=name + self.run_id),
            lambda _: None,
            hold=hold,
        )

    @precondition(lambda self: self.jobs)
    @rule(index=sessions_, hold=holds, pick=fractions)
    def answer(self, index: int, hold: bool, pick: float) -> None:
        job_id = self.some_job(pick)
        self.call(
            index,
            lambda s: s.rpc("answer_job", p_job_id=job_id, p_answer={"answer": 1}),
            lambda _: None,
            hold=hold,
        )

    @precondition(lambda self: any(owner == ACME for owner in self.jobs.values()))
    @rule(function=st.sampled_from(["get_job", "cancel_job", "retry_job", "explain_job"]))
    def intrude(self, function: str) -> None:
        job_id = next(job for job, owner in self.jobs.items() if owner == ACME)
        try:
            self.eve.execute(f"select public.{function}(p_job_id => %s)", (job_id,))
        except psycopg.Error as error:
            answer = error.sqlstate
        else:
            answer = "the job"
        assert answer == "PT404", f"a stranger got {answer}"

    # --- workers ---

    @rule(
        index=sessions_,
        hold=holds,
        limit=st.integers(1, 6),
        types=st.sampled_from([None, ["few", "rated"]]),
    )
    def lease(self, index: int, hold: bool, limit: int, types: list[str] | None) -> None:
        request = {
            "worker_id": f"w{index}",
            "tick_id": str(uuid.uuid4()),
            "call": 1 + limit % 2,  # later calls go the short way, for one job or one partition
            "limit": limit,
            "job_types": types,
        }
        self.call(
            index,
            lambda s: (s.maintain(), s.rpc("lease_jobs", p_request=request))[1],
            lambda answer: self.leased(request, answer),
            hold=hold,
        )

    def leased(self, request: dict[str, Any], answer: Any) -> None:
        given = set()
        for lease in answer["leases"]:
            job_id, fence = lease["job"]["id"], lease["fence"]
            given.add((job_id, fence))
            assert (job_id, fence) not in self.held, "a lease was given twice"
            assert fence > self.fences.get(job_id, 0), "the fence did not rise"
            assert self.not_before.get(job_id, -1) <= self.instant() + 30, "leased before its time"
            self.fences[job_id] = fence
            self.held[job_id, fence] = {
                "lease": lease,
                "renewed": self.instant(),
                "state": "held",
            }
        assert len(given) <= request["limit"]
        self.calls.append((request, given))

    @precondition(lambda self: self.calls)
    @rule(index=sessions_, pick=fractions)
    def lease_again(self, index: int, pick: float) -> None:
        request, given = self.calls[int(pick * len(self.calls))]

        def note(answer: Any) -> None:
            again = {(lease["job"]["id"], lease["fence"]) for lease in answer["leases"]}
            assert again <= given, "a repeated call got new leases"

        self.call(index, lambda s: s.rpc("lease_jobs", p_request=request), note, hold=False)

    def some_lease(self, pick: float) -> dict[str, Any]:
        known = list(self.held.values())
        return known[-1 - int(pick * min(len(known), 20))]

    def must_hold(self, entry: dict[str, Any]) -> bool:
        """Whether, whatever happened, this lease cannot have been lost."""
        job_id = entry["lease"]["job"]["id"]
        return (
            entry["state"] == "held"
            and job_id in self.jobs
            and self.instant() - entry["renewed"] < LEASE_SECONDS - 30
            and self.fences[job_id] == entry["lease"]["fence"]
        )

    def note_renewal(self, entry: dict[str, Any], result: dict[str, Any], at: float) -> None:
        """A lease that was being taken back at that moment is reported as it was, not renewed."""
        if result["outcome"] != "lost" and self.watcher.one(
            "select %s::timestamptz > queue.clock() + make_interval(secs => %s)",
            result["lease_expires_at"],
            LEASE_SECONDS - 30,
        ):
            entry["renewed"] = max(entry["renewed"], at)

    @precondition(lambda self: self.held)
    @rule(index=sessions_, hold=holds, pick=fractions, news=st.booleans())
    def report(self, index: int, hold: bool, pick: float, news: bool) -> None:
        entry = self.some_lease(pick)
        item = {**handle(entry["lease"])} | (
            {
                "progress": {"percentage": 7},
                "logs": [{"level": "info", "message": "x"}],
                "steps": [{"name": "s", "result": 1}],
            }
            if news
            else {}
        )
        at, sure = self.instant(), self.must_hold(entry)
        stale = self.fences.get(item["job_id"], 0) > item["fence"] or entry["state"] == "settled"

        def note(answer: Any) -> None:
            result = answer["results"][0]
            outcome = result["outcome"]
            assert not (stale and outcome != "lost"), "a stale report was taken"
            assert not (
                sure
                and entry["state"] == "held"
                and item["job_id"] in self.jobs
                and outcome == "lost"
            ), "a live lease was lost"
            self.note_renewal(entry, result, at)

        self.call(
            index, lambda s: s.rpc("report_jobs", p_request={"items": [item]}), note, hold=hold
        )

    @precondition(lambda self: self.held)
    @rule(
        index=sessions_, hold=holds, pick=fractions, wait=st.sampled_from(WAITS),
        outcome=st.sampled_from(["completed", "completed", "retry", "failed", "snoozed", "released", "waiting", "cancelled"]),
    )  # fmt: skip
    def settle(self, index: int, hold: bool, pick: float, outcome: str, wait: str) -> None:
        self.settle_entry(index, hold, self.some_lease(pick), outcome, wait)

    def settle_entry(
        self, index: int, hold: bool, entry: dict[str, Any], outcome: str, wait: str = "sleep"
    ) -> None:
        job_id, fence = entry["lease"]["job"]["id"], entry["lease"]["fence"]
        item: dict[str, Any] = {**handle(entry["lease"]), "outcome": outcome}
        if outcome == "completed":
            item["result"] = self.random.randrange(1000)
        elif outcome in ("retry", "failed"):
            item["error"] = {"type": "E", "message": "m"}
        elif outcome == "snoozed":
            item["delay_seconds"] = 150
        elif outcome == "waiting":
            item["wait"] = {
                "sleep": {"kind": "sleep", "name": "w", "until": self.at(150)},
                "ask": {"kind": "ask", "name": "w", "question": "?", "timeout_at": self.at(400)},
                "event": {"kind": "event", "name": "w", "event": "p" + self.run_id},
                "children": {"kind": "children", "name": "w", "job_ids": entry.get("children", [])},
            }[wait]
        stale = self.fences.get(job_id, 0) > fence
        sure = self.must_hold(entry)

        def note(answer: Any) -> None:
            assert len(answer["results"]) == 1, "one settle was not answered once"
            result = answer["results"][0]
            said = result["outcome"]
            first = self.answers.get((job_id, fence))
            if first is not None and first["item"]["outcome"] == outcome and job_id in self.jobs:
                assert said == first["said"], "a repeated settle was answered differently"
            elif first is not None or stale:
                assert said != "applied" or (first is not None and first["status"] == "failed"), (
                    "a stale settle was applied"
                )
            elif said in ("applied", "cancelled"):
                entry["state"] = "settled"
                self.answers[job_id, fence] = {
                    "item": item,
                    "said": said,
                    "status": result["status"],
                }
                job = entry["lease"]["job"]
                if outcome == "retry" and job["attempts"] >= job["max_attempts"]:
                    assert result["status"] in ("failed", "cancelled"), (
                        "retried beyond its attempts"
                    )
                if (
                    outcome in ("snoozed", "released", "waiting")
                    and said == "applied"
                    and result["status"] != "failed"
                ):
                    spent = self.watcher.rows(
                        "select attempts from public.jobs where id = %s and status = %s",
                        job_id,
                        result["status"],
                    )
                    assert not spent or spent[0] in (job["attempts"] - 1, 0), (
                        "handing back cost an attempt"
                    )
                self.not_before.pop(job_id, None)
                if outcome == "retry" and result["status"] == "pending":
                    self.not_before[job_id] = self.instant() + 50
                if result["status"] == "completed":
                    self.results[job_id] = item["result"]
            else:
                assert not (sure and job_id in self.jobs), "a live lease was lost"

        self.call(
            index, lambda s: s.rpc("settle_jobs", p_request={"items": [item]}), note, hold=hold
        )

    def at(self, seconds: float) -> str:
        return str(
            self.watcher.one("select queue.clock() + %s * interval '1 second'", seconds).isoformat()
        )

    @precondition(lambda self: self.held)
    @rule(index=sessions_, hold=holds, pick=fractions)
    def spawn(self, index: int, hold: bool, pick: float) -> None:
        entry = self.some_lease(pick)
        job_id = entry["lease"]["job"]["id"]
        request = {**handle(entry["lease"]), "name": "s", "children": [{"job_type": "plain"}] * 2}

        def note(answer: Any) -> None:
            if isinstance(answer, psycopg.Error):
                return
            if "children" in entry:  # by now some of them may be gone
                assert entry["children"] == answer["job_ids"], "a repeat made other children"
                return
            entry["children"] = answer["job_ids"]
            for child in answer["job_ids"]:
                self.jobs.setdefault(child, self.jobs.get(job_id, ACME))

        if job_id in self.jobs:
            self.call(index, lambda s: s.rpc("spawn_jobs", p_request=request), note, hold=hold)

    @precondition(lambda self: self.held)
    @rule()
    def heartbeat(self) -> None:
        """All leases this worker believes in are renewed in one call."""
        entries = [entry for entry in self.held.values() if entry["state"] == "held"]
        at = self.instant()
        sure = [self.must_hold(entry) for entry in entries]

        def note(answer: Any) -> None:
            outcomes = {(result["job_id"], result["fence"]): result for result in answer["results"]}
            for entry, certain in zip(entries, sure, strict=True):
                result = outcomes[entry["lease"]["job"]["id"], entry["lease"]["fence"]]
                alive = entry["lease"]["job"]["id"] in self.jobs and entry["state"] == "held"
                assert not (certain and alive and result["outcome"] == "lost"), (
                    "a live lease was lost"
                )
                self.note_renewal(entry, result, at)

        if entries:
            self.call(
                2,
                lambda s: s.rpc(
                    "report_jobs",
                    p_request={"items": [handle(entry["lease"]) for entry in entries]},
                ),
                note,
                hold=False,
            )

    @rule(
        limit=st.integers(3, 6),
        job_type=st.sampled_from(["few", "few", "keyed", "rated"]),
        seconds=st.sampled_from([0, 130]),
    )
    def race_leases(self, limit: int, job_type: str, seconds: int) -> None:
        """Two ticks at the same moment, and more urgent work arrives in between."""
        self.time_passes(seconds)
        self.enqueue(1, False, ACME, job_type, 3, "a", 100, None)
        self.lease(0, True, limit, [job_type])
        self.enqueue(1, False, ACME, job_type, 3, "a", 5, None)
        self.lease(1, False, limit, None)

    @rule(pick=fractions)
    def race_lease_and_cancel(self, pick: float) -> None:
        """A person cancels what a tick is just leasing."""
        self.enqueue(1, False, ACME, "plain", 3, None, 5, None)
        self.lease(0, True, 6, None)
        leased = self.last["leases"]
        if leased:
            job = leased[int(pick * len(leased))]["job"]
            self.call(
                1,
                lambda s: s.rpc(
                    "cancel_jobs", p_workspace_id=job["workspace_id"], p_filter={"ids": [job["id"]]}
                ),
                lambda _: None,
                hold=False,
            )

    @precondition(lambda self: self.held)
    @rule()
    def work_long(self) -> None:
        """A job outlasts its lease several times and renews in time."""
        for _ in range(3):
            self.heartbeat()
            self.time_passes(60)
        self.lease(1, False, 1, None)
        self.heartbeat()

    @precondition(lambda self: self.held)
    @rule()
    def zombies_speak(self) -> None:
        """Workers that lost their leases send what they have."""
        for index in list(self.open_since):
            self.end(index, commit=True)
        stale = [
            entry
            for (job_id, fence), entry in self.held.items()
            if job_id in self.jobs and fence < self.fences[job_id]
        ][-6:]
        news = {
            "progress": {"percentage": 9},
            "logs": [{"level": "info", "message": "z"}],
            "steps": [{"name": "z", "result": 1}],
        }
        ids = [entry["lease"]["job"]["id"] for entry in stale]
        seqs = (
            "select job_id, max(seq) from public.job_events where job_id = any(%s::uuid[])"
            " group by 1 order by 1"
        )
        before = self.watcher.rows(seqs, ids)
        if stale:
            self.watcher.report_all([{**handle(entry["lease"]), **news} for entry in stale])
        assert self.watcher.rows(seqs, ids) == before, "a zombie was listened to"
        for entry in stale:
            self.settle_entry(0, False, entry, "completed")

    @precondition(lambda self: self.held)
    @rule(pick=fractions)
    def found_a_family(self, pick: float) -> None:
        """A running job makes children and waits for them."""
        entry = self.some_lease(pick)
        self.spawn(0, False, pick)
        if "children" in entry:
            self.settle(0, False, pick, "waiting", "children")

    @precondition(lambda self: self.held)
    @rule()
    def event_comes_first(self) -> None:
        """What a job is about to wait for has already happened."""
        self.emit(1, False, "p")
        known = list(self.held.values())
        for entry in reversed(known):
            if self.must_hold(entry) and entry["lease"]["job"]["workspace_id"] == ACME:
                self.settle_entry(2, False, entry, "waiting", "event")
                return

    @precondition(lambda self: self.held)
    @rule()
    def last_attempts_fail(self) -> None:
        """Jobs without another attempt say that they want one."""
        for entry in list(self.held.values()):
            job = entry["lease"]["job"]
            if self.must_hold(entry) and job["attempts"] >= job["max_attempts"]:
                self.settle_entry(2, False, entry, "retry")

    @rule()
    def finish_what_is_unique(self) -> None:
        """What was unique until it ended may be asked for again."""
        self.enqueue_unique(0, False, "skip", "finished")
        job_id = self.last["job"]["id"]
        self.lease(1, False, 6, None)
        for entry in list(self.held.values()):
            if entry["lease"]["job"]["id"] == job_id and self.must_hold(entry):
                self.settle_entry(2, False, entry, "completed")

    @rule()
    def lose_workers(self) -> None:
        """Every lease expires, and other workers take over."""
        self.time_passes(130)
        self.lease(1, False, 20, None)

    @precondition(lambda self: self.held)
    @rule(
        pick=fractions,
        outcome=st.sampled_from(["completed", "retry", "snoozed", "released", "failed"]),
    )
    def end_attempt(self, pick: float, outcome: str) -> None:
        self.settle(2, False, pick, outcome, "sleep")

    @precondition(lambda self: self.held)
    @rule(pick=fractions, wait=st.sampled_from(WAITS))
    def wait_for(self, pick: float, wait: str) -> None:
        self.settle(2, False, pick, "waiting", wait)

    @rule(seconds=st.sampled_from([5, 40, 40, 60, 130, 400]))
    def time_passes(self, seconds: int) -> None:
        for index in list(self.open_since):
            self.end(index, commit=True)
        self.now += seconds
        self.watcher.run(CLOCK.format(seconds=self.now))

    # --- what must hold ---

    @invariant()
    def nothing_is_broken(self) -> None:
        if not hasattr(self, "sessions"):
            return
        assert breaches(self.watcher.connection, **CAPS) == {}

    def run_dry(self) -> None:
        """No job is unreachable: with time and answers each one ends."""
        self.now += 130
        self.watcher.run(CLOCK.format(seconds=self.now))
        self.nothing_is_broken()
        lost = set(self.jobs) - {
            str(one) for one in self.watcher.rows("select id from public.jobs")
        }
        assert not lost, "a committed job is gone"
        for job_id, result in self.results.items():
            if job_id in self.jobs:
                assert (
                    self.watcher.one("select result from public.jobs where id = %s", job_id)
                    == result
                ), "a result changed"
        self.watcher.rpc("emit_event", p_workspace_id=ACME, p_name="p" + self.run_id)
        self.watcher.rpc("emit_event", p_workspace_id=GLOBEX, p_name="p" + self.run_id)
        for _ in range(60):
            leases = self.watcher.lease(100)
            if leases:
                self.watcher.settle_all(
                    [{**handle(lease), "outcome": "completed"} for lease in leases]
                )
            elif not self.watcher.one(
                "select exists (select 1 from public.jobs where finished_at is null)"
            ):
                break
            else:
                self.follow(1000, 3)  # a workspace's feed goes back for hours, not for ever
                self.now += 400
                self.watcher.run(CLOCK.format(seconds=self.now))
        left = self.watcher.rows(
            "select status, job_type, count(*) from public.jobs where finished_at is null group by 1, 2"
        )
        assert left == [], "jobs were left behind"
        self.follow(1000, 3)
        last = self.watcher.rows(
            "select job_id::text, max(seq) from public.job_events where workspace_id = %s"
            " and type not in ('job.progress', 'job.log') group by 1",
            ACME,
        )
        assert {job: seq for job, seq in last if self.told.get(job) != seq} == {}, "never told"
        self.nothing_is_broken()
        starts = self.watcher.rows(
            "select extract(epoch from e.created_at)::float from public.job_events as e"
            " join public.jobs as j on j.id = e.job_id"
            " where j.job_type = 'rated' and e.type = 'job.leased' order by 1"
        )
        for first, since in enumerate(starts):
            for place in range(first, len(starts)):
                assert place - first + 1 <= 3 + (starts[place] - since) / 100 + 0.05, (
                    "the rate was exceeded"
                )
