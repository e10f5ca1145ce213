"""Two concurrent leases, of which one commits between two statements of the other."""

import json
import random

import pytest

from tests.support.engine import ACME, ADA, BOB, GLOBEX, TICK, Engine, Json, ids_of
from tests.support.extensions import PG_NET, VAULT, create, drop

#: The request header of an API server that can start a worker.
API = {"x-minutehand-wakes": "true"}


@pytest.mark.parametrize("limited", [{}, {"max_concurrency": 50}, {"workspace_concurrency": 50}])
@pytest.mark.parametrize("is_open_elsewhere", [False, True])
def test_a_lease_that_finds_no_turn_while_another_opens_it_asks_again(
    engine: Engine, is_open_elsewhere: bool, limited: Json
) -> None:
    """A lease may find no job because another lease commits between its reads.

    It then asks the worker to call again.
    """
    engine.register(**limited)
    if is_open_elsewhere:  # leaves an empty row of queue.turns for another type
        engine.register("other")
        engine.enqueue(job_type="other")
        engine.settle(engine.lease_one())
    engine.enqueue_many(3)
    with engine.open_transaction() as one, engine.open_transaction() as pause:
        assert len(one.lease(1, job_types=["work"])) == 1
        # The lease waits here: it writes the call's number last, before it computes its next time.
        pause.run(
            "insert into queue.ticks (tick_id, seen_at, last_call) values (%s, now(), 0)", TICK
        )
        late = pause.blocked(engine.lease_call, 5, worker="w2", tick_id=TICK)
        one.run("commit")
        pause.run("rollback")
        found = late.result()
    assert found["leases"] == []
    assert found["next_due_in_ms"] == 0
    assert len(engine.lease(5)) == 2


@pytest.mark.parametrize(("tenants", "call", "left"), [(2, 15, 2), (2, 16, 0), (5, 15, 0)])
def test_a_lease_closes_empty_turns_now_and_then(
    engine: Engine, tenants: int, call: int, left: int
) -> None:
    """A lease that meets many empty rows of queue.turns closes them, and so does each 16th call.

    Open empty rows would be read by each later lease.
    """
    for workspace in engine.add_workspaces(tenants):
        engine.enqueue(workspace=workspace)
    engine.complete(engine.lease())

    assert engine.lease(call=call) == []

    assert engine.count("queue.turns where not blocked") == left


def test_a_turn_that_someone_has_locked_is_not_left_behind(engine: Engine) -> None:
    """A job is leased although its row of queue.turns was locked while a lease closed empty rows.

    The leases' epoch changes only if all open rows move to it.
    """
    for workspace in engine.add_workspaces(5):
        engine.enqueue(workspace=workspace)
    engine.enqueue_many(2)
    engine.complete(engine.lease(6))
    with engine.open_transaction(
        "select from queue.turns where workspace_id = %s for update", ACME
    ) as other:
        other.run("select from queue.ready for update")
        assert engine.lease(call=2) == []
        assert engine.count("queue.turns where not blocked") == 1

    assert len(engine.lease(call=2)) == 1


def test_few_turns_closed_at_a_time_begin_an_epoch_too(engine: Engine) -> None:
    """Leases begin a new epoch of queue.turns even after few closed rows.

    Dead index entries therefore stay few.
    """
    for count in (0, 1):
        for workspace in engine.add_workspaces(3):
            engine.enqueue_many(2, workspace=workspace)
        engine.complete(engine.lease(6))
        assert engine.lease(call=16) == []
        assert engine.count("queue.turn_epochs") == count


def test_a_sweep_that_closes_turns_delays_no_lease(engine: Engine) -> None:
    """While maintenance closes rows of queue.turns, another tenant's job is leased."""
    *tenants, other = engine.add_workspaces(6)
    for workspace in tenants:
        engine.enqueue_many(2, workspace=workspace)
    engine.complete(engine.lease(5, call=2))
    engine.complete(engine.lease(5, call=3))
    engine.run(
        "update queue.turns set blocked = false,"
        " changed_at = queue.clock() - interval '90 minutes',"
        " epoch = (select coalesce(max(epoch), 0) from queue.turn_epochs)"
    )
    unblocked = "queue.turns where not blocked"
    assert engine.count(unblocked) == 5
    with engine.open_transaction(
        "select queue.do_sweep(queue.clock(), queue.clock())"
    ) as maintenance:
        assert maintenance.count(unblocked) == 0
        engine.enqueue(workspace=other)
        assert len(engine.lease()) == 1


def test_single_jobs_of_many_tenants_open_no_turns(engine: Engine) -> None:
    """A lease of tenants with one job each opens no rows of queue.turns.

    Such rows would pile up as dead rows during a database dump.
    """
    *tenants, paused = engine.add_workspaces(7)
    engine.pause("workspace", paused)
    engine.pause("queue", "another")
    for workspace in (*tenants, paused):
        engine.enqueue(workspace=workspace)
    with engine.open_transaction() as other:
        other.enqueue(workspace=tenants[0])  # inserts no row of queue.notes, because one exists
        other.enqueue()  # its row of queue.notes commits late
        other.run("select from queue.ready where workspace_id = %s for update", tenants[1])
        with engine.open_transaction() as lease:
            assert len(lease.lease(call=2)) == 5
            lease.enqueue()
            assert len(lease.lease(call=2)) == 1
            lease.run("rollback")

        assert len(engine.lease(call=2)) == 5

        is_open = "select workspace_id::text from queue.turns where not blocked"
        assert set(engine.rows(is_open)) == set(tenants[:2])
        engine.enqueue(workspace=tenants[2])
        assert len(engine.lease(call=2)) == 1
    assert len(engine.lease(call=2)) == 3


def test_an_open_turn_gets_slots_beside_single_jobs_of_new_tenants(engine: Engine) -> None:
    engine.enqueue_many(5)
    engine.lease_one(limit=1)
    for workspace in engine.add_workspaces(5):
        engine.enqueue(workspace=workspace)

    leases = engine.lease(5)

    assert ACME in [lease["job"]["workspace_id"] for lease in leases]


def test_notes_below_the_first_one_are_found_again(engine: Engine) -> None:
    """After a restore, a sequence may be ahead of queue.notes.

    Maintenance corrects it, and the job is leased.
    """
    engine.enqueue()
    engine.run("select setval('queue.notes_gone', 1000 + pg_current_xact_id()::text::bigint)")
    assert engine.lease(call=2) == []

    engine.elapse(60)

    assert len(engine.lease(call=2)) == 1


def advance(session: Engine, lanes: list[int], to_round: int) -> None:
    """Record that a lease has served these lanes up to this round."""
    served = "select queue.advance_ring(%s, row(null, 0, %s, 1, %s)::queue.last_served)"
    session.run(served, lanes, to_round, ACME)


def test_a_ring_never_goes_back(engine: Engine) -> None:
    """The recorded position of the last served tenant never goes back.

    An older lease that writes late does not change it.
    """
    engine.enqueue()
    [(ring, *lanes)] = engine.rows("select ring, lane from queue.lanes where job_type = 'work'")
    advance(engine, lanes, 4)  # the session plans its statements
    with engine.open_transaction("lock table queue.rings in share mode") as other:
        # The call has compared the positions and waits for the table lock to write.
        late = other.blocked(advance, engine, lanes, 5)
        other.run("update queue.rings set round = 9 where ring = %s", ring)
    late.result()
    assert engine.one("select round from queue.rings where ring = %s", ring) == 9


def test_two_leases_do_not_take_one_ring_that_was_left(engine: Engine) -> None:
    for job_type in ("one", "two", "both"):
        engine.register(job_type)
    lanes = dict(engine.rows("select job_type, lane from queue.lanes"))
    assert len(engine.rows("select distinct ring from queue.lanes")) == 1
    left = engine.one("insert into queue.rings default values returning ring")
    with engine.open_transaction("lock table queue.rings in share mode") as other:
        late = other.blocked(advance, engine, [lanes["two"]], 5)
        other.run("update queue.lanes set ring = %s where lane = %s", left, lanes["one"])
    late.result()
    assert len(engine.rows("select distinct ring from queue.lanes")) == 2
    assert engine.rows("select job_type from queue.lanes where ring = %s", left) == ["one"]
    assert ids_of(engine.lease()) == []


def test_a_job_that_changes_between_look_and_lock_stays_ready(engine: Engine) -> None:
    """A job that changes between a lease's read and its lock is left to the next lease."""
    engine.enqueue()
    text = engine.one("select pg_get_functiondef('queue.take_jobs'::regproc)")
    looked = "and j.status = 'pending'"
    assert looked in text
    engine.run(
        "create function queue.wait_here(uuid) returns boolean language plpgsql as"
        " $$ begin perform pg_advisory_xact_lock(1); return true; end $$"
    )
    engine.run(text.replace(looked, f"{looked} and queue.wait_here(j.id)", 1).replace("%", "%%"))
    with engine.open_transaction("select pg_advisory_xact_lock(1)") as other:
        leased = other.blocked(engine.lease_call)
        other.run("update jobs set tags = '{later}'")
    found = leased.result()
    assert found["leases"] == []
    assert found["next_due_in_ms"] == 0
    assert engine.count("queue.leases") == 0
    [lease] = engine.lease()
    assert lease["job"]["attempts"] == 1
    assert engine.count("queue.ready") == 0


def test_a_released_job_is_ready_since_it_was_released(engine: Engine) -> None:
    """The queue time of a released job begins with the release and not with its scheduled time."""
    engine.enqueue(delay_seconds=10)
    engine.advance(20)
    lease = engine.lease_one()
    engine.advance(1000)
    engine.settle(lease, "released")
    age = engine.one("select extract(epoch from queue.clock() - ready_at) from queue.ready")
    assert age < 500


def test_a_turn_that_someone_changes_is_opened_by_the_next_lease(engine: Engine) -> None:
    """A tenant whose row of queue.turns is locked is served by the next lease."""
    engine.register("other")
    engine.enqueue()
    engine.enqueue(job_type="other", workspace=GLOBEX)
    engine.run_all()
    engine.run("update queue.turns set blocked = true, look_at = null")  # now both rows are closed
    with engine.open_transaction(
        "update queue.turns set changed_at = changed_at where workspace_id = %s", ACME
    ):
        engine.enqueue()
        engine.enqueue(job_type="other", workspace=GLOBEX)
        assert [lease["job"]["workspace_id"] for lease in engine.lease()] == [GLOBEX]
    assert [lease["job"]["workspace_id"] for lease in engine.lease()] == [ACME]


@pytest.mark.parametrize("says", ["-1", "ends", "tick_finished", "nothing"])
def test_enqueues_count_on_a_run_until_it_says_otherwise(engine: Engine, says: str) -> None:
    engine.run("select set_config('request.headers', %s, false)", json.dumps(API))
    run: Json = {"tick_id": TICK, "worker": "w1"}
    engine.lease_call(call=1, **run)

    def wakes() -> bool:
        answer = engine.rpc("enqueue_job", p_workspace_id=ACME, p_job_type="work")
        return answer["wake"]

    assert not wakes(), "the worker run has free slots and will lease the job"
    engine.settle(engine.lease_one(free_slots=0, call=2, **run))
    if says == "-1":
        engine.lease_call(call=3, free_slots=-1, **run)
    elif says == "ends":
        ended = engine.lease_call(call=3, free_slots=0, ends={"stay_ms": 0}, **run)["run"]
        assert ended["ended"]
    elif says == "tick_finished":
        engine.finish(tick_id=run["tick_id"])
    assert wakes() == (says != "nothing")
    assert not wakes(), "a worker was already called"


@pytest.mark.parametrize("is_connected", [False, True])
def test_a_committed_enqueue_has_called_a_worker_within_two_seconds(
    engine: Engine, is_connected: bool
) -> None:
    """Within two seconds of a committed enqueue, one call invokes a worker, and no more.

    A false claim to have called a worker affects only the person who makes it.
    """
    insert = "insert into jobs (workspace_id, user_id, job_type) values (%s, %s, 'work')"
    requests = "with r as (delete from net.http_request_queue returning 1) select count(*) from r"
    if is_connected:
        create(engine.connection, PG_NET, VAULT)
        url = "https://jobs.example.com/api/jobs/worker"
        engine.rpc("connect_worker", p_url=url, p_token="a-token-of-enough-characters")
    engine.stop_clock()
    chance = random.Random(101)
    called_at = -2.0
    with engine.member(ADA) as browser, engine.member(ADA) as api, engine.member(BOB) as forger:
        for caller in (api, forger):
            caller.run("select set_config('request.headers', %s, false)", json.dumps(API))
        for _ in range(300):
            engine.advance(chance.choice([0, 0.1, 0.5, 1.5]))
            if not is_connected and engine.ahead - called_at >= 2:
                forger.enqueue()
            caller, is_insert = chance.choice([(api, False), (browser, False), (browser, True)])
            is_committed = chance.random() < 0.7
            is_due = round(engine.ahead - called_at, 3) >= 2
            answer = {"wake": False}
            caller.run("begin")
            if is_insert:
                caller.run(insert, ACME, ADA)
            else:
                answer = caller.rpc("enqueue_job", p_workspace_id=ACME, p_job_type="work")
            caller.run("commit" if is_committed else "rollback")

            assert answer["wake"] == (is_due and not is_insert)
            is_called = is_committed and is_due and (caller is api or is_connected)
            if is_called:
                called_at = engine.ahead
            if is_connected:
                assert engine.one(requests) == is_called
    if is_connected:
        drop(engine.connection)
