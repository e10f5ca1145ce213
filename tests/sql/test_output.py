"""A job's output: text that a processor writes in pieces and that is joined when the job ends."""

import random
import uuid
from datetime import datetime, timedelta
from typing import Any

from tests.contract.observed import messages
from tests.support.engine import ADA, Engine, Json, handle, piece


def said(engine: Engine, job_id: str, stream: str = "reply", start: int = 0) -> Json:
    return engine.rpc("job_output", p_job_id=job_id, p_stream=stream, p_from=start)


def test_pieces_are_read_from_any_character_and_change_nothing_of_the_job(engine: Engine) -> None:
    """A reader gets a job's output from any offset, counted in code points.

    Output changes neither the job's row nor its events.
    """
    job_id, lease = engine.start()
    before = engine.one("select xmin::text || ctid from jobs where id = %s", job_id)

    assert engine.say(lease, piece("Grüße 🌍,"), piece(" Welt", 8)) == "unfollowed"

    row = engine.one("select xmin::text || ctid from jobs where id = %s", job_id)
    assert (row, engine.events(job_id)) == (before, ["job.created", "job.leased"])
    whole = "Grüße 🌍, Welt"
    for start in range(len(whole) + 1):
        page = said(engine, job_id, start=start)
        assert (page["from"], page["next"], page["more"]) == (start, len(whole), False)
        assert page.get("text", "") == whole[start:]
    assert said(engine, job_id, start=99)["next"] == len(whole)
    row = engine.get(job_id)
    assert row["streams"] == {"reply": {"attempt": 1, "next": len(whole)}}
    assert said(engine, job_id, "other")["attempt"] == 0


def test_a_report_that_is_repeated_with_more_adds_the_rest_alone(engine: Engine) -> None:
    """A repeated report of output, to which the worker has added more, stores only the new part."""
    job_id, lease = engine.start()
    engine.say(lease, piece("Hello"))
    for _ in range(2):
        assert engine.say(lease, piece("Hello, wor"), piece("ld", 10)) == "unfollowed"
    assert said(engine, job_id)["text"] == "Hello, world"
    assert engine.say(lease, piece("later", 20)) == "refused"  # a piece after a gap is rejected
    items = {"stream": "facts", "attempt": 1}
    engine.say(lease, {**items, "start": 0, "items": [1, [2]]})
    engine.say(lease, {**items, "start": 0, "items": [1, [2], {"three": None}]})
    assert said(engine, job_id, "facts", 1)["items"] == [[2], {"three": None}]


def test_a_lost_lease_writes_nothing_and_a_new_attempt_begins_again(engine: Engine) -> None:
    """A worker with a lost lease writes no output.

    A new attempt begins with the output of the finished steps only.
    """
    job_id, zombie = engine.start()
    engine.say(zombie, piece("plan.", step="plan"), piece("half a sen", 5))
    engine.report(zombie, steps=[{"name": "plan", "result": 1}])
    engine.advance(61)
    heir = engine.lease_one()

    held = {**handle(heir), "stream": "reply"}
    kept = engine.rpc("read_output", p_request=held)
    assert kept == {"attempt": 1, "kept": {"plan": {"text": "plan.", "items": None}}}
    [late] = engine.report_all([{**held, "fence": 1, "output": [piece("tence", 15)]}])
    assert late["outcome"] == "lost"
    engine.say(heir, piece("", attempt=2))
    assert said(engine, job_id) | {"attempt": 2, "next": 0} == said(engine, job_id)
    engine.say(heir, piece("plan.", attempt=2, step="plan"), piece("whole", 5, attempt=2))
    assert engine.say(heir, piece("old", 5)) == "unfollowed"  # from the previous attempt
    assert said(engine, job_id)["text"] == "plan.whole"
    assert engine.rpc("read_output", p_request=held)["kept"] == kept["kept"]


def test_who_knows_a_part_of_each_stream_reads_the_rest(engine: Engine) -> None:
    """A reader that sends its position in each stream gets only the rest of each stream.

    A position without an attempt is a position in the current attempt.
    """
    job_id, lease = engine.start()
    pieces = [piece(f"{name} said", stream=name) for name in ("a", "b", "c")]
    engine.say(lease, *pieces, piece("again", attempt=2, stream="c"))

    def rest(**after: Any) -> dict[str, tuple[int, str]]:
        found = engine.rpc("job_output", p_job_id=job_id, p_after=after)["streams"]
        return {each["stream"]: (each["from"], each.get("text", "")) for each in found}

    known = {"attempt": 1, "next": 6}
    assert rest() == {"a": (0, "a said"), "b": (0, "b said"), "c": (0, "again")}
    assert rest(a=known, b=known, c=known) == {"c": (0, "again")}
    assert rest(a={"next": 2}, b={"next": 9}, c={"attempt": 2, "next": 5}) == {
        "a": (2, "said"),
        "b": (6, ""),
    }


def test_a_long_stream_is_read_in_pages(engine: Engine) -> None:
    job_id, lease = engine.start()
    whole = "".join(random.Random(7).choices("aä€🌍", k=70_000))
    engine.say(lease, *[piece(whole[n : n + 35], n) for n in range(0, 70_000, 35)])
    for _ in range(2):  # first as pieces, then joined at the job's end
        text = ""
        while (page := said(engine, job_id, start=len(text)))["more"]:
            text += page["text"]
        assert text + page["text"] == whole
        engine.settle(lease)
        engine.elapse(61)


def test_of_a_job_that_ended_each_stream_is_one_row_as_long_as_the_job(engine: Engine) -> None:
    job_id, running = engine.enqueue(), engine.enqueue()
    leases = {lease["job"]["id"]: lease for lease in engine.lease()}
    for each in leases.values():
        engine.say(each, *[piece("x" * 9, 9 * n) for n in range(9)])
        engine.say(each, {"stream": "facts", "attempt": 1, "start": 0, "items": [1]})
    more = piece("the end", 81)  # the settlement adds a last piece
    engine.settle(leases[job_id], output=[more])
    engine.elapse(61)

    assert engine.rows("select distinct job_id::text from queue.pieces") == [running]
    kept = "select stream, end_offset from queue.outputs where job_id = %s order by 1"
    assert engine.rows(kept, job_id) == [("facts", 1), ("reply", 88)]
    assert said(engine, job_id)["text"] == "x" * 81 + "the end"
    assert said(engine, job_id)["status"] == "completed"
    engine.run("delete from jobs")
    assert engine.count("queue.output") == 0


def test_a_stream_has_the_times_of_its_first_and_its_last_output(engine: Engine) -> None:
    """They remain when the job has ended and maintenance has joined the pieces."""
    job_id, lease = engine.start()
    assert engine.rpc("job_trace", p_job_id=job_id)["jobs"][0]["streams"] is None
    times = []
    for n in range(3):
        engine.say(lease, piece("x", n))
        times.append(engine.now())
        engine.advance(10)
    for _ in range(2):
        [stream] = engine.rpc("job_trace", p_job_id=job_id)["jobs"][0]["streams"]
        assert stream["stream"] == "reply"
        for name, at in (("first_at", times[0]), ("last_at", times[2])):
            assert abs(datetime.fromisoformat(stream[name]) - at) < timedelta(seconds=5)
        engine.settle(lease)
        engine.elapse(61)
    assert engine.count("queue.pieces") == 0


def test_a_stream_that_began_before_an_upgrade_has_no_first_time(engine: Engine) -> None:
    """Pieces of 0.5.6 have no times, so the time of a later piece is not that of the first."""
    job_id, lease = engine.start()
    engine.say(lease, piece("x", 0))
    engine.run("update queue.pieces set first_at = null, last_at = null")
    engine.say(lease, piece("x", 1))
    for _ in range(2):
        [stream] = engine.rpc("job_trace", p_job_id=job_id)["jobs"][0]["streams"]
        assert (stream["first_at"], stream["last_at"] is None) == (None, False)
        engine.settle(lease)
        engine.elapse(61)


def test_a_job_that_runs_again_passes_its_finished_steps(engine: Engine) -> None:
    """A retried job keeps the output of all finished steps.

    A replay keeps the output of the steps before its start.
    """
    job_id, lease = engine.start()
    engine.say(lease, piece("a", step="one"), piece("?", 1), piece("b", 2, step="one"))
    engine.say(lease, piece("c", 3, step="two"), piece("d", 4, step="three"), piece("!", 5))
    steps = [{"name": name, "result": name} for name in ("one", "two", "three")]
    engine.settle(lease, "failed", steps=steps)

    def kept(lease: Json) -> dict[str, str]:
        found = engine.rpc("read_output", p_request={**handle(lease), "stream": "reply"})
        assert found["attempt"] == 1
        return {step: each["text"] for step, each in found["kept"].items()}

    for _ in range(2):
        asked = {"p_job_id": job_id, "p_request": {"from_step": "three"}}
        replay = engine.rpc("replay_job", **asked)["job"]["id"]
        assert said(engine, replay)["text"] == "abc"
        heir = engine.lease_one()
        assert kept(heir) == {"one": "ab", "two": "c"}
        engine.settle(heir)
        engine.elapse(61)
    assert said(engine, job_id)["text"] == "a?bcd!"
    assert engine.count("queue.pieces") == 0
    engine.retry(job_id)
    again = engine.lease_one()

    assert kept(again) == {"one": "ab", "two": "c", "three": "d"}
    engine.say(again, *[piece(text, n, attempt=2) for n, text in enumerate("aBc")])
    engine.settle(again)
    engine.elapse(61)
    assert said(engine, job_id)["text"] == "aBc"


def test_followers_get_each_piece_and_beyond_the_budget_are_asked_to_read(
    engine: Engine, ada: Engine
) -> None:
    engine.stop_clock()
    job_id, lease = engine.start()
    follow = {"p_topic": f"job:{job_id}", "p_follower_id": ADA}
    ada.rpc("follow_topic", **follow)
    engine.run("delete from realtime.messages")

    assert engine.say(lease, piece("Hi")) == "followed"
    [(_, event, sent)] = messages(engine, f"job:{job_id}")
    assert event == "job.output"
    assert sent["data"] == {"stream": "reply", "attempt": 1, "from": 0, "next": 2, "text": "Hi"}
    # This piece is too long for a message, so the message contains only its position.
    engine.say(lease, piece("x" * 9000, 2))
    assert messages(engine, f"job:{job_id}")[-1][2]["data"].get("text") is None
    assert messages(engine, "workspace:%") == []

    engine.set(realtime_messages_per_second=1)
    engine.say(lease, piece("!", 9002))
    assert len(messages(engine, f"job:{job_id}")) == 2
    engine.set(realtime_messages_per_second=400)
    engine.elapse(2)
    assert messages(engine, f"job:{job_id}")[-1][1] == "job.look_again"


def test_a_change_that_did_not_see_a_new_follower_moves_the_topics_position(
    engine: Engine, ada: Engine
) -> None:
    """A transaction that began before a client followed may commit after the client's first read.

    It sends the client no message, so the client soon compares the position of the topic again.
    """
    job_id, lease = engine.start()
    follow = {"p_topic": f"job:{job_id}", "p_follower_id": ADA}
    with engine.open_transaction() as writer:
        assert writer.say(lease, piece("Hi")) == "unfollowed"
        first = ada.rpc("follow_topic", **follow)
    second = ada.rpc("follow_topic", **follow)

    assert messages(engine, f"job:{job_id}") == []
    assert first["seq"] != second["seq"]
    assert (first["again_seconds"], second["again_seconds"]) == (2, 60)
    # a client beyond the limit of followers also polls once a minute
    others = [{**follow, "p_follower_id": str(uuid.uuid4())} for _ in range(20)]
    pauses = [ada.rpc("follow_topic", **other)["again_seconds"] for other in others]
    assert pauses == [2] * 19 + [60]


def test_a_job_has_twenty_streams_and_a_maximum_of_bytes(engine: Engine) -> None:
    """A job has at most 20 output streams, and each stream has a maximum number of bytes."""
    job_id, lease = engine.start()
    streams = [piece("x", stream=f"s{n}") for n in range(30)]

    assert engine.say(lease, *streams[:20]) == "unfollowed"
    assert engine.say(lease, *streams) == "refused"

    engine.set(output_max_bytes=25)
    assert engine.say(lease, piece("äö", 1, stream="s7")) == "unfollowed"
    assert engine.say(lease, piece("12", 1, stream="s8")) == "refused"
    assert engine.say(lease, piece("1", 1, stream="s8")) == "unfollowed"
    assert engine.say(lease, piece("!", 3, stream="s7")) == "refused"
    assert engine.say(lease, piece("again", stream="s7", attempt=2)) == "unfollowed"
    assert said(engine, job_id, "s7")["text"] == "again"
    assert len(engine.get(job_id)["streams"]) == 20
    assert len(engine.rpc("job_output", p_job_id=job_id)["streams"]) == 20
