# ruff: noqa: E501 - tables stay on one line
"""Which code serves jobs since when, what failed under it, and how a job fares across a deploy."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.engine import ACME, ADA, EVE, GLOBEX, Engine

#: The commits of two deploys.
OLD, NEW = {"commit": "a" * 40}, {"commit": "b" * 40, "source": "https://github.com/acme/app/src"}


def seen(engine: Engine, commit: dict[str, Any], *, worker: str = "w1", **request: Any) -> None:
    """A run of a worker with this code begins and finds nothing."""
    assert engine.lease(0, worker=worker, version="1.0", origin=commit, **request) == []


def deploys(engine: Engine, *names: str) -> list[tuple[Any, ...]]:
    """The deploys, latest first."""
    listed = engine.rpc("list_deploys", p_workspace_id=ACME)["deploys"]
    return [tuple(one[name] for name in ("commit", *names)) for one in listed]


def fail(engine: Engine, lease: dict[str, Any]) -> None:
    """Let a job fail for good."""
    engine.settle(lease, "failed", error={"type": "Boom", "message": "row 7 is bad"})


def test_a_deploy_is_seen_since_its_first_worker(engine: Engine) -> None:
    """While two overlap neither is new again; one that is gone and comes back is."""
    engine.stop_clock()
    for commit in (OLD, OLD, NEW, *[OLD, NEW] * 6):
        seen(engine, commit, worker=commit["commit"][:1])
        engine.advance(60)
    assert [commit for (commit,) in deploys(engine)] == [NEW["commit"], OLD["commit"]]
    assert deploys(engine, "source")[0] == (NEW["commit"], NEW["source"])

    engine.advance(479)
    seen(engine, OLD)  # ten minutes but a second after it was seen before
    engine.advance(600)
    seen(engine, NEW)
    assert len(deploys(engine)) == 2  # the same code after a night without a worker
    began = deploys(engine, "last_seen_at")[0]
    engine.advance(30)
    seen(engine, NEW)
    assert deploys(engine, "last_seen_at")[0] == began  # not written for each run
    engine.advance(1)
    seen(engine, NEW)
    assert deploys(engine, "last_seen_at")[0] != began
    seen(engine, OLD)  # a roll-back
    assert [commit for (commit,) in deploys(engine)] == [
        OLD["commit"], NEW["commit"], OLD["commit"],
    ]  # fmt: skip


def test_a_deploy_is_replaced_by_one_that_serves_its_types(engine: Engine) -> None:
    """Another service's is beside it: what fails after that is still the first one's."""
    last = {"commit": "c" * 7}
    for commit, types in ((OLD, ["work"]), (NEW, ["bill"]), (last, ["work", "mail"])):
        seen(engine, commit, worker=commit["commit"], job_types=types)
        engine.advance(60)

    (first, began, _), (other, _, none), (old, _, replaced) = deploys(
        engine, "first_seen_at", "replaced_at"
    )
    assert (first, other, old) == (last["commit"], NEW["commit"], OLD["commit"])
    assert (none, replaced) == (None, began)


def test_workers_that_begin_at_once_are_one_deploy(engine: Engine) -> None:
    """Ten functions start after a deploy."""

    def begin(worker: Engine) -> None:
        seen(worker, NEW, worker=str(id(worker)))

    assert engine.race(*[begin] * 4) == [None] * 4
    assert engine.one("select count(*) from queue.deploys") == 1


def test_what_a_worker_says_of_its_code_has_the_form_of_a_commit_and_an_address(
    engine: Engine,
) -> None:
    """Links are made of it, and a worker's key may be stolen."""
    for at, source in enumerate(("javascript:alert(1)", "https://evil.example/?q=", "https://x")):
        seen(engine, {"commit": "<b>", "source": source}, worker=f"w{at}")
    assert engine.one("select array_agg(origin) from queue.workers") == [None] * 3
    assert deploys(engine, "version", "source") == [(None, "1.0", None)]
    engine.advance(1)
    engine.lease(0, worker="w", version="v" * 201)
    version = engine.one("select version from queue.workers where worker_id = 'w'")
    assert version == deploys(engine, "version")[0][1] == "v" * 200
    seen(engine, NEW, worker="w")
    engine.lease(0, worker="w")  # which says nothing of it
    assert engine.one("select origin from queue.workers where worker_id = 'w'") == NEW
    good = {
        "region": "us-gov-east-1", "log_group": "/aws/lambda/x.y-z_#", "log_stream": "2026/[$LATEST]0a",
        "request_id": "a.b:c-d_1", "version": "v" * 512, "commit": "a" * 64,
        "source": "https://git.example:8443/a/b~c",
    }  # fmt: skip
    bad: dict[str, list[Any]] = {
        "region": ["eu", "EU-west-1", "eu-west-100"], "log_group": ["a b", ""], "log_stream": ["a:b", "a*"],
        "request_id": ["a/b"], "version": ["v" * 513, "a\n", 1], "commit": ["a" * 65], "other": ["x"],
        "source": ["https://x", "http://x/a", "https://x/a?b"],
    }  # fmt: skip
    for name, values in {"version": ["v" * 512], **bad}.items():
        for value in values:
            kept = engine.one("select queue.checked_origin(%s)", Jsonb({**good, name: value}))
            assert kept == {k: v for k, v in good.items() if k != name or v == value}, (name, value)


def test_failures_are_counted_since_the_latest_deploy_that_serves_the_type(engine: Engine) -> None:
    """On Failures and on the job: so many since, so many before; another service's is not it."""
    engine.stop_clock()
    engine.enqueue_many(4)
    for lease in engine.lease(3, version="1.0", origin=OLD):
        fail(engine, lease)
    engine.advance(120)
    [last] = engine.lease(1, worker="w2", version="1.0", origin=NEW)
    fail(engine, last)
    engine.advance(60)
    seen(engine, {"commit": "c" * 7}, worker="other", job_types=["bill"])

    with engine.member(ADA) as ada:
        [group] = ada.rpc("dead_letters", p_workspace_id=ACME)["groups"]
        history = ada.rpc("explain_job", p_job_id=last["job"]["id"])["history"]
        [attempt] = ada.rpc("job_attempts", p_job_id=last["job"]["id"])["attempts"]
        series = ada.rpc("queue_series", p_workspace_id=ACME)
        counted = deploys(ada, "failed")
    for found in (group["deploy"], history["deploy"]):
        assert (found["commit"], found["failed_since"], found["failed_before"]) == (
            NEW["commit"], 1, 3,
        )  # fmt: skip
    assert history["commit"] == OLD["commit"]
    assert attempt["origin"] == {**NEW, "version": "1.0"}
    marked = [one["commit"] for one in series["deploys"]]
    assert marked == [OLD["commit"], NEW["commit"], "c" * 7]
    assert counted == [("c" * 7, 0), (NEW["commit"], 1), (OLD["commit"], 3)]


def test_attempts_are_counted_by_how_they_ended_without_the_platforms_own(engine: Engine) -> None:
    """Of a deploy that serves all types."""
    engine.stop_clock()
    engine.register("own", internal=True)
    seen(engine, NEW)
    ends = ("completed", "failed", "retry", "lost")
    for jobs, end in enumerate(ends, start=1):
        engine.run(
            "insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)"
            " select queue.clock(), t, %s, %s, %s from unnest(array['work', 'own']) as t",
            ACME, end, jobs,
        )  # fmt: skip

    assert deploys(engine, "completed", "failed", "retried", "lost") == [
        (NEW["commit"], 1, 2, 3, 4)
    ]


def test_the_latest_50_deploys_of_eight_days_at_most_are_listed(engine: Engine) -> None:
    """On charts too, oldest first."""
    engine.stop_clock()
    engine.run(
        "insert into queue.deploys (first_seen_at, version, commit, last_seen_at)"
        " select queue.clock() - n * interval '1 minute', '', n::text, queue.clock()"
        " from generate_series(1, 51) as n"
    )
    latest = [str(n) for n in range(1, 51)]
    since = "select jsonb_path_query_array(queue.deploys_since(queue.clock() - %s * interval '1 minute'), '$[*].commit')"

    assert [commit for (commit,) in deploys(engine)] == latest
    assert engine.one(since, 51) == latest[::-1]
    assert engine.one(since, 3) == ["3", "2", "1"]
    engine.run(
        "update queue.deploys set last_seen_at = queue.clock()"
        " - case commit when '1' then 11520 else 11521 end * interval '1 minute'"
    )
    listed = engine.rpc("list_deploys", p_workspace_id=ACME, p_minutes=99_999)["deploys"]
    assert [one["commit"] for one in listed] == ["1"]


def test_a_stranger_to_the_workspace_reads_nothing(engine: Engine) -> None:
    """Nor does a member read the numbers of all."""
    engine.enqueue()
    fail(engine, engine.lease_one(version="1.0", origin=OLD))
    for workspace, failed in ((ACME, 1), (GLOBEX, 0)):
        [deploy] = engine.rpc("list_deploys", p_workspace_id=workspace)["deploys"]
        assert deploy["failed"] == failed
    with engine.member(EVE) as eve, pytest.raises(psycopg.Error, match="no such workspace"):
        eve.rpc("list_deploys", p_workspace_id=ACME)
    with engine.member(ADA) as ada:
        with pytest.raises(psycopg.Error, match="operator"):
            ada.rpc("list_deploys")
        engine.run("update queue.settings set value = '0' where name = 'user_calls_at_once'")
        with pytest.raises(psycopg.Error, match="too many large calls"):
            ada.rpc("list_deploys", p_workspace_id=ACME)


def test_deploys_are_removed_once_their_workers_are_long_gone(engine: Engine) -> None:
    """As workers are, after 30 days; one that still serves stays."""
    seen(engine, OLD)
    engine.advance(31 * 86_400)
    seen(engine, NEW)
    engine.run("select queue.prune(100, queue.clock())")
    assert [commit for (commit,) in deploys(engine)] == [NEW["commit"]]


def test_a_job_that_old_code_holds_is_its_own_while_the_new_one_starts(engine: Engine) -> None:
    """Its lease, steps and result stay; what it had not finished goes on in the new code."""
    engine.enqueue_many(2)
    kept, killed = engine.lease(2, worker="old", version="1.0", origin=OLD, lease_seconds=30)
    for lease in (kept, killed):
        engine.report(lease, steps=[{"name": "charge", "result": {"by": "old"}}])
    seen(engine, NEW, worker="new")

    assert engine.lease(10, worker="new", origin=NEW) == []  # no second run beside the first
    assert engine.settle(kept)["outcome"] == "applied"
    engine.advance(31)  # the other's worker was killed by the deploy
    [again] = engine.lease(10, worker="new", version="1.0", origin=NEW)
    assert again["job"]["id"] == killed["job"]["id"]
    assert again["steps"] == {"charge": {"by": "old"}}
    assert engine.settle(killed)["outcome"] == "stale"  # too late: its result is not stored
    assert engine.settle(again)["outcome"] == "applied"
