"""The tick against the real queue: what is leased is run, reported, settled, and no more."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from minutehand.queue import EnqueueOptions, NewJob, UserQueue, WorkerQueue
from minutehand.queue.data_api import DataApi
from minutehand.worker import (
    Backoff,
    Call,
    Fail,
    Job,
    JobContext,
    ProcessorError,
    Registry,
    Retry,
    Snooze,
    TickOptions,
    Worker,
)
from minutehand.worker.lease_requests import LeaseRequests
from tests.support.killable import until
from tests.support.payloads import Nothing, Number, nothing
from tests.support.project import ACME, Project
from tests.support.virtual_time import LeapingClock


async def test_a_job_runs_and_its_result_is_kept(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """The shortest way through the whole engine."""

    @registry.processor("double", payload=Number)
    async def double(job: Job[Number], ctx: JobContext) -> dict[str, Any]:
        ctx.progress(50, "half", "on the way")
        ctx.log("info", "doubling", number=job.payload.number)
        return {"doubled": job.payload.number * 2}

    await worker.register()
    enqueued = await ada.enqueue(ACME, "double", {"number": 21})

    summary = await worker.tick(budget_seconds=120)

    assert (summary.leased, summary.completed, summary.error) == (1, 1, None)
    job = await ada.get_job(enqueued.job.id)
    assert (job.status, job.result, job.attempts) == ("completed", {"doubled": 42}, 1)
    assert project.event_types(job.id) == ["created", "leased", "log", "progress", "completed"]
    [line] = (await ada.logs(job.id)).logs
    assert (line.message, line.metadata) == ("doubling", {"number": 21})


async def test_middleware_runs_around_each_attempt(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Within the attempt's time and outcome, for types registered before it as well."""

    @registry.processor("double", payload=Number)
    async def double(job: Job[Number], ctx: JobContext) -> int:
        return job.payload.number * 2

    @registry.around
    async def noted(job: Job[Any], ctx: JobContext, call: Call) -> Any:
        ctx.log("info", f"begins {job.job_type}")
        if job.payload.number < 0:
            return Fail("must not be negative")
        return {"doubled": await call()}

    await worker.register()
    good, bad = [await ada.enqueue(ACME, "double", {"number": n}) for n in (21, -1)]

    await worker.tick(budget_seconds=120)

    jobs = [await ada.get_job(each.job.id) for each in (good, bad)]
    assert [job.status for job in jobs] == ["completed", "failed"]
    assert jobs[0].result == {"doubled": 42}
    [line] = (await ada.logs(bad.job.id)).logs
    assert line.message == "begins double"


async def test_an_idle_tick_is_one_query(project: Project, worker: Worker) -> None:
    """A tick every minute for ever must cost next to nothing."""
    summary = await worker.tick(budget_seconds=120)

    assert (summary.calls, summary.reports, summary.leased) == (1, 0, 0)
    [row] = project.rows("select ended_at, last_call from queue.ticks")
    assert row["last_call"] == 1


async def test_more_jobs_than_slots_are_run_in_one_tick(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Slots refill one by one, each settle bringing the next job with it."""
    running = 0
    most = 0
    all_taken = asyncio.Event()

    @registry.processor("count", payload=Nothing)
    async def count(job: Job[Nothing], ctx: JobContext) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 5:
            all_taken.set()
        await all_taken.wait()
        await asyncio.sleep(0.01)
        running -= 1

    await worker.register()
    await ada.enqueue_many(ACME, [NewJob(job_type="count")] * 23)

    summary = await worker.tick(budget_seconds=120)

    assert (summary.leased, summary.completed) == (23, 23)
    assert most == 5


@pytest.mark.parametrize(
    ("ending", "status", "attempts", "event"),
    [
        ("retry", "pending", 1, "retried"),
        ("raise", "pending", 1, "retried"),
        ("base", "pending", 1, "retried"),
        ("exit", "pending", 1, "retried"),
        ("fail", "failed", 1, "failed"),
        ("fatal", "failed", 1, "failed"),
        ("snooze", "pending", 0, "snoozed"),
        ("unstorable", "failed", 1, "failed"),
    ],
)
async def test_each_ending_has_its_outcome(
    project: Project,
    registry: Registry,
    worker: Worker,
    ada: UserQueue,
    ending: str,
    status: str,
    attempts: int,
    event: str,
) -> None:
    """The table of what spends an attempt and what is final."""

    class OddError(BaseException):
        """Not even an Exception."""

    @registry.processor("end", payload=Nothing)
    async def end(job: Job[Nothing], ctx: JobContext) -> Any:
        match ending:
            case "retry":
                return Retry("later", after=30)
            case "raise":
                raise LookupError("not there")
            case "base":
                raise OddError("odd")
            case "exit":
                raise SystemExit(3)
            case "fail":
                return Fail("no use", data={"why": 1})
            case "fatal":
                raise ProcessorError("no use", retryable=False)
            case "snooze":
                return Snooze(after=timedelta(minutes=5))
            case _:
                return {"result": object()}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "end")).job.id

    await worker.tick(budget_seconds=120)

    job = await ada.get_job(job_id)
    assert (job.status, job.attempts) == (status, attempts)
    assert project.event_types(job_id)[-1] == event


async def test_a_failed_attempt_keeps_its_error(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """The person who reads the job must learn what happened, without the worker's log."""

    @registry.processor("fall", payload=Nothing, backoff=Backoff(first=10, cap=10))
    async def fall(job: Job[Nothing], ctx: JobContext) -> None:
        raise LookupError("nobody is called x\x00y")

    await worker.register()
    job_id = (await ada.enqueue(ACME, "fall")).job.id

    await worker.tick(budget_seconds=120)

    job = await ada.get_job(job_id)
    assert job.error_message == "nobody is called x\ufffdy"
    assert job.error_data["type"] == "LookupError"
    assert job.next_retry_at is not None
    assert job.updated_at is not None
    assert 5 < (job.next_retry_at - job.updated_at).total_seconds() < 16


async def test_what_a_foreign_service_asks_for_wins_over_the_backoff(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Retry-After is the service's own word on when it can be asked again."""

    class BusyError(Exception):
        retry_after = 900

    @registry.processor("ask_them", payload=Nothing, backoff=Backoff(first=1, cap=1))
    async def ask_them(job: Job[Nothing], ctx: JobContext) -> None:
        raise BusyError("429")

    await worker.register()
    job_id = (await ada.enqueue(ACME, "ask_them")).job.id

    await worker.tick(budget_seconds=120)

    job = await ada.get_job(job_id)
    assert job.next_retry_at is not None
    assert job.updated_at is not None
    assert 850 < (job.next_retry_at - job.updated_at).total_seconds() < 950


async def test_a_payload_that_does_not_fit_is_final(
    project: Project, registry: Registry, worker: Worker
) -> None:
    """Another attempt would meet the same payload."""

    @registry.processor("double", payload=Number)
    async def double(job: Job[Number], ctx: JobContext) -> None:
        raise AssertionError("must not run")

    await worker.register()
    project.run_sql("update queue.job_types set payload_schema = null")
    job_id = project.insert("double", {"number": "many"})

    summary = await worker.tick(budget_seconds=120)

    assert summary.failed == 1
    row = project.row(job_id)
    assert (row["status"], row["attempts"]) == ("failed", 1)
    assert row["error_data"]["type"] == "PayloadRejected"
    assert row["error_data"]["data"]["problems"][0]["path"] == ["number"]


async def test_every_way_to_enqueue_obeys_the_published_schema(
    project: Project, registry: Registry, worker: Worker
) -> None:
    """The processor's model is the one place where the payload's shape is written down."""
    registry.processor("double", payload=Number)(nothing)
    await worker.register()

    with pytest.raises(Exception, match="number"):
        project.insert("double", {"number": "many"})


async def test_an_old_payload_is_brought_up_to_date(
    project: Project, registry: Registry, worker: Worker
) -> None:
    """Jobs enqueued before a deployment still run after it."""
    seen: list[int] = []

    @registry.processor(
        "double",
        payload=Number,
        version=3,
        upcasters={
            1: lambda old: {"count": old["n"]},
            2: lambda old: {"number": old["count"]},
        },
    )
    async def double(job: Job[Number], ctx: JobContext) -> None:
        seen.append(job.payload.number)

    await worker.register()
    project.run_sql("update queue.job_types set payload_schema = null")
    project.insert("double", {"n": 4}, schema_version=1)
    project.insert("double", {"count": 5}, schema_version=2)
    project.insert("double", {"number": 6}, schema_version=3)

    await worker.tick(budget_seconds=120)

    assert sorted(seen) == [4, 5, 6]


async def test_only_the_wanted_types_are_run(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    ran: list[str] = []

    async def note(job: Job[Nothing], ctx: JobContext) -> None:
        ran.append(job.job_type)

    registry.processor("a", payload=Nothing)(note)
    registry.processor("b", payload=Nothing)(note)
    await worker.register()
    await ada.enqueue_many(ACME, [NewJob(job_type="a"), NewJob(job_type="b")])

    await worker.tick(budget_seconds=120, job_types=["b", "unheard_of"])
    assert ran == ["b"]

    await worker.tick(budget_seconds=120, job_types=["unheard_of"])
    assert ran == ["b"]


async def test_an_unknown_type_is_unchanged(
    project: Project, registry: Registry, worker: Worker
) -> None:
    """During a deployment the old worker must not touch the new version's jobs."""
    registry.processor("known", payload=Nothing)(nothing)
    await worker.register()
    project.run_sql("insert into queue.job_types (job_type) values ('of_the_future')")
    job_id = project.insert("of_the_future")

    summary = await worker.tick(budget_seconds=120)

    assert summary.leased == 0
    assert project.row(job_id)["status"] == "pending"


async def test_cancelling_stops_the_processor_within_a_heartbeat(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """A cancel must reach the code that runs, not only the row."""
    started = asyncio.Event()
    stopped = asyncio.Event()

    @registry.processor("long", payload=Nothing, lease=6)
    async def long(job: Job[Nothing], ctx: JobContext) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            assert ctx.cancelled
            stopped.set()

    await worker.register()
    job_id = (await ada.enqueue(ACME, "long")).job.id
    ticking = asyncio.create_task(worker.tick(budget_seconds=120))
    await asyncio.wait_for(started.wait(), 60)

    await ada.cancel(job_id)
    summary = await asyncio.wait_for(ticking, 60)

    assert stopped.is_set()
    assert summary.cancelled == 1
    assert (await ada.get_job(job_id)).status == "cancelled"
    assert project.event_types(job_id)[-1] == "cancelled"


async def test_a_zombie_is_stopped_and_nothing_it_sends_is_stored(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """A worker whose lease was taken away must not overwrite its successor."""
    started = asyncio.Event()

    @registry.processor("slow", payload=Nothing, lease=6)
    async def slow(job: Job[Nothing], ctx: JobContext) -> dict[str, int]:
        if job.attempt == 1:
            started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ctx.log("info", "from the grave")
                return {"by": 1}
        return {"by": job.attempt}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "slow")).job.id
    zombie = asyncio.create_task(worker.tick(budget_seconds=60))
    await asyncio.wait_for(started.wait(), 60)
    # in one transaction: a renewal in between would rescue the zombie
    project.run_sql("""
        update queue.leases set expires_at = now() - interval '1 second';
        select public.run_maintenance();
    """)
    successor = Worker(project.settings, registry=registry, options=TickOptions(linger_seconds=0))

    second = await successor.tick(budget_seconds=120)
    first = await asyncio.wait_for(zombie, 60)
    await successor.aclose()

    # the zombie's own tick may be the one that takes the job anew
    assert (first.completed + second.completed, first.lost) == (1, 1)
    job = await ada.get_job(job_id)
    assert (job.status, job.result, job.attempts) == ("completed", {"by": 2}, 2)
    assert (await ada.logs(job_id)).logs == ()
    assert project.event_types(job_id).count("completed") == 1


async def test_a_worker_that_lost_a_job_may_be_the_one_that_gets_it_again(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """While its first attempt still runs: the new lease is another one, not a repeated answer."""
    started, handed_on = asyncio.Event(), asyncio.Event()

    @registry.processor("slow", payload=Nothing, lease=6)
    async def slow(job: Job[Nothing], ctx: JobContext) -> dict[str, int]:
        if job.attempt > 1:
            handed_on.set()
            return {"by": job.attempt}
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.wait_for(handed_on.wait(), 30)
        return {"by": 1}

    await worker.register()
    job_id = (await ada.enqueue(ACME, "slow")).job.id
    ticking = asyncio.create_task(worker.tick(budget_seconds=60))
    await asyncio.wait_for(started.wait(), 60)
    project.run_sql("""
        update queue.leases set expires_at = now() - interval '1 second';
        select public.run_maintenance();
    """)
    summary = await asyncio.wait_for(ticking, 60)

    assert (summary.leased, summary.completed, summary.lost) == (2, 1, 1)
    job = await ada.get_job(job_id)
    assert (job.status, job.result, job.attempts) == ("completed", {"by": 2}, 2)


async def test_an_unreadable_job_stops_no_other(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """No function lets one in; an older worker or a hand on the database might still meet one."""
    registry.processor("plain", payload=Nothing)(nothing)
    await worker.register()
    odd = (await ada.enqueue(ACME, "plain")).job.id
    healthy = (await ada.enqueue(ACME, "plain")).job.id
    project.run_sql("update public.jobs set deadline_at = 'infinity' where id = %s", odd)

    summary = await worker.tick(budget_seconds=120)

    assert (summary.leased, summary.completed) == (2, 1)
    assert project.row(healthy)["status"] == "completed"
    project.run_sql("update public.jobs set deadline_at = null where id = %s", odd)
    row = project.row(odd)
    assert (row["status"], row["error_data"]["type"]) == ("failed", "LeaseUnreadable")


async def test_a_long_tick_says_goodbye_under_its_latest_id(
    project: Project,
    registry: Registry,
    worker: Worker,
    ada: UserQueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else an enqueue that comes right after it would count on its free slots, and wake nobody."""
    monkeypatch.setattr(LeaseRequests, "LEASE_ID_SECONDS", 0.0)

    registry.processor("brief", payload=Nothing)(nothing)
    await worker.register()
    for _ in range(3):
        await ada.enqueue(ACME, "brief")

    summary = await worker.tick(budget_seconds=120, options=TickOptions(concurrency=1))

    assert summary.completed == 3
    rows = project.rows("select ended_at from queue.ticks order by started_at desc")
    assert len(rows) > 1
    assert rows[0]["ended_at"] is not None


class SlowReports(httpx.AsyncHTTPTransport):
    """A network on which reports linger."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it on, a report late."""
        if request.url.path.endswith("/report_jobs"):
            await asyncio.sleep(0.3)
        return await super().handle_async_request(request)


async def test_the_last_word_of_a_job_is_kept_while_a_report_is_on_its_way(
    project: Project, registry: Registry, ada: UserQueue, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes with the settle; a report that raced it would be too late for its lease."""

    @registry.processor("talker", payload=Nothing)
    async def talker(job: Job[Nothing], ctx: JobContext) -> None:
        for percentage in (10, 60, 100):
            ctx.log("info", f"at {percentage}")
            ctx.progress(percentage, f"stage {percentage}")
            await asyncio.sleep(0.27 if percentage < 100 else 0)

    api = DataApi(
        project.settings.supabase_url,
        schema=project.settings.schema_name,
        transport=SlowReports(),
    )
    worker = Worker(
        project.settings,
        registry=registry,
        queue=WorkerQueue(project.settings, api=api),
        options=TickOptions(concurrency=10, linger_seconds=0),
    )
    await worker.register()
    jobs = [(await ada.enqueue(ACME, "talker")).job.id for _ in range(10)]

    with caplog.at_level("WARNING"):
        summary = await worker.tick(budget_seconds=60)
    await worker.aclose()

    assert summary.completed == 10
    for job_id in jobs:
        lines = [line.message for line in (await ada.logs(job_id)).logs]
        assert lines == ["at 10", "at 60", "at 100"]
        assert project.row(job_id)["progress"]["stage"] == "stage 100"
    assert "Lease was lost" not in caplog.text


async def test_the_timeout_of_an_attempt_is_enforced(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    @registry.processor("hang", payload=Nothing, timeout=1)
    async def hang(job: Job[Nothing], ctx: JobContext) -> None:
        await asyncio.sleep(60)

    await worker.register()
    job_id = (await ada.enqueue(ACME, "hang")).job.id

    summary = await worker.tick(budget_seconds=120)

    assert summary.retried == 1
    job = await ada.get_job(job_id)
    assert (job.status, job.attempts) == ("pending", 1)
    assert job.error_data["type"] == "AttemptTimeout"


async def test_a_processor_that_ignores_its_cancellation_is_given_up(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Its slot must not be lost to the rest of the queue."""

    @registry.processor("stubborn", payload=Nothing, timeout=1)
    async def stubborn(job: Job[Nothing], ctx: JobContext) -> None:
        for _ in range(8):
            try:
                await asyncio.sleep(0.4)
            except asyncio.CancelledError:
                continue

    await worker.register()
    job_id = (await ada.enqueue(ACME, "stubborn")).job.id

    summary = await worker.tick(budget_seconds=120)

    assert summary.retried == 1
    assert (await ada.get_job(job_id)).error_data["type"] == "AttemptTimeout"


async def test_the_deadline_stops_what_runs_and_the_tick_ends_in_time(
    registry: Registry, worker: Worker, ada: UserQueue, clock: LeapingClock
) -> None:
    """Lambda kills without a `finally`: whoever is not done before loses its settle."""

    @registry.processor("endless", payload=Nothing, lease=600)
    async def endless(job: Job[Nothing], ctx: JobContext) -> None:
        assert 0 < ctx.remaining < 120
        clock.ahead += ctx.remaining
        await asyncio.sleep(600)

    await worker.register()
    job_id = (await ada.enqueue(ACME, "endless")).job.id

    summary = await worker.tick(budget_seconds=120)

    job = await ada.get_job(job_id)
    assert (job.status, job.error_data["type"]) == ("pending", "DeadlineReached")
    assert (summary.retried, job.attempts) == (1, 1)


async def test_a_job_begun_late_is_handed_back_without_spending_an_attempt(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue, clock: LeapingClock
) -> None:
    """It is not the job's fault that little time was left."""

    @registry.processor("endless", payload=Nothing, lease=600)
    async def endless(job: Job[Nothing], ctx: JobContext) -> None:
        clock.ahead += ctx.remaining
        await asyncio.sleep(600)

    @registry.processor("first", payload=Nothing, lease=600)
    async def first(job: Job[Nothing], ctx: JobContext) -> str:
        clock.ahead += 0.52 * ctx.remaining  # less than half of the tick is left
        return project.insert("endless")

    await worker.register()
    before = (await ada.enqueue(ACME, "first")).job.id

    summary = await worker.tick(budget_seconds=120)

    assert (summary.completed, summary.released) == (1, 1)
    job = await ada.get_job((await ada.get_job(before)).result)
    assert (job.status, job.attempts) == ("pending", 0)
    assert project.event_types(job.id)[-1] == "released"


async def test_work_due_soon_is_slept_for(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Instead of being left to the next minute."""
    ran: list[str] = []

    @registry.processor("later", payload=Nothing)
    async def later(job: Job[Nothing], ctx: JobContext) -> None:
        ran.append(job.id)

    await worker.register()
    soon = datetime.now(UTC) + timedelta(seconds=1.2)
    await ada.enqueue(ACME, "later", options=EnqueueOptions(scheduled_for=soon))

    patient = TickOptions(linger_seconds=10)
    summary = await worker.tick(budget_seconds=120, options=patient)

    assert (len(ran), summary.completed) == (1, 1)
    assert summary.calls < 12


async def test_a_long_job_never_looks_dead(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Renewals come from a task of their own, whether or not the processor says anything."""
    started = asyncio.Event()

    @registry.processor("silent", payload=Nothing, lease=10)
    async def silent(job: Job[Nothing], ctx: JobContext) -> None:
        started.set()
        await asyncio.sleep(13)

    await worker.register()
    job_id = (await ada.enqueue(ACME, "silent")).job.id
    other = Worker(project.settings, registry=registry, options=TickOptions(linger_seconds=0))
    ticking = asyncio.create_task(worker.tick(budget_seconds=120))
    await started.wait()  # else the other may be first

    reclaimed = 0
    while not ticking.done():
        reclaimed += (await other.tick(budget_seconds=60)).reclaimed
        await asyncio.sleep(0.5)
    await other.aclose()

    assert reclaimed == 0
    job = await ada.get_job(job_id)
    assert (job.status, job.attempts) == ("completed", 1)


async def test_many_progress_calls_cost_few_reports(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Only the latest progress travels, and at most four times a second."""

    @registry.processor("busy", payload=Nothing)
    async def busy(job: Job[Nothing], ctx: JobContext) -> None:
        for number in range(1000):
            ctx.progress(number / 10, "counting")
            await asyncio.sleep(0.001)

    await worker.register()
    job_id = (await ada.enqueue(ACME, "busy")).job.id

    summary = await worker.tick(budget_seconds=120)

    assert 2 <= summary.reports <= summary.duration_ms / 250 + 2
    progress = [event for event in project.event_types(job_id) if event == "progress"]
    assert len(progress) <= summary.reports + 1


async def test_a_refused_item_does_not_take_its_batch_with_it(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """A poisonous result or error makes no neighbour run again; what was to be retried still is."""
    project.run_sql("""
      create function queue.test_refuse() returns trigger language plpgsql as $$
      begin
        if new.result ->> 'poison' = 'yes' or new.error_message = 'poison' then
          raise exception sqlstate 'PT400' using message = 'poison', hint = 'invalid_argument';
        end if;
        return new;
      end $$;
      create trigger test_refuse before update on public.jobs
        for each row execute function queue.test_refuse();
    """)

    @registry.processor("mixed", payload=Number)
    async def mixed(job: Job[Number], ctx: JobContext) -> dict[str, str]:
        if job.payload.number == 3:
            raise RuntimeError("poison")
        return {"poison": "yes" if job.payload.number == 2 else "no"}

    await worker.register()
    batch = await ada.enqueue_many(
        ACME, [NewJob(job_type="mixed", payload={"number": n}) for n in range(5)]
    )

    summary = await worker.tick(budget_seconds=120)

    jobs = [await ada.get_job(entry.job.id) for entry in batch.jobs]
    odd = {2: "failed", 3: "pending"}
    assert [job.status for job in jobs] == [odd.get(number, "completed") for number in range(5)]
    assert (summary.completed, summary.failed, summary.retried) == (3, 1, 1)
    assert {jobs[number].error_data["type"] for number in odd} == {"SettleRejected"}


async def test_a_tick_shorter_than_usual_charges_nothing_for_what_it_stops(
    registry: Registry, worker: Worker, ada: UserQueue, clock: LeapingClock
) -> None:
    """A tick asked for by HTTP is over in seconds; the job may need the minutes of a usual one."""

    @registry.processor("long", payload=Nothing, lease=600)
    async def long(job: Job[Nothing], ctx: JobContext) -> None:
        clock.ahead += ctx.remaining
        await asyncio.sleep(600)

    await worker.register()
    job_id = (await ada.enqueue(ACME, "long")).job.id
    options = TickOptions(linger_seconds=0, grace_seconds=0.3, usual_seconds=300)

    summary = await worker.tick(budget_seconds=120, options=options)

    assert summary.released == 1
    assert (await ada.get_job(job_id)).attempts == 0


async def test_a_job_that_would_not_fit_is_left_to_a_longer_tick(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Begun now, it would only be cut by the deadline."""
    registry.processor("minutes", payload=Nothing)(nothing)
    await worker.register()
    project.run_sql("update queue.job_types set run_p95_ms = 60000 where job_type = 'minutes'")
    job_id = (await ada.enqueue(ACME, "minutes")).job.id
    asked_for = TickOptions(linger_seconds=0, usual_seconds=200)

    short = await worker.tick(budget_seconds=10, options=asked_for)
    long = await worker.tick(budget_seconds=200)

    assert (short.leased, long.completed) == (0, 1)
    assert (await ada.get_job(job_id)).attempts == 1


async def test_a_type_that_takes_longer_than_any_tick_is_begun_with_one(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue, clock: LeapingClock
) -> None:
    """No tick has more time: steps carry it over, and without them it fails as it should."""

    @registry.processor("first", payload=Nothing)
    async def first(job: Job[Nothing], ctx: JobContext) -> str:
        clock.ahead += 0.3 * ctx.remaining
        return project.insert("hours")

    registry.processor("hours", payload=Nothing)(nothing)
    await worker.register()
    project.run_sql("update queue.job_types set run_p95_ms = 400000 where job_type = 'hours'")
    await ada.enqueue(ACME, "first")

    late = await worker.tick(budget_seconds=300, options=TickOptions(linger_seconds=0))
    fresh = await worker.tick(budget_seconds=300, options=TickOptions(linger_seconds=0))

    assert (late.leased, fresh.completed) == (1, 1)


async def test_a_failing_job_becomes_a_dead_letter_after_its_attempts(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """And can be enqueued again by a person."""
    broken = True

    @registry.processor("fragile", payload=Nothing, max_attempts=3, backoff=Backoff(first=0, cap=0))
    async def fragile(job: Job[Nothing], ctx: JobContext) -> str:
        if broken:
            raise ConnectionError("still broken")
        return "mended"

    await worker.register()
    job_id = (await ada.enqueue(ACME, "fragile")).job.id
    for _ in range(3):
        await worker.tick(budget_seconds=120)
    dead = await ada.get_job(job_id)

    broken = False
    await ada.retry(job_id)
    await worker.tick(budget_seconds=120)

    assert (dead.status, dead.attempts, dead.error_message) == ("failed", 3, "still broken")
    mended = await ada.get_job(job_id)
    assert (mended.status, mended.result) == ("completed", "mended")
    assert project.event_types(job_id)[-1] == "completed"


async def test_a_tick_stays_while_another_lease_holds_what_is_due(
    project: Project, worker: Worker, registry: Registry, ada: UserQueue
) -> None:
    """One that left at once would leave a job just enqueued to the next minute's tick."""
    registry.processor("brief", payload=Nothing)(nothing)
    await worker.register()
    with project.database.connect() as other:
        other.autocommit = False
        other.execute("select queue.try_lock('partitions')")
        await ada.enqueue(ACME, "brief")
        ticking = asyncio.create_task(
            worker.tick(budget_seconds=60, options=TickOptions(linger_seconds=0))
        )
        await until(lambda: project.rows("select 1 from queue.ticks where last_call >= 1"))
        other.rollback()

    assert (await ticking).completed == 1
