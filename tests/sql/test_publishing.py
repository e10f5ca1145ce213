# ruff: noqa: E501 - queries stay on one line
"""What is sent to Realtime: one message per topic and statement, and none that nobody can follow."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

import psycopg
import pytest

from minutehand.queue.broadcasts import events_of_message
from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, handle

WORKSPACE, RIVAL = f"workspace:{ACME}", f"workspace:{GLOBEX}"


def messages(engine: Engine, topic: str = "%") -> list[tuple[str, str, Any]]:
    """Topic, event and payload of each message, in the order of sending."""
    return engine.rows(
        "select topic, event, payload from realtime.messages where topic like %s order by id", topic
    )


def told(engine: Engine, topic: str) -> list[tuple[str, int]]:
    """Job and number of every event that was sent to a topic."""
    return [
        (event["job_id"], event["seq"])
        for _, _, payload in messages(engine, topic)
        for event in events_of_message(payload)
    ]


def test_a_job_costs_five_messages_over_its_life(engine: Engine) -> None:
    """The plan's quota is counted in messages; nobody can follow a job before its id is known."""
    engine.enqueue()
    engine.settle(engine.lease_one())

    sent = [(topic.partition(":")[0], event) for topic, event, _ in messages(engine)]
    assert sent == [
        ("workspace", "job.created"),
        ("job", "job.leased"),
        ("workspace", "job.leased"),
        ("job", "job.completed"),
        ("workspace", "job.completed"),
    ]


def test_a_bulk_is_sent_in_few_messages(engine: Engine) -> None:
    """A thousand jobs at once would use up a plan's second ten times over."""
    items = [{"job_type": "work", "payload": {"n": n}} for n in range(500)]
    made = engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items)

    sent = messages(engine)
    assert {event for _, event, _ in sent} == {"job.events"}
    assert len(sent) <= 0.02 * len(items)
    assert len(made["jobs"]) == 500
    log = engine.rows("select job_id::text, seq from public.job_events order by job_id, seq")
    assert told(engine, f"workspace:{ACME}") == log


def sent_events(engine: Engine, topic: str) -> list[Any]:
    """Every event that was sent to a topic; alike ones have the time of the first."""
    return [
        {name: value for name, value in event.items() if name != "at"}
        for _, _, payload in messages(engine, topic)
        for event in events_of_message(payload)
    ]


def log_of(engine: Engine, workspace: Any = ACME) -> list[Any]:
    """The same of a workspace's state changes, from the log."""
    return engine.rows(
        "select jsonb_build_object('job_id', job_id, 'seq', seq, 'type', type, 'data', data)"
        " from public.job_events where workspace_id = %s and type not in ('job.progress', 'job.log')"
        " order by job_id, seq",
        workspace,
    )


@pytest.mark.parametrize("version", [1, 2])
def test_alike_events_are_sent_once_unless_a_client_knows_no_groups(
    engine: Engine, version: int
) -> None:
    """A message is mostly ids then; clients of before get each event whole, as they know it."""
    with engine.member(ADA) as ada:
        ada.rpc("follow_topic", p_topic=WORKSPACE, p_follower_id=uuid.uuid4(), p_version=version)
    engine.enqueue_many(3)
    engine.settle_all([{**handle(each), "outcome": "completed"} for each in engine.lease(limit=2)])
    mixed = [{"job_type": "work"}, {"job_type": "work", "session_id": "s"}]
    made = engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=mixed, p_return="ids")

    assert told(engine, "session:s") == [(made["ids"][1], 1)]
    assert [event for _, event, _ in messages(engine, "session:s")] == ["job.created"]
    [(_, _, created)] = messages(engine, WORKSPACE)[:1]
    if version == 1:
        assert set(created) == {"events"}
        assert [set(event) for event in created["events"]] == [
            {"job_id", "seq", "type", "data", "at"}
        ] * 3
    else:
        [group] = created["groups"]
        assert set(group) == {"type", "data", "at", "job_ids", "seqs"}
        assert (len(group["job_ids"]), group["seqs"]) == (3, [1])
    assert sorted(sent_events(engine, WORKSPACE), key=lambda e: (e["job_id"], e["seq"])) == log_of(
        engine
    )


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("sessions", [(None, None), ("s", "s"), ("s", None)])
def test_an_end_and_the_next_lease_are_one_message(
    engine: Engine, version: int, sessions: tuple[str | None, str | None]
) -> None:
    """They come in one call; of whatever sessions, what is sent is what the log says."""
    with engine.member(ADA) as ada:
        ada.rpc("follow_topic", p_topic=WORKSPACE, p_follower_id=uuid.uuid4(), p_version=version)
    ids = [str(engine.enqueue(session_id=session)) for session in sessions]
    ended = handle(engine.lease_one(limit=1))
    engine.run("delete from realtime.messages")

    lease = {"worker_id": "w1", "tick_id": str(uuid.uuid4()), "call": 2, "limit": 1}
    items = [{**ended, "outcome": "completed"}]
    engine.rpc("settle_jobs", p_request={"items": items, "lease": lease})

    events = [(ids[0], 3), (ids[1], 2)]
    [(_, kind, _)] = messages(engine, WORKSPACE)
    assert kind == "job.events"
    assert told(engine, WORKSPACE) == events
    assert sent_events(engine, WORKSPACE) == [
        e for e in log_of(engine) if (e["job_id"], e["seq"]) in events
    ]
    assert told(engine, "job:%") == events
    assert told(engine, "session:s") == events[: sum(s is not None for s in sessions)]


@pytest.mark.parametrize("count", [1, 2])
def test_workspaces_of_one_statement_share_nothing(engine: Engine, count: int) -> None:
    """What one tenant's events say must not travel with another's."""
    for workspace in (ACME, GLOBEX):
        engine.enqueue_many(count, workspace=workspace)
    engine.run("delete from realtime.messages")
    engine.run(
        "insert into queue.job_events (job_id, seq, workspace_id, type, data)"
        " select id, 2, workspace_id, 'job.noted', jsonb_build_object('of', workspace_id) from public.jobs"
    )
    engine.run("update public.jobs set last_seq = 2")

    for workspace, other in ((ACME, GLOBEX), (GLOBEX, ACME)):
        topic = f"workspace:{workspace}"
        assert [event["data"] for event in sent_events(engine, topic)] == [
            {"of": workspace}
        ] * count
        assert other not in str(messages(engine, topic))


def test_a_single_event_keeps_its_own_form(engine: Engine) -> None:
    """What listens for a type by the broadcast's name goes on working."""
    job_id = engine.enqueue()

    [(topic, event, payload)] = messages(engine)
    assert (topic, event) == (f"workspace:{ACME}", "job.created")
    assert set(payload) == {"job_id", "seq", "type", "data", "at"}
    assert (payload["job_id"], payload["seq"]) == (str(job_id), 1)


@pytest.mark.parametrize("count", [1, 2])
def test_a_sessions_listeners_get_no_log_lines(engine: Engine, count: int) -> None:
    """A guest may be one of them; who follows the job gets them."""
    job_id = engine.enqueue(session_id="s")
    line = {"level": "info", "message": "for members"}
    engine.report(engine.lease_one(), logs=[line] * count)

    heard = {topic for topic, _, payload in messages(engine) if "for members" in str(payload)}
    assert heard == {f"job:{job_id}"}
    assert told(engine, "session:s") == [(job_id, 1), (job_id, 2)]


def test_ten_thousand_events_of_a_statement_arrive_whole_and_in_order(engine: Engine) -> None:
    """Each message stays below what the smallest plan takes, and none is missing between two."""
    job_id = engine.enqueue()
    engine.run("delete from realtime.messages")
    engine.run(
        "insert into queue.job_events (job_id, seq, workspace_id, type, data, created_at)"
        " select %s, n + 1, %s, 'job.log', jsonb_build_object('message', repeat('x', 100 + n %% 50)), now()"
        " from generate_series(1, 10000) as n order by n desc",
        job_id,
        ACME,
    )

    engine.run("update public.jobs set last_seq = 10001 where id = %s", job_id)

    sent = messages(engine)
    assert told(engine, f"job:{job_id}") == [(str(job_id), n + 1) for n in range(1, 10_001)]
    assert 1 < len(sent) < 100
    largest = engine.one("select max(octet_length(payload::text)) from realtime.messages")
    assert largest < 256_000


# --- What a type sends ---


def topics_of(engine: Engine) -> list[str]:
    """The kinds of topics that were sent to."""
    return sorted({topic.partition(":")[0] for topic, _, _ in messages(engine)})


@pytest.mark.parametrize(("live", "kinds"), [("states", ["workspace"]), ("off", [])])
def test_a_type_says_what_it_sends(engine: Engine, live: str, kinds: list[str]) -> None:
    """Masses of jobs that nobody watches one by one need not cost a message each."""
    engine.register("work", live=live)
    engine.enqueue()
    engine.settle(engine.lease_one())

    assert topics_of(engine) == kinds
    assert follow(engine, WORKSPACE)["quiet"] is (live == "off")


def test_types_of_one_statement_keep_their_own_ways(engine: Engine) -> None:
    """A batch mixes types; a silent one must not silence its neighbours."""
    engine.register("silent", live="off")
    engine.register("brief", live="states")
    items = [{"job_type": name} for name in ("work", "silent", "work", "brief")]
    made = engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=items)

    engine.lease()

    ids = [one["job"]["id"] for one in made["jobs"]]
    assert {job_id for job_id, _ in told(engine, WORKSPACE)} == {ids[0], ids[2], ids[3]}
    assert {job_id for job_id, _ in told(engine, "job:%")} == {ids[0], ids[2]}


def test_a_topic_that_stays_silent_is_not_joined(engine: Engine) -> None:
    """Refused, a client polls; joined, it would believe that nothing happens."""
    job_id = engine.enqueue()
    follow(engine, f"job:{job_id}")

    engine.register("work", live="states")

    with pytest.raises(psycopg.Error) as refused:
        follow(engine, f"job:{job_id}")
    assert refused.value.sqlstate == "PT404"


# --- The budget ---

SECOND = """
create or replace function queue.message_second() returns bigint language sql volatile set search_path = ''
as $$ select {second}::bigint $$
"""


def at_second(engine: Engine, second: int) -> None:
    """Stop the clock of the budget."""
    engine.run(SECOND.format(second=1_800_000_000 + second))


def counted(engine: Engine) -> int:
    """Messages as the budget counts them."""
    return int(
        engine.one("select coalesce(pg_sequence_last_value('queue.messages_counted'), 0)") or 0
    )


def cost(engine: Engine) -> int:
    """The same by what was sent: each message, and each delivery that is to be expected."""
    return int(
        engine.one(
            "select coalesce(sum(1 + coalesce(a.receivers, 1)), 0) from realtime.messages m"
            " left join queue.audiences a using (topic)"
        )
    )


def set_budget(engine: Engine, value: int | str) -> None:
    """Set what may be sent in a second."""
    engine.rpc("set_settings", p_settings={"realtime_messages_per_second": value})


def follow(engine: Engine, topic: str) -> dict[str, Any]:
    """Follow a topic by one more client."""
    with engine.member(ADA) as ada:
        answer = ada.rpc("follow_topic", p_topic=topic, p_follower_id=uuid.uuid4())
    return dict(answer)


def test_no_five_seconds_exceed_the_budget(engine: Engine) -> None:
    """Hosted Realtime shuts down every channel of a project that does."""
    set_budget(engine, 20)
    spent = []
    for second in range(12):
        at_second(engine, second)
        before = cost(engine)
        engine.enqueue_many(20)
        for lease in engine.lease(20):
            engine.settle(lease)
        spent.append(cost(engine) - before)

    windows = [sum(spent[start : start + 6]) for start in range(7)]
    assert max(windows) <= 6 * 20  # any five seconds lie within six whole ones
    assert min(windows) > 0
    assert counted(engine) >= cost(engine)


def test_the_budget_looks_back_over_six_seconds(engine: Engine) -> None:
    """Also where the part of the second that a mark has room for begins again at nought."""
    for second in range(14):
        at_second(engine, 404_985 + second)
        send(engine, ACME)
        seen = "select base, opened from queue.open_second(queue.message_second(), false)"
        assert engine.one(seen) == (2 * max(0, second - 5), False)


def test_progress_and_logs_are_held_back_before_states(engine: Engine) -> None:
    """A missed percentage is made up for by the next; an end is waited for."""
    set_budget(engine, 20)
    at_second(engine, 0)
    job_id = engine.enqueue()
    lease = engine.lease_one()
    for percentage in range(60):
        engine.report(lease, progress={"percentage": percentage})
    progress = [event for _, event, _ in messages(engine, f"job:{job_id}")].count("job.progress")
    engine.settle(lease)

    assert 0 < progress < 60
    assert [event for _, event, _ in messages(engine, f"job:{job_id}")][-1] == "job.completed"


def test_jobs_without_watchers_hold_back_nothing_that_is_watched(engine: Engine) -> None:
    """Another tenant's backlog that no one follows leaves room for the events of those who watch."""
    set_budget(engine, 20)
    at_second(engine, 0)
    for _ in range(60):
        engine.enqueue(workspace=GLOBEX)
    follow(engine, WORKSPACE)
    held = engine.one("select count(*) from queue.held_topics where topic = %s", RIVAL)

    job_id = engine.enqueue()
    engine.enqueue(workspace=GLOBEX)

    assert held > 0
    assert told(engine, WORKSPACE) == [(job_id, 1)]
    assert engine.one("select count(*) from queue.held_topics where topic = %s", WORKSPACE) == 0
    assert engine.one("select count(*) from queue.held_topics where topic = %s", RIVAL) > held


@pytest.mark.parametrize("count", [1, 3])
def test_a_sessions_topic_has_its_first_workspaces_jobs_alone(engine: Engine, count: int) -> None:
    """Another tenant that uses the same id tells its listeners nothing."""
    job_id = engine.enqueue(session_id="s")

    engine.enqueue_many(count, workspace=GLOBEX, session_id="s")

    assert told(engine, "session:s") == [(job_id, 1)]
    assert len(told(engine, RIVAL)) == count


def test_a_strangers_job_makes_no_one_look_again(engine: Engine) -> None:
    """A session is its first workspace's, also while messages are held back."""
    engine.enqueue(session_id="s")
    at_second(engine, 0)
    engine.run("select queue.message_window()")
    count = "select queue.count_up('queue.messages_counted', 10000)"
    assert engine.one(count) == counted(engine)

    engine.enqueue(workspace=GLOBEX, session_id="s")

    held = "select distinct topic from queue.held_topics order by 1"
    assert engine.rows(held) == [RIVAL]
    engine.enqueue(session_id="s")
    assert engine.rows(held) == sorted(["session:s", WORKSPACE, RIVAL])


def test_a_followed_jobs_events_are_sent_where_others_have_no_room(engine: Engine) -> None:
    """What nobody follows is not even built then, and still counts as held back."""
    set_budget(engine, 20)
    at_second(engine, 0)
    jobs = engine.enqueue_many(3)
    follow(engine, f"job:{jobs[1]}")
    while engine.one("select queue.room_for_unfollowed(queue.message_window())") >= 4:
        send(engine, str(uuid.uuid4()))
    before = engine.one("select coalesce(pg_sequence_last_value('queue.messages_held'), 0)")

    leases = {lease["job"]["id"] for lease in engine.lease(50)}

    assert set(jobs) <= set(leases)
    sent = [topic for topic, _, _ in messages(engine, "job:%")]
    assert sent == [f"job:{jobs[1]}"]
    # the other jobs' own messages, and that of the workspace
    held = engine.one("select pg_sequence_last_value('queue.messages_held')") - before
    assert held == len(leases) - 1 + 1


def test_what_was_held_back_is_announced_by_the_next_statement(engine: Engine) -> None:
    """No watcher stays behind: each is told to look again, once a second."""
    set_budget(engine, 6)
    at_second(engine, 0)
    for _ in range(30):
        engine.enqueue()
    assert engine.one("select count(*) from queue.held_topics where topic = %s", WORKSPACE) > 0
    assert "job.look_again" not in [event for _, event, _ in messages(engine)]

    at_second(engine, 1)
    engine.enqueue()
    at_second(engine, 2)
    engine.enqueue()

    looks = [payload for topic, event, payload in messages(engine) if event == "job.look_again"]
    assert 1 <= len(looks) <= 2
    assert looks[0]["look_again"] is True
    assert set(looks[0]) == {"look_again", "since", "at"}


@pytest.mark.parametrize(("budget", "second"), [(6, 1), (1, 7)])
def test_what_was_held_back_is_announced_by_maintenance(
    engine: Engine, budget: int, second: int
) -> None:
    """After the last job of a burst no statement follows that could do it."""
    set_budget(engine, budget)
    at_second(engine, 0)
    for _ in range(30):
        engine.enqueue()
    at_second(engine, second)

    assert engine.maintain()["messages"] == 1

    assert [event for _, event, _ in messages(engine)][-1] == "job.look_again"
    assert engine.one("select count(*) from queue.held_topics") == 0


def test_followers_count_as_messages(engine: Engine) -> None:
    """A plan counts each delivery: a hundred watchers cost a hundred times as much."""
    set_budget(engine, 20)
    at_second(engine, 0)
    for _ in range(9):
        answer = follow(engine, WORKSPACE)
    assert answer == {"receivers": 9, "again_seconds": 60, "check_seconds": 0.18, "quiet": False}

    for _ in range(60):
        engine.enqueue()

    sent = messages(engine, WORKSPACE)
    assert len(sent) == counted(engine) / 10
    assert 0 < counted(engine) <= 120


def test_a_followed_job_is_announced_and_others_are_not(engine: Engine) -> None:
    """Telling the topics of a hundred thousand jobs would use up what was saved."""
    set_budget(engine, 1)
    at_second(engine, 0)
    watched, other = engine.enqueue_many(2)
    follow(engine, f"job:{watched}")
    for lease in engine.lease(2):
        engine.settle(lease)

    held = engine.rows("select distinct topic from queue.held_topics where topic like 'job:%%'")
    assert held == [f"job:{watched}"]
    assert other


def test_followers_are_forgotten(engine: Engine) -> None:
    """A page that was closed says nothing, and costs nothing any more."""
    for _ in range(3):
        follow(engine, WORKSPACE)
    engine.run("update queue.followers set seen_at = now() - interval '1 minute'")
    age = (
        "update queue.followers set seen_at = now() - interval '3 minutes' where follower_id = any"
        " (array(select follower_id from queue.followers order by 1 limit %s))"
    )
    for gone, comes, left in ((1, False, 2), (2, True, 1), (1, False, 0)):
        engine.run(age, gone)
        if comes:
            assert follow(engine, WORKSPACE)["receivers"] == 1

        engine.run("select queue.forget_followers()")

        assert engine.one("select count(*) from queue.followers") == left
        assert engine.rows("select receivers from queue.audiences") == [left] * bool(left)


def test_a_client_that_says_again_that_it_follows_is_not_forgotten(engine: Engine) -> None:
    """Every minute, as it was asked to; it stays one receiver."""
    again = {"p_topic": WORKSPACE, "p_follower_id": uuid.uuid4()}
    with engine.member(ADA) as ada:
        ada.rpc("follow_topic", **again)
        for _ in range(19):  # as many as one person may have of a topic
            ada.rpc("follow_topic", p_topic=WORKSPACE, p_follower_id=uuid.uuid4())
        engine.run("update queue.followers set seen_at = now() - interval '3 minutes'")
        assert ada.rpc("follow_topic", **again, p_version=2)["receivers"] == 1
    engine.run("select queue.forget_followers()")

    assert engine.rows("select receivers from queue.audiences") == [1]
    assert engine.rows("select version from queue.followers") == [2]


BROKEN = "alter table realtime.messages add constraint broken check (false) not valid"


@pytest.mark.parametrize("count", [1, 3])
def test_what_cannot_be_sent_does_not_fail_the_job(engine: Engine, count: int) -> None:
    """Clients read the log; Realtime may be away, or another version."""
    with engine.connection.transaction(force_rollback=True):
        engine.run(BROKEN)
        ids = engine.enqueue_many(count)
        assert [engine.events(job_id) for job_id in ids] == [["job.created"]] * count


def test_a_stranger_cannot_follow(engine: Engine) -> None:
    """Nor learn whether the topic exists, unless a guest session is for them."""
    job_id = engine.enqueue(session_id="s")
    sessions = ("session:s", f"session:guest_{'0' * 64}")
    for topic in (f"job:{job_id}", f"job:{uuid.uuid4()}", WORKSPACE, "anything", *sessions):
        with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as refused:
            eve.rpc("follow_topic", p_topic=topic, p_follower_id=uuid.uuid4())
        assert refused.value.sqlstate == "PT404"
    session = engine.rpc("open_guest_session", p_workspace_id=ACME, p_options={"user_id": EVE})
    with engine.member(EVE) as eve:
        topic = f"session:{session['session_id']}"
        eve.rpc("follow_topic", p_topic=topic, p_follower_id=uuid.uuid4())


def test_one_transaction_cannot_send_more_than_a_quarter(engine: Engine) -> None:
    """It is counted when it is sent, and Realtime counts when it commits."""
    set_budget(engine, 20)
    at_second(engine, 0)
    with engine.connection.transaction():
        for second in range(30):
            at_second(engine, second)
            for _ in range(10):
                engine.enqueue()

    assert cost(engine) <= 30


def test_a_message_rolled_back_leaves_nothing_behind(engine: Engine) -> None:
    """What was not sent is not announced either."""
    set_budget(engine, 2)
    at_second(engine, 0)
    with contextlib.suppress(psycopg.Rollback), engine.connection.transaction():
        for _ in range(10):
            engine.enqueue()
        raise psycopg.Rollback

    assert engine.one("select count(*) from queue.held_topics") == 0
    assert messages(engine) == []


SEND = """
create or replace function pg_temp.send(p_workspace uuid, p_minor boolean) returns boolean language plpgsql as $$
declare
  v_held bigint := coalesce(pg_sequence_last_value('queue.messages_held'), 0);
begin
  perform queue.send_messages(array['workspace:' || p_workspace], array[p_workspace], array['e'], array['{}'::jsonb], array[p_minor]);
  return v_held = coalesce(pg_sequence_last_value('queue.messages_held'), 0);
end $$
"""


def send(engine: Engine, workspace: str, count: int = 1, *, minor: bool = False) -> list[bool]:
    """Send so many messages of a workspace, a transaction each; which of them went."""
    engine.run(SEND)
    return [engine.one("select pg_temp.send(%s, %s)", workspace, minor) for _ in range(count)]


@pytest.mark.parametrize("minor", [False, True])
def test_a_rival_leaves_room_for_one_that_was_quiet(engine: Engine, minor: bool) -> None:
    """First come would be first served, second after second; a fifth stays for those who come."""
    set_budget(engine, 60)
    heard, rivals = [], 0
    for second in range(18):
        at_second(engine, second)
        rivals += sum(send(engine, GLOBEX, 40, minor=minor))
        if second % 5 == 4:
            heard += send(engine, ACME, 5, minor=minor)

    assert all(heard)
    assert rivals * 2 > 18 * 60 / (4 if minor else 3)


def test_alone_a_workspace_has_four_fifths_of_the_room(engine: Engine) -> None:
    """What it leaves is what another finds that comes this second."""
    set_budget(engine, 100)
    follow(engine, WORKSPACE)
    with engine.member(EVE) as eve:
        eve.rpc("follow_topic", p_topic=RIVAL, p_follower_id=uuid.uuid4())
    at_second(engine, 0)

    alone = sum(send(engine, ACME, 300))

    assert alone * 2 == pytest.approx(0.8 * 450, abs=2)
    assert sum(send(engine, GLOBEX, 10)) == 10


def test_several_rivals_share_what_one_had(engine: Engine) -> None:
    """Four ninths each: whoever began first gives way as its messages grow old."""
    set_budget(engine, 60)
    workspaces = [str(uuid.UUID(int=n)) for n in range(1, 4)]
    went = dict.fromkeys(workspaces, 0)
    for second in range(30):
        at_second(engine, second)
        for workspace in workspaces:
            count = sum(send(engine, workspace, 20))
            went[workspace] += count if second >= 12 else 0

    assert min(went.values()) >= max(went.values()) / 3
    assert send(engine, ACME, 2) == [True] * 2


def test_what_rivals_send_at_once_is_seen_before_they_commit(engine: Engine) -> None:
    """Else a dozen connections would take a dozen shares."""
    set_budget(engine, 100)
    at_second(engine, 0)
    statement = (
        "select queue.send_messages(array['workspace:x'], array[%s::uuid], array['e'], array['{}'::jsonb], array[false])"
        " from generate_series(1, 60)"
    )
    connections = [engine.database.connect(autocommit=False) for _ in range(8)]
    for connection in connections:
        connection.execute(statement, (GLOBEX,))

    assert counted(engine) <= 0.8 * 375 + 2
    assert send(engine, ACME, 10) == [True] * 10
    for connection in connections:
        connection.rollback()
        connection.close()


def test_what_a_workspace_sent_counts_for_six_seconds_at_least(engine: Engine) -> None:
    """As long as the budget looks back: else it takes its share of it twice."""
    at_second(engine, 2)
    send(engine, ACME, 3)
    used = []
    for second in (2, 8, 9):
        at_second(engine, second)
        used.append(engine.one("select queue.share_used(%s)", ACME))

    assert used == [6, 6, 0]


def test_in_one_statement_only_the_rivals_messages_are_held_back(engine: Engine) -> None:
    """A worker reports for many tenants at once."""
    set_budget(engine, 100)
    at_second(engine, 0)
    statement = (
        "select queue.send_messages(array_agg('workspace:' || w order by n), array_agg(w order by n), array_agg('e'::text),"
        " array_agg('{}'::jsonb), array_agg(false)) from (select n, case when n %% 10 = 0 then %s else %s end::uuid as w"
        " from generate_series(1, %s) as n) as s"
    )
    engine.run(statement, ACME, GLOBEX, 10)
    used = [engine.one("select queue.share_used(%s)", one) for one in (ACME, GLOBEX)]
    assert used == [2, 18]
    send(engine, GLOBEX, 200)
    engine.run("delete from realtime.messages")

    engine.run(statement, ACME, GLOBEX, 100)

    assert {topic for topic, _, _ in messages(engine)} == {WORKSPACE}
    assert len(messages(engine)) == 10


@pytest.mark.parametrize(("more", "fits"), [(28, True), (29, False)])
def test_announcements_have_a_quarter_that_states_leave_to_them(
    engine: Engine, more: int, fits: bool
) -> None:
    """Else those whose messages were held back would not look again while the load lasts."""
    set_budget(engine, 20)
    at_second(engine, 0)
    engine.one("select queue.message_window()")
    engine.one("select queue.count_up('queue.messages_counted', 90)")
    engine.enqueue()
    assert "job.look_again" not in [event for _, event, _ in messages(engine)]

    engine.one("select queue.count_up('queue.messages_counted', %s)", more)
    at_second(engine, 1)
    engine.one("select queue.message_window()")

    assert ("job.look_again" in [event for _, event, _ in messages(engine)]) is fits


def test_states_come_before_progress_of_another_workspace(engine: Engine) -> None:
    """Whoever was first."""
    chosen = "select goes, cost from queue.choose_messages('{a,b}', %s::uuid[], %s, 2, 99, 99)"
    for minor in ([True, False], [False, True]):
        goes = [not each for each in minor]
        assert engine.one(chosen, [ACME, GLOBEX], minor) == (goes, 2)


def test_announcements_take_turns(engine: Engine) -> None:
    """A rival's thousand topics, held back first, are not all announced before another's one.

    A second takes a third of the quarter that is theirs, 10 of 120: five for one follower each.
    """
    set_budget(engine, 20)
    at_second(engine, 0)
    for workspace, count in ((GLOBEX, 1000), (ACME, 1)):
        engine.run(
            "select queue.hold_topics(array_agg(format('session:%%s-%%s', %s::text, n)), array_agg(%s::uuid), 1) from generate_series(1, %s) as n",
            *(workspace, workspace, count),
        )
    at_second(engine, 1)

    engine.maintain()

    looked = [topic for topic, event, _ in messages(engine) if event == "job.look_again"]
    assert f"session:{ACME}-1" in looked
    assert len(looked) == 5
    assert engine.one("select count(*) from queue.held_topics") == 1001 - 5
    assert counted(engine) == cost(engine)


def test_one_persons_followers_are_bounded_over_all_topics(engine: Engine) -> None:
    """Each costs a message of the budget, and is only a claim."""
    engine.rpc(
        "enqueue_jobs",
        p_workspace_id=ACME,
        p_jobs=[{"job_type": "work", "session_id": f"s{n}"} for n in range(12)],
    )
    for n in range(12):
        for _ in range(21):
            answer = follow(engine, f"session:s{n}")
        assert answer["receivers"] == (20 if n < 5 else 0)

    assert engine.one("select count(*) from queue.followers") == 100
    assert engine.one("select sum(receivers) from queue.audiences") == 100
    assert answer["receivers"] == 0
    with engine.member(BOB) as bob:
        told_bob = bob.rpc("follow_topic", p_topic="session:s0", p_follower_id=uuid.uuid4())
    assert told_bob["receivers"] == 21


def test_many_connections_share_one_budget(engine: Engine) -> None:
    """Each sees at once what the others have taken, committed or not."""
    set_budget(engine, 50)
    at_second(engine, 0)
    statement = (
        "select queue.send_messages(array['workspace:x'], array[queue.new_id()], array['e'], array['{}'::jsonb], array[false])"
        " from generate_series(1, 40)"
    )
    connections = [engine.database.connect(autocommit=False) for _ in range(6)]
    for connection in connections:
        connection.execute(statement)
    for connection in connections:
        connection.commit()
        connection.close()

    assert 0 < cost(engine) <= 6 * 50 * 3 / 4


@pytest.mark.parametrize("value", ["team", 0, 1.5, True, None, {"a": 1}])
def test_the_setting_is_a_plan_or_a_number(engine: Engine, value: Any) -> None:
    """A typing error must not silence a project."""
    with pytest.raises(psycopg.Error) as refused:
        engine.rpc("set_settings", p_settings={"realtime_messages_per_second": value})
    assert refused.value.sqlstate == "PT400"


def test_plans_have_words(engine: Engine) -> None:
    """A fifth below what they allow."""
    assert engine.one("select queue.message_budget()") == 400
    set_budget(engine, "free")
    assert engine.one("select queue.message_budget()") == 80


def test_operators_see_the_numbers(engine: Engine) -> None:
    """The rate, what was held back, and what a month of it would be."""
    set_budget(engine, 6)
    at_second(engine, 0)
    engine.enqueue()
    before = counted(engine)
    engine.run("select queue.note_messages(now())")
    at_second(engine, 7)
    for _ in range(30):
        engine.enqueue()
    engine.run("select queue.note_messages(now())")
    assert engine.one("select max(counted) from queue.message_minutes") == counted(engine)

    numbers = engine.rpc("queue_health")["messages"]
    assert numbers["budget_per_second"] == 6
    assert numbers["setting"] == 6
    assert numbers["last_hour"] == counted(engine)
    held = "select pg_sequence_last_value('queue.messages_held')"
    assert numbers["held_last_hour"] == engine.one(held) > 0
    assert numbers["held_topics"] == engine.one("select count(*) from queue.held_topics") > 0
    assert numbers["per_second"] == round((counted(engine) - before) / 6, 1)
    assert engine.rpc("queue_stats")["messages"]["budget_per_second"] == 6


def test_the_numbers_of_a_day_leave_out_what_was_before(engine: Engine) -> None:
    """Counts only rise; a month is judged by the last day alone, and a crash starts them again."""
    engine.stop_clock()
    engine.run(
        "insert into queue.message_minutes (minute, counted, held) select queue.clock() - ago, counted, held from (values"
        " (interval '4 days', 800000, 60), ('3 days', 900000, 70), ('3 hours', 1000000, 90),"
        " ('2 hours', 5, 2), ('30 minutes', 45, 9)) as v (ago, counted, held)"  # five after a crash
    )

    numbers = engine.rpc("queue_health")["messages"]
    assert (numbers["last_day"], numbers["held_last_day"]) == (100_000 + 5 + 40, 20 + 2 + 7)
    assert (numbers["last_hour"], numbers["held_last_hour"]) == (40, 7)
    # three hours are known; the price is that above the plan's five million
    assert (numbers["month"], numbers["month_usd"]) == (100_045 * 8 * 30, 47.53)


def test_fifty_streamed_replies_stay_within_the_budget(engine: Engine) -> None:
    """Each answer tells its progress four times a second, to its job and to its session."""
    set_budget(engine, "free")
    at_second(engine, 0)
    for number in range(50):
        engine.enqueue(session_id=f"chat-{number}")
    leases = engine.lease(50)
    follow(engine, "session:chat-0")
    spent = []
    for second in range(1, 13):
        at_second(engine, second)
        before = cost(engine)
        for quarter in range(4):
            engine.report_all(
                [
                    {**handle(lease), "progress": {"percentage": second * 4 + quarter}}
                    for lease in leases
                ]
            )
        spent.append(cost(engine) - before)
    for second in (20, 26):  # a burst is followed by calm, in which everybody is told
        at_second(engine, second)
        engine.maintain()

    assert max(sum(spent[start : start + 6]) for start in range(7)) <= 6 * 80
    [last] = [event for _, event, _ in messages(engine, "session:chat-0")][-1:]
    assert last == "job.look_again"
