"""When a worker's process dies, the job that ended it spends an attempt and no other job does.

Until that job is known, the process's jobs are suspects and run in small groups.
"""

import math
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from tests.support.engine import ACME, GLOBEX, TICK, Engine, Json, ids_of, remedy, remedy_command


class Workers:
    """Worker processes that lease jobs, and that die when they run a poison job."""

    def __init__(
        self, engine: Engine, poison: Sequence[str] = (), companies: int | None = None
    ) -> None:
        self.engine = engine
        #: What the host of the processes adds to the evidence.
        self.host: Json = {"companies": companies} if companies else {}
        #: On Lambda, no host reports the end of a process.
        self.is_reported = companies != 0
        self.poison = set(poison)
        self.deaths = 0
        self.started = 0

    def lease(self, limit: int = 100, **request: Any) -> tuple[str, list[Json]]:
        self.started += 1
        worker = f"process-{self.started}"
        return worker, self.engine.lease(limit, worker=worker, **request)

    def die(self, worker: str, **evidence: Any) -> None:
        """End a worker's process. Its host reports the end, if there is a host."""
        self.deaths += 1
        if not self.is_reported:
            self.engine.elapse(31)
            return
        evidence = {"signal": "SIGKILL", **self.host, **evidence}
        self.engine.finish(worker_id=worker, evidence=evidence)

    def crash(self, **evidence: Any) -> list[Json]:
        """Lease jobs in a new process, end the process, and return the leases."""
        worker, leases = self.lease()
        self.die(worker, **evidence)
        return leases

    def run(self, **request: Any) -> bool:
        """Lease jobs in a new process and complete them, or die if one of them is poison.

        Return whether any job was leased.
        """
        worker, leases = self.lease(**request)
        ids = ids_of(leases)
        if self.poison & set(ids):
            self.die(worker, jobs=ids, running=len(ids))
        else:
            self.engine.complete(leases)
        return bool(leases)

    def complete(self, ids: Sequence[str], **request: Any) -> None:
        """Run processes until no job is left. Each of these jobs then has completed once."""
        while self.run(**request):
            pass
        assert states(self.engine, ids) == {("completed", 1, 0)}


def states(engine: Engine, ids: Sequence[str]) -> set[tuple[str, int, int]]:
    return set(
        engine.rows(
            "select status, attempts, lost_attempts from jobs where id = any(%s)", list(ids)
        )
    )


def deaths(engine: Engine, job_id: str) -> int:
    """Return how often a job's process died. Check that each function returns the same number."""
    [listed] = engine.rpc("list_jobs", p_filter={"ids": [job_id]})["jobs"]
    attempts = engine.rpc("job_attempts", p_job_id=job_id)["attempts"]
    died = [each for each in attempts if each["outcome"] == "died"]
    assert all(each["process_ended"] == ("ended" in each["error"]) for each in died)
    assert all("does not count: the process of worker" in each["error"] for each in died)
    assert engine.get(job_id)["deaths"] == listed["deaths"] == len(died)
    return len(died)


@pytest.mark.parametrize(
    ("count", "companies"), [(2, None), (30, None), (249, None), (30, 4), (249, 4), (30, 0)]
)
def test_one_that_kills_its_process_is_named_by_parts_and_no_other_pays(
    engine: Engine, count: int, companies: int | None
) -> None:
    """A job that ends each process it runs in is found by halving the group of suspects.

    It fails after its two attempts, and all other jobs complete with one attempt.
    """
    for job_type in ("work", "other"):
        engine.register(job_type, lease_seconds=30)
    ids = engine.enqueue_many(count)
    ids += engine.enqueue_many(count // 3, workspace=GLOBEX, job_type="other")
    poison = engine.enqueue(max_attempts=2)
    workers = Workers(engine, [poison], companies)

    workers.complete(ids, limit=1000)

    if workers.is_reported:  # without a report, the job has already run again
        assert states(engine, [poison]) == {("pending", 1, 1)}
        assert deaths(engine, poison) == workers.deaths - 1
    halves = math.ceil(math.log(len(ids) + 1, companies or 2))
    assert workers.deaths <= halves + 1 + (companies == 0)

    engine.advance(3600)
    neighbours = engine.enqueue_many(3)
    workers.complete(neighbours, limit=1000)
    assert [deaths(engine, each) for each in neighbours] == [0, 0, 0]
    assert states(engine, [poison]) == {("failed", 2, 2)}
    end = "last recorded call of worker" if companies == 0 else "while the job ran"
    assert end in engine.job(poison)["error_message"]


def test_a_type_whose_jobs_all_kill_their_process_is_soon_apart_from_others(engine: Engine) -> None:
    engine.register("bad")
    ids: list[str] = []
    poison: list[str] = []
    for _ in range(10):
        ids += engine.enqueue_many(2)
        poison += engine.enqueue_many(2, job_type="bad", max_attempts=1)
    workers = Workers(engine, poison)

    workers.complete(ids)

    assert states(engine, poison) == {("failed", 1, 1)}
    assert {deaths(engine, each) for each in ids} == {1}


@pytest.mark.parametrize("job_type", ["bad", "work"])
def test_a_job_that_is_alone_in_its_type_or_ran_at_the_death_is_named_by_its_second_death(
    engine: Engine, job_type: str
) -> None:
    """A job is the only one of its type, or its coroutine ran when its process died.

    The job is found after two deaths. All other jobs complete in their next attempt.
    """
    engine.register("bad")
    ids = engine.enqueue_many(30)
    poison = engine.enqueue(job_type=job_type, max_attempts=1)
    workers = Workers(engine, [poison], companies=4)
    if job_type == "work":
        workers.host["current_job"] = poison

    workers.complete(ids)

    assert states(engine, [poison]) == {("failed", 1, 1)}
    assert workers.deaths == 2
    assert "current_job" not in engine.job(poison)["error_data"]["evidence"]


def test_a_process_that_runs_suspects_leases_nothing_else(engine: Engine) -> None:
    engine.enqueue_many(4)
    workers = Workers(engine)
    workers.crash()
    others = engine.enqueue_many(3)

    alone, first = workers.lease()
    more = engine.lease_call(worker=alone)
    second = workers.lease()[1]

    assert len(first) == len(second) == 2
    # This run's free slots are not for other jobs, so an enqueue starts another worker.
    woken = engine.rpc(
        "enqueue_job", p_workspace_id=ACME, p_job_type="work", p_payload={}, p_options={}
    )
    assert woken["wake"]
    others.append(woken["job"]["id"])
    assert (more["leases"], more["alone"]) == ([], True)
    assert set(ids_of(workers.lease()[1])) == set(others)
    engine.settle(first[0])
    assert engine.lease(worker=alone) == []
    engine.settle(first[1], "released")  # it may still end its next process
    assert engine.count("queue.suspects") == 3


def test_a_worker_with_jobs_goes_on_beside_suspects(engine: Engine) -> None:
    """A worker that runs other jobs leases no suspects.

    The suspects wait for a worker without jobs.
    """
    engine.enqueue_many(60)
    workers = Workers(engine)
    workers.crash()
    others = engine.enqueue_many(5)

    leases = engine.lease(4, worker="w1", suspects=False) + engine.lease(1, worker="w1")
    assert set(ids_of(leases)) == set(others)
    rest = engine.lease_call(10, worker="w1", suspects=False)
    assert (rest["leases"], rest["next_due_in_ms"]) == ([], None)
    assert engine.lease_call(1, worker="w2", suspects=True)["alone"]
    # Half of the suspects wait, and only workers of earlier releases are left.
    engine.advance(31)
    assert engine.lease(1, worker="w1") == []
    engine.elapse(60)


def test_a_process_for_suspects_is_not_live_after_its_run(engine: Engine) -> None:
    """It begins no further run, unlike a worker without jobs."""
    live = "select count(*) from unnest(queue.live_workers(queue.clock()))"
    for worker, slots in (("w1", [{"job_types": ["work"], "limit": 1}]), ("w2", [])):
        run_id = str(uuid4())
        engine.lease(1, worker=worker, slots=slots, tick_id=run_id)
        engine.finish(worker_id=worker, summary={}, tick_id=run_id)
    assert engine.one(live) == 2
    engine.advance(15)
    assert engine.one(live) == 1


def test_what_its_stack_names_pays_and_the_others_run_on(engine: Engine) -> None:
    """If the stack trace of a dead process names a job type, its job loses an attempt.

    The other jobs run again without a lost attempt.
    """
    engine.register("bad")
    guilty, *ids = [engine.enqueue(job_type="bad"), *engine.enqueue_many(3)]
    foreign = engine.enqueue(workspace=GLOBEX)
    workers = Workers(engine)
    worker, _ = workers.lease()
    engine.enqueue()
    _, [other] = workers.lease()
    workers.die(worker, jobs=[guilty, foreign], stack=["in bad"], guilty_type="bad")

    assert states(engine, [*ids, foreign]) == {("pending", 0, 0)}
    assert states(engine, [guilty]) == {("pending", 1, 1)}
    assert engine.rows("select job_id::text from queue.suspects") == [guilty]
    message = engine.job(foreign)["error_message"]
    assert message.endswith("ended (SIGKILL) while code of the job type bad ran")
    evidence = engine.job(ids[0])["error_data"]["evidence"]
    assert (evidence["jobs"], evidence["jobs_in_it"]) == ([guilty], 2)
    assert {*ids_of(workers.lease()[1])} == {*ids, foreign}
    assert engine.settle(other)["outcome"] == "applied"


@pytest.mark.parametrize(
    ("signal", "end"),
    [("SIGKILL", "ended (SIGKILL) while its host stopped"), ("SIGSTOP", "ended (after SIGSTOP)")],
)
def test_a_process_that_was_stopped_costs_no_attempt(engine: Engine, signal: str, end: str) -> None:
    """The only job of the process runs again, and its error states how the process ended."""
    job = engine.enqueue()
    Workers(engine).crash(stopped=True, signal=signal)

    assert states(engine, [job]) == {("pending", 0, 0)}
    assert engine.job(job)["error_message"].endswith(end)
    assert engine.count("queue.suspects") == 0


def test_a_job_that_began_after_the_last_list_may_be_the_one(engine: Engine) -> None:
    """A job that is missing in a dead process's list of running jobs is a suspect too."""
    ids = engine.enqueue_many(3)
    workers = Workers(engine)
    workers.crash(jobs=ids[:1], running=1)

    assert states(engine, ids) == {("pending", 0, 0)}
    assert engine.count("queue.suspects") == 3
    assert engine.sentence(ids[0]) == (
        "Its process died (SIGKILL) with 2 other jobs."
        " It runs next, with 1 of them and nothing else."
    )
    groups = [ids_of(workers.lease()[1]) for _ in range(2)]
    assert sorted(map(len, groups)) == [1, 2]
    for group in groups:
        text = "It runs alone" if len(group) == 1 else "It runs with 1 of them and nothing else"
        assert all(text in engine.sentence(job) for job in group)


def test_an_abandoned_processor_may_have_ended_the_process(engine: Engine) -> None:
    """A dead process ran one leased job and an abandoned processor.

    The leased job loses no attempt, because either may have ended the process.
    """
    stopped, beside = engine.enqueue_many(2)
    workers = Workers(engine)
    worker, leases = workers.lease()
    engine.settle(next(each for each in leases if each["job"]["id"] == stopped))
    engine.lease(worker=worker, abandoned=[{"job_id": stopped, "place": "a.py:1"}])
    workers.die(worker)

    assert states(engine, [beside]) == {("pending", 0, 0)}
    workers.crash()
    assert states(engine, [beside]) == {("pending", 1, 1)}


def test_an_abandoned_run_of_a_leased_job_is_no_other_job(engine: Engine) -> None:
    [job_id] = engine.enqueue_many(1)
    workers = Workers(engine)
    worker, _ = workers.lease(abandoned=[{"job_id": job_id, "place": "a.py:1"}])
    workers.die(worker)

    assert states(engine, [job_id]) == {("pending", 1, 1)}


@pytest.mark.parametrize("held", [2, 3])
def test_a_deleted_job_may_have_ended_the_process(engine: Engine, held: int) -> None:
    """A job was deleted while it ran, and its process died.

    The process's other jobs lose no attempt. A job that later ends its process does.
    """
    deleted, *beside = engine.enqueue_many(held)
    workers = Workers(engine)
    worker, _ = workers.lease()
    engine.delete(deleted)
    engine.maintain()
    workers.die(worker)

    assert states(engine, beside) == {("pending", 0, 0)}
    while leases := workers.lease()[1]:
        engine.complete(leases)
    engine.elapse(61)
    assert engine.count("queue.lost_leases") == 0
    later = engine.enqueue()
    workers.crash()
    assert states(engine, [later]) == {("pending", 1, 1)}


def test_a_worker_that_is_killed_from_outside_costs_no_attempt(engine: Engine) -> None:
    """If a worker disappears without a report, its jobs run again and complete with one attempt."""
    engine.register(lease_seconds=30)
    engine.register("slow", lease_seconds=90)
    ids = [*engine.enqueue_many(5), engine.enqueue(job_type="slow")]
    workers = Workers(engine)
    workers.lease()
    for seconds in (31, 60):
        engine.elapse(seconds)
        while workers.run():
            pass

    assert states(engine, ids) == {("completed", 1, 0)}
    assert engine.count("queue.suspects") == 0


@pytest.mark.parametrize(
    "limits",
    [{"max_concurrency": 2}, {"workspace_concurrency": 2}, {"key_concurrency": 2}],
    ids=str,
)
def test_suspects_keep_their_limits(engine: Engine, limits: Json) -> None:
    engine.register(**limits)
    ids = engine.enqueue_many(6, concurrency_key="k")
    workers = Workers(engine)
    workers.crash()

    running = [lease for _ in range(6) for lease in workers.lease()[1]]
    assert len(running) == 2
    engine.complete(running)

    workers.complete(ids)


def test_one_that_is_paused_cancelled_or_deleted_leaves_no_suspect(engine: Engine) -> None:
    cancelled, deleted, paused, kept = engine.enqueue_many(4)
    workers = Workers(engine)
    workers.crash()
    engine.cancel(cancelled)
    engine.delete(deleted)

    workers.complete([paused, kept])

    engine.elapse(61)
    assert engine.count("queue.suspects") == 0


def test_a_dead_letter_that_ended_its_process_runs_alone_when_it_is_retried(engine: Engine) -> None:
    poison = engine.enqueue(max_attempts=1)
    workers = Workers(engine, [poison])
    workers.run()
    assert engine.status(poison) == "failed"
    engine.elapse(61)

    engine.retry(poison)
    engine.enqueue()
    assert ids_of(workers.lease()[1]) == [poison]
    assert engine.count("jobs where workspace_id = %s", ACME) == 2


def test_neither_of_two_jobs_that_end_their_process_is_named_as_the_first(engine: Engine) -> None:
    """After a death, two of three jobs end a process alone, so either may have ended the first."""
    *poison, beside = engine.enqueue_many(3)
    workers = Workers(engine, poison, companies=4)
    workers.run(limit=3)
    alone = {lease["job"]["id"]: worker for worker, [lease] in map(workers.lease, (1, 1, 1))}

    for job_id in poison:
        workers.die(alone[job_id], jobs=[job_id], running=1)
        assert "ran in it" not in engine.sentence(beside)


def test_a_death_is_explained_until_its_job_has_ended(engine: Engine) -> None:
    """`explain_job` shows that a suspect runs alone next.

    It also shows how often a job has ended its process.
    """
    poison, *others = engine.enqueue_many(4, max_attempts=2)
    workers = Workers(engine, [poison])

    workers.run(limit=2)
    result = engine.explain(poison)
    died = "Its process died (SIGKILL) with 1 other job."
    assert (result["reason"], result["sentence"]) == ("suspect", f"{died} It runs alone next.")
    assert remedy(result).startswith("Nothing to do until ")
    assert engine.explain(others[-1])["data"]["ahead"] == 1  # suspects ahead are not counted
    engine.advance(61)
    engine.lease_call(0, worker="other", suspects=False)
    assert "Start another worker" in remedy(engine.explain(poison))

    alone = {lease["job"]["id"]: (worker, lease) for worker, [lease] in map(workers.lease, (1, 1))}
    worker, _ = alone.pop(poison)
    [(_, innocent)] = alone.values()
    running = engine.explain(poison)
    beside = innocent["job"]["id"]
    assert running["reason"] == "running"
    assert running["sentence"].endswith(f"{died} It runs alone.")
    for times, reason in (("once", "backing_off"), ("twice", "failed")):
        workers.die(worker, jobs=[poison], running=1, memory_mb=1900)
        if times == "once":
            sentence = engine.sentence(beside)
            assert f"An earlier process of it ended while work {poison} ran in it." in sentence
            engine.settle(innocent)
        result = engine.explain(poison)
        assert result["reason"] == reason
        assert result["sentence"].startswith(f"Its process ended {times} while it ran alone. ")
        assert "(SIGKILL, 1900 MB)" in result["sentence"]
        engine.advance(3600)
        worker, _ = workers.lease()
    engine.maintain()
    assert engine.rpc("queue_stats", p_minutes=1440)["types"]["work"]["lost"] == 2


def findings(engine: Engine) -> dict[str, Json]:
    engine.elapse(6)  # the statistics are then up to date
    return engine.findings(ACME)


def test_a_type_whose_jobs_all_end_their_process_is_a_finding_that_offers_a_pause(
    engine: Engine,
) -> None:
    """If three jobs of one type in succession end their process, a finding proposes a pause."""
    engine.register("bad")
    workers = Workers(engine)

    def end(count: int) -> None:
        for _ in range(count):
            job = engine.enqueue(job_type="bad")
            worker, _ = workers.lease(job_types=["bad"])
            workers.die(worker, jobs=[job], running=1, commit="c0ffee1")

    end(2)
    assert "ends_process" not in findings(engine)
    end(1)
    waiting = engine.enqueue(job_type="bad")
    found = findings(engine)["ends_process"]
    assert "3 jobs of bad ended their process" in found["sentence"]
    assert "commit c0ffee1" in found["sentence"]
    assert (found["key"], found["jobs"]) == ("ends_process bad", 1)
    assert remedy_command(found) == "minutehand pause --type bad"
    assert engine.count("queue.pauses") == 0

    [lease] = workers.lease(job_types=["bad"])[1]
    assert lease["job"]["id"] == waiting
    engine.settle(lease)
    assert "ends_process" not in findings(engine)


def test_one_job_that_ends_its_process_again_and_again_blames_no_type(engine: Engine) -> None:
    engine.register(backoff={"first_seconds": 1})
    poison = engine.enqueue()
    workers = Workers(engine, [poison])
    for _ in range(4):
        workers.run()
        engine.advance(10)

    assert "ends_process" not in findings(engine)
    assert engine.job(poison)["lost_attempts"] == 4


def test_suspects_that_no_worker_can_run_are_a_finding(engine: Engine) -> None:
    """If suspects wait a minute while all workers run other jobs, `explain_queue` reports it."""
    engine.register(lease_seconds=600)
    first, _ = engine.enqueue_many(2)
    workers = Workers(engine)
    workers.crash()
    engine.enqueue()
    engine.lease(1, worker="busy", suspects=False)
    assert "suspects_wait" not in findings(engine)

    engine.advance(61)
    engine.lease(1, worker="busy", suspects=False)
    found = findings(engine)["suspects_wait"]
    assert found["jobs"] == 2
    assert remedy_command(found).startswith("minutehand explain ")
    assert "suspects_wait" not in engine.findings(GLOBEX)

    workers.complete([first])
    assert "suspects_wait" not in findings(engine)


def test_the_wait_of_a_suspect_begins_when_its_last_process_died(engine: Engine) -> None:
    engine.register(lease_seconds=600)
    engine.enqueue_many(4)
    workers = Workers(engine)
    workers.crash()
    engine.advance(61)
    [first, *_] = ids_of(workers.crash())

    assert remedy(engine.explain(first)).startswith("Nothing to do until ")


def test_a_retry_delay_is_no_wait_for_a_worker_that_runs_nothing_else(engine: Engine) -> None:
    engine.register(lease_seconds=600, backoff={"first_seconds": 70})
    Workers(engine, [engine.enqueue()]).run()
    engine.enqueue()
    engine.advance(90)
    engine.lease(1, worker="busy", suspects=False)
    assert "suspects_wait" not in findings(engine)

    engine.advance(70)
    assert "suspects_wait" in findings(engine)


@pytest.mark.parametrize("is_reclaimed", [True, False])
def test_a_run_whose_process_died_makes_room_when_its_leases_expire(
    engine: Engine, is_reclaimed: bool
) -> None:
    """A dead worker run no longer counts as active when its leases expire.

    A new run may then start.
    """
    engine.register(lease_seconds=30)
    engine.enqueue_many(2)
    request: Json = {"most": 1, "run_seconds": 300, "limit": 1, "call": 1}
    engine.lease_call(**request, worker="dies")
    other = {"p_request": {**request, "worker_id": "lives", "tick_id": TICK}}
    assert engine.rpc("lease_jobs", **other)["run"] == {"free": None}

    engine.advance(31)
    if is_reclaimed:
        engine.maintain()
    assert engine.rpc("lease_jobs", **other)["run"] == {"free": 0}


def test_no_lease_is_left_to_a_process_that_has_ended(engine: Engine) -> None:
    """The report of a process's end also ends the leases of a concurrent call.

    Later calls of the process get no job.
    """
    worked, late = engine.enqueue_many(2)
    workers = Workers(engine)
    worker, _ = workers.lease(1)
    with engine.open_transaction() as other:
        assert ids_of(other.lease(worker=worker)) == [late]
        died = engine.blocked(workers.die, worker)
    died.result()

    assert states(engine, [worked, late]) == {("pending", 0, 0)}
    assert engine.lease(worker=worker) == []
    assert engine.count("queue.leases") == 0


def test_a_process_that_has_ended_before_its_first_lease_gets_no_job(engine: Engine) -> None:
    """The first lease request of a process arrives after the report of the process's end."""
    job = engine.enqueue()
    workers = Workers(engine)
    workers.die("late")

    assert engine.lease(worker="late") == []
    assert ids_of(workers.lease()[1]) == [job]


def test_the_report_of_a_process_that_has_ended_waits_for_its_last_calls(engine: Engine) -> None:
    """The last call of a process delays the report of the process's end by at most 0.1 s."""
    engine.run("alter function queue.lock_held set lock_timeout = '60s'")  # for a busy machine
    job, lease = engine.start()
    with engine.open_transaction() as other:
        other.report(lease, progress={"percentage": 50})
        died = engine.blocked(Workers(engine).die, "w1")
    died.result()

    assert states(engine, [job]) == {("pending", 1, 1)}


def test_a_lease_that_is_locked_when_its_process_ends_is_reclaimed_soon(engine: Engine) -> None:
    """A lease's row is locked when the host reports the end of the lease's process.

    Maintenance reclaims the job as soon as the row is free, long before the lease would expire.
    """
    engine.register(lease_seconds=600)
    ids = engine.enqueue_many(3)
    workers = Workers(engine)
    worker, leases = workers.lease()
    with engine.open_transaction() as other:
        other.report(leases[0], progress={"percentage": 50})
        workers.die(worker)
        assert engine.count("queue.leases") == 1

    engine.elapse(2)
    assert states(engine, ids) == {("pending", 0, 0)}
    workers.complete(ids)


def test_two_processes_lease_a_company_each_at_the_same_moment(engine: Engine) -> None:
    """Two workers that lease concurrently after a death each get one half of the suspects."""
    engine.enqueue_many(4)
    workers = Workers(engine)
    worker, _ = workers.lease()
    assert engine.lease(call=16) == []  # each sixteenth call closes empty rows of queue.turns
    workers.die(worker)
    with engine.open_transaction() as other:
        companies = other.lease(worker="first"), engine.lease(worker="second")

    assert [len(company) for company in companies] == [2, 2]
