"""Receipts of jobs in SQL: who may issue, read and revoke, and what a chain keeps."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from minutehand.signing.canonical import canonical, digest, digest_of
from tests.support.engine import ACME, ADA, EVE, GLOBEX, Engine, handle, refusal
from tests.support.functions import until_waiting


def leased(engine: Engine, workspace: str = ACME) -> dict[str, Any]:
    """A job, leased; its id and fence."""
    engine.enqueue(workspace=workspace)
    return handle(engine.lease_one())


def issue(engine: Engine, held: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = engine.rpc("issue_receipt", p_request=held | more)
    return answer


def add_key(engine: Engine, chain: str = "jobs") -> str:
    """A key of the chain, or the one it has; its id."""
    x = base64.urlsafe_b64encode(uuid.uuid4().bytes * 2).rstrip(b"=").decode()
    jwk = canonical({"crv": "Ed25519", "kty": "OKP", "x": x})
    kid = base64.urlsafe_b64encode(hashlib.sha256(jwk.encode()).digest()).rstrip(b"=").decode()
    made = engine.rpc(
        "add_signing_key", p_chain=chain, p_key={"kid": kid, "x": x, "sealed": "s" * 40}
    )
    return str(made["kid"])


def receipt_of(engine: Engine, told: dict[str, Any], **other: Any) -> dict[str, Any]:
    """What a worker would send; the signature is for readers to check."""
    at = engine.one("select queue.instant(queue.clock())")
    head = told["head"]
    return {
        **told["stated"],
        "id": str(uuid.uuid4()),
        "number": head["number"] + 1,
        "issued_at": at,
        "software": "minutehand/test",
        "key_id": add_key(engine),
        "signature": "s" * 86,
        "hashes": {
            "payload": digest_of(told["payload"]),
            "result": digest_of(told["result"]),
            "previous": head["digest"],
        },
        **other,
    }


def closed(engine: Engine, told: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The closing receipt of the next job that needs one, or of one that was told, stored."""
    told = told or engine.rpc("close_receipt")
    if "head" not in told:
        return None
    answer = engine.rpc(
        "close_receipt", p_job_id=told["stated"]["job_id"], p_receipt=receipt_of(engine, told)
    )
    assert answer["issued"]
    receipt: dict[str, Any] = answer["receipt"]
    return receipt


def fail(engine: Engine, lease: dict[str, Any]) -> None:
    engine.settle(lease, "failed", error={"type": "E", "message": "no"})


def issued(engine: Engine, held: dict[str, Any] | None = None) -> dict[str, Any]:
    """The receipt of a job, stored."""
    held = held or leased(engine)
    answer = issue(engine, held, receipt=receipt_of(engine, issue(engine, held, result=1)))
    assert answer["issued"]
    receipt: dict[str, Any] = answer["receipt"]
    return receipt


def test_a_job_has_one_receipt_however_often_it_is_signed(engine: Engine) -> None:
    """A worker that died after it, and one that read the chain before another's receipt."""
    held = leased(engine)
    told = issue(engine, held, result=1)
    other = issued(engine)
    late = issue(engine, held, receipt=receipt_of(engine, told))
    first = issue(engine, held, receipt=receipt_of(engine, late | {"payload": {}, "result": 1}))
    again = issue(engine, held, receipt=receipt_of(engine, first), result=2)

    assert (told["issued"], late["issued"], first["issued"]) == (False, False, True)
    assert late["head"] == {"number": 1, "digest": digest_of(other)}
    assert (again["issued"], again["receipt"]) == (True, first["receipt"])
    assert engine.rows("select number from queue.receipts order by number") == [1, 2]


def test_of_two_receipts_at_the_same_moment_one_is_to_be_signed_again(engine: Engine) -> None:
    """Both workers read the same end: the second is told of another, and not of an error."""
    issued(engine)
    held = [leased(engine) for _ in range(2)]
    receipts = [receipt_of(engine, issue(engine, one, result=1)) for one in held]
    with engine.beside() as holder, engine.beside() as other, ThreadPoolExecutor(2) as threads:
        holder.run("begin")
        holder.run("select from queue.chains for update")
        calls = [
            threads.submit(issue, session, one, receipt=receipt)
            for session, one, receipt in zip((engine, other), held, receipts, strict=True)
        ]
        until_waiting(engine.database, 2)
        holder.run("commit")
        told = sorted((call.result(60) for call in calls), key=lambda answer: answer["issued"])

    assert [answer["issued"] for answer in told] == [False, True]
    assert told[0]["head"]["number"] == 2


def test_each_workspace_has_a_chain_of_its_own(engine: Engine) -> None:
    """One tenant's receipts say nothing of how many another has."""
    first, other, second = (issued(engine, leased(engine, one)) for one in (ACME, GLOBEX, ACME))

    assert [each["number"] for each in (first, other, second)] == [1, 1, 2]
    assert other["hashes"]["previous"] is None
    assert second["hashes"]["previous"] == digest_of(first)
    with engine.member(EVE) as eve:
        assert eve.rpc("job_receipts", p_workspace_id=GLOBEX)["receipts"] == [other]


def test_a_parents_receipt_names_every_child(engine: Engine) -> None:
    """With the digest of its receipt, or none where it failed."""
    engine.register("parent")
    parent_id = str(engine.enqueue(job_type="parent"))
    parent = engine.lease_one(job_types=["parent"])
    engine.spawn(parent, "c", [{"job_type": "work", "payload": {}}] * 2)
    first, second = engine.lease(2, job_types=["work"])
    receipt = issued(engine, handle(first))
    engine.settle(first, "completed", result=1)
    engine.settle(second, "failed", error={"type": "E", "message": "no"})
    children = issued(engine, handle(parent))["children"]
    with engine.member(ADA) as ada:
        bundle = ada.rpc("job_receipt", p_job_id=parent_id)

    assert {each["job_id"]: (each["status"], each["receipt"]) for each in children} == {
        first["job"]["id"]: ("completed", digest_of(receipt)),
        second["job"]["id"]: ("failed", None),
    }
    assert bundle["children"] == [receipt]
    assert "result" not in bundle  # the parent is not settled


def test_a_parents_receipt_names_the_last_receipt_of_a_child(engine: Engine) -> None:
    """A child that failed was closed, and signs when a retry completes it."""
    engine.register("parent")
    engine.register("part", signed=True)
    engine.enqueue(job_type="parent")
    parent = engine.lease_one(job_types=["parent"])
    engine.spawn(parent, "c", [{"job_type": "part", "payload": {}}])
    part = engine.lease_one(job_types=["part"])
    fail(engine, part)
    engine.advance(1)
    assert closed(engine) is not None
    engine.rpc("retry_job", p_job_id=part["job"]["id"])
    part = engine.lease_one(job_types=["part"])
    last = issued(engine, handle(part))
    engine.settle(part, "completed", result=1)

    [child] = issued(engine, handle(parent))["children"]

    assert (child["status"], child["receipt"]) == ("completed", digest_of(last))


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"job_id": str(uuid.uuid4())}, ("PT422", "receipt_invalid", "job_id")),
        ({"children": [{}]}, ("PT422", "receipt_invalid", "job_id")),
        ({"format": "other/1"}, ("PT422", "receipt_invalid", "format")),
        ({"signature": "short"}, ("PT422", "receipt_invalid", "format")),
        ({"key_id": "k" * 43}, ("PT409", "key_retired", "key_id")),
        ({"issued_at": "2020-01-01T00:00:00.000Z"}, ("PT422", "receipt_invalid", "issued_at")),
        ({"issued_at": "soon"}, ("PT422", "receipt_invalid", "receipt")),
    ],
)
def test_what_the_database_does_not_state_is_not_stored(
    engine: Engine, change: dict[str, Any], refused: tuple[str, str, str]
) -> None:
    """Also from a worker: its key may be stolen."""
    held = leased(engine)
    receipt = receipt_of(engine, issue(engine, held, result=1), **change)
    with pytest.raises(psycopg.Error) as error:
        issue(engine, held, receipt=receipt)

    assert refusal(error.value) == refused
    assert engine.one("select count(*) from queue.receipts") == 0


def test_a_receipt_is_signed_now_and_continues_the_chain(engine: Engine) -> None:
    """Within five minutes, as clocks differ; one beside the chain would be a second history."""
    engine.stop_clock()
    issued(engine)
    held = leased(engine)
    told = issue(engine, held, result=1)

    for seconds in (-301, 301):
        at = engine.one("select queue.instant(queue.clock() + %s * interval '1 second')", seconds)
        with pytest.raises(psycopg.Error) as error:
            issue(engine, held, receipt=receipt_of(engine, told, issued_at=at))
        assert refusal(error.value) == ("PT422", "receipt_invalid", "issued_at")
    other = {"number": told["head"]["number"], "digest": digest("another")}
    assert not issue(engine, held, receipt=receipt_of(engine, told | {"head": other}))["issued"]
    assert issue(engine, held, receipt=receipt_of(engine, told))["issued"]


def give_up(engine: Engine) -> None:
    engine.enqueue()
    fail(engine, engine.lease_one())


def expire(engine: Engine) -> None:
    """End it as maintenance does: no worker holds it."""
    soon = engine.one("select queue.clock()") + timedelta(seconds=10)
    engine.enqueue(deadline_at=soon.isoformat())
    engine.advance(11)
    engine.maintain()


def lose(engine: Engine) -> None:
    """Let every worker die with it."""
    engine.run("update queue.settings set value = '1' where name = 'lost_attempts_max'")
    engine.enqueue()
    for _ in range(3):
        engine.lease(1)
        engine.advance(100)
        engine.maintain()


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        (give_up, "failed", "not_retryable"),
        (lambda e: e.rpc("cancel_job", p_job_id=e.enqueue()), "cancelled", "cancelled"),
        (expire, "failed", "deadline_passed"),
        (lose, "failed", "worker_lost"),
    ],
)
def test_a_job_that_ends_without_a_result_is_closed_once(
    engine: Engine, end: Callable[[Engine], object], status: str, reason: str
) -> None:
    """By the next worker; its receipt says how, and so does its bundle. Of other types none is."""
    give_up(engine)
    engine.register(signed=True)
    end(engine)
    told = engine.rpc("close_receipt")
    assert "head" not in engine.rpc("close_receipt")  # another worker's, for ten seconds
    engine.advance(11)
    receipt = closed(engine)
    assert receipt is not None
    late = engine.rpc(
        "close_receipt", p_job_id=receipt["job_id"], p_receipt=receipt_of(engine, told)
    )
    with engine.member(ADA) as ada:
        bundle = ada.rpc("job_receipt", p_job_id=receipt["job_id"])

    assert late == {"issued": False}
    assert (receipt["format"], receipt["status"], receipt["reason"]) == (
        "minutehand-closing/1", status, reason,
    )  # fmt: skip
    assert (receipt["asked"], receipt["reached"], receipt["failed"]) == (0, 0, 0)
    assert bundle["receipt"] == receipt
    assert digest_of(bundle["result"]) == receipt["hashes"]["result"]
    assert engine.one("select count(*) from queue.unclosed") == 0


def test_a_job_is_closed_with_its_children_or_in_its_parents_receipt(engine: Engine) -> None:
    """Once all have ended; what the parent's receipt does not say has one of its own."""
    engine.register("whole", signed=True)
    engine.register("part", signed=True)
    engine.enqueue(job_type="whole")
    whole = engine.lease_one(job_types=["whole"])
    engine.spawn(whole, "c", [{"job_type": "part", "payload": {}}] * 3)
    first, second, third = engine.lease(3, job_types=["part"])
    issued(engine, handle(first))
    engine.settle(first, "completed", result=1)
    fail(engine, second)
    assert closed(engine) is None  # its parent lives
    fail(engine, whole)
    engine.advance(11)
    assert closed(engine) is None  # a child lives
    fail(engine, third)
    engine.advance(11)
    receipt = closed(engine)
    engine.advance(11)

    assert receipt is not None
    assert receipt["job_type"] == "whole"
    assert (receipt["asked"], receipt["reached"], receipt["failed"]) == (3, 1, 2)
    assert {each["status"] for each in receipt["children"]} == {"completed", "failed"}
    assert closed(engine) is None
    assert engine.one("select count(*) from queue.unclosed") == 0


def test_a_child_that_outlives_its_parents_receipt_has_its_own(engine: Engine) -> None:
    """The parent could only say that it was running."""
    for job_type in ("whole", "part"):
        engine.register(job_type, signed=True)
    engine.enqueue(job_type="whole")
    whole = engine.lease_one(job_types=["whole"])
    engine.spawn(whole, "c", [{"job_type": "part", "payload": {}}])
    [part] = engine.lease(1, job_types=["part"])
    issued(engine, handle(whole))
    engine.settle(whole, "completed", result=1)
    fail(engine, part)
    receipt = closed(engine)

    assert receipt is not None
    assert receipt["job_id"] == part["job"]["id"]


def test_a_retried_job_is_closed_again_or_signed_after_all(engine: Engine) -> None:
    """Each end has its receipt, and the bundle is of the last."""
    engine.register(signed=True)
    job_id = str(engine.enqueue())
    fail(engine, engine.lease_one())
    assert not engine.rpc("job_artefacts", p_job_id=job_id)["has_receipt"]
    told = engine.rpc("close_receipt")
    engine.rpc("retry_job", p_job_id=job_id)
    assert engine.rpc(
        "close_receipt", p_job_id=job_id, p_receipt=receipt_of(engine, told)
    ) == {"issued": False}  # fmt: skip
    for _ in range(2):
        fail(engine, engine.lease_one())
        engine.advance(11)
        assert closed(engine) is not None
        assert engine.rpc("job_artefacts", p_job_id=job_id)["has_receipt"]
        engine.rpc("retry_job", p_job_id=job_id)
    with engine.member(ADA) as ada:
        assert ada.rpc("job_receipt", p_job_id=job_id).keys() == {"format", "receipt", "children"}
    lease = engine.lease_one()
    result = issued(engine, handle(lease))
    engine.settle(lease, "completed", result=1)
    with engine.member(ADA) as ada:
        bundle = ada.rpc("job_receipt", p_job_id=job_id)

    assert (bundle["receipt"], bundle["result"]) == (result, 1)
    assert result["number"] == 3


def test_a_closing_receipt_says_what_the_database_states(engine: Engine) -> None:
    """A stolen worker's key cannot say that a job was cancelled."""
    engine.register(signed=True)
    engine.enqueue()
    fail(engine, engine.lease_one())
    told = engine.rpc("close_receipt")
    for change in ({"status": "cancelled"}, {"format": "minutehand-receipt/1"}):
        receipt = receipt_of(engine, told, **change)
        with pytest.raises(psycopg.Error) as error:
            engine.rpc("close_receipt", p_job_id=told["stated"]["job_id"], p_receipt=receipt)
        assert refusal(error.value)[:2] == ("PT422", "receipt_invalid")


def test_a_workspace_without_room_for_receipts_enqueues_no_signed_job(engine: Engine) -> None:
    """By any way in; what was taken on, and what the service enqueues, is signed."""
    engine.register("signed", signed=True)
    engine.register("plain")
    engine.run("update queue.settings set value = '2' where name = 'max_receipts'")
    with engine.member(ADA) as ada:
        for _ in range(3):
            ada.enqueue(job_type="signed")
    for lease in engine.lease()[:2]:
        issued(engine, handle(lease))
    job = {"job_type": "signed", "payload": {}}
    with engine.member(ADA) as ada:
        for enqueue in (
            lambda: ada.enqueue(job_type="signed"),
            lambda: ada.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=[job]),
            lambda: ada.run(
                "insert into public.jobs (workspace_id, job_type, user_id)"
                " values (%s, 'signed', %s)", ACME, ADA
            ),
        ):  # fmt: skip
            with pytest.raises(psycopg.Error) as refused:
                enqueue()
            assert refusal(refused.value) == ("PT429", "quota_exceeded", "max_receipts")
        ada.enqueue(job_type="plain")
        quotas = ada.rpc("workspace_limits", p_workspace_id=ACME)["quotas"]
    engine.enqueue(job_type="signed")
    issued(engine, handle(engine.lease_one(job_types=["signed"])))

    assert quotas["max_receipts"] == {"max": 2, "used": 2}
    assert engine.one("select count(*) from queue.receipts") == 3


def test_a_zombie_signs_nothing(engine: Engine) -> None:
    """Neither beside its heir nor after the end."""
    held = leased(engine)
    with pytest.raises(psycopg.Error, match="lease"):
        issue(engine, held | {"fence": held["fence"] + 1}, result=1)


def test_a_page_of_receipts_is_bounded_by_their_children(engine: Engine) -> None:
    """Five hundred parents of a thousand children each would be a hundred megabytes."""
    engine.run(
        "insert into queue.receipts select %s, n, gen_random_uuid(), null, jsonb_build_object("
        "'n', n, 'children', (select jsonb_agg('{}'::jsonb) from generate_series(1, 1000))),"
        " 'd', now()"
        " from generate_series(1, 25) as n",
        ACME,
    )
    with engine.member(ADA) as ada:
        numbers: list[int] = []
        sizes = []
        while page := ada.rpc("job_receipts", p_workspace_id=ACME, p_after=max(numbers, default=0))[
            "receipts"
        ]:
            sizes.append(len(page))
            numbers += [each["n"] for each in page]

    assert numbers == list(range(1, 26))
    assert sizes == [10, 10, 5]


def test_a_receipt_names_a_thousand_children_at_most(engine: Engine) -> None:
    """One of a result is of all; one that closes a job counts the others."""
    engine.register(signed=True)
    engine.enqueue()
    parent = engine.lease_one()
    for name, count in (("c", 1000), ("d", 1)):
        engine.spawn(parent, name, [{"job_type": "work", "payload": {}}] * count)
    with pytest.raises(psycopg.Error) as error:
        issue(engine, handle(parent), result=1)
    fail(engine, parent)
    job = "select queue.closing(j) from public.jobs as j where id = %s"
    closing = engine.one(job, parent["job"]["id"])

    assert refusal(error.value) == ("PT422", "receipt_invalid", "children")
    assert (closing["asked"], len(closing["children"])) == (1001, 1000)


def test_only_members_read_receipts_and_anyone_the_keys(engine: Engine) -> None:
    """Another tenant's is a missing one."""
    receipt = issued(engine)
    job_id = receipt["job_id"]
    with engine.member(ADA) as ada:
        assert ada.rpc("job_receipt", p_job_id=job_id)["receipt"] == receipt
        assert ada.rpc("job_receipts", p_workspace_id=ACME)["receipts"] == [receipt]
        assert ada.rpc("job_receipts", p_workspace_id=ACME, p_after=1)["receipts"] == []
    for function, arguments in (
        ("job_receipt", {"p_job_id": job_id}), ("job_receipts", {"p_workspace_id": ACME}),
    ):  # fmt: skip
        with engine.member(EVE) as eve, pytest.raises(psycopg.Error) as error:
            eve.rpc(function, **arguments)
        assert refusal(error.value)[0] == "PT404"
    with engine.member(EVE, "anon") as anyone:
        [key] = anyone.rpc("signing_keys")["keys"]
    assert key["kid"] == receipt["key_id"]
    assert "sealed" not in key


def test_a_retired_key_signs_an_hour_more_and_a_revoked_one_nothing(engine: Engine) -> None:
    """And is listed with the last number it signed in each chain."""
    engine.register(lease_seconds=9999)
    first = issued(engine)
    engine.rpc("retire_signing_key")
    for seconds, signs in ((3500, True), (200, False)):
        engine.advance(seconds)
        held = leased(engine)
        told = issue(engine, held, result=1)
        # a minute of the hour is left by the worker's clock
        at = engine.one("select queue.instant(queue.clock() - interval '160 seconds')")
        receipt = receipt_of(engine, told, key_id=first["key_id"], issued_at=at)
        if signs:
            assert issue(engine, held, receipt=receipt)["issued"]
            continue
        with pytest.raises(psycopg.Error) as error:
            issue(engine, held, receipt=receipt)
        assert refusal(error.value)[:2] == ("PT409", "key_retired")
    second = issued(engine)
    assert second["key_id"] != first["key_id"]

    keys = engine.rpc("revoke_signing_key", p_kid=second["key_id"])["keys"]
    told = {key["kid"]: key for key in keys}
    assert told[second["key_id"]]["last"] == {digest(ACME): 3}
    assert [k for k, key in told.items() if "revoked_at" in key] == [second["key_id"]]
    held = leased(engine)
    receipt = receipt_of(engine, issue(engine, held, result=1), key_id=second["key_id"])
    with pytest.raises(psycopg.Error) as error:
        issue(engine, held, receipt=receipt)
    assert refusal(error.value)[:2] == ("PT409", "key_retired")
    with pytest.raises(psycopg.Error) as error:
        engine.rpc("revoke_signing_key", p_kid="none")
    assert refusal(error.value)[:2] == ("PT404", "key_not_found")


@pytest.mark.parametrize("role", ["anon", "authenticated", "job_worker"])
def test_only_the_operator_ends_a_key(engine: Engine, role: str) -> None:
    """A stolen worker's key would stop all that is signed."""
    for function, arguments in (("retire_signing_key", {}), ("revoke_signing_key", {"p_kid": "k"})):
        with (
            engine.member(ADA, role) as other,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            other.rpc(function, **arguments)


def test_a_key_that_is_revoked_twice_was_revoked_the_first_time(engine: Engine) -> None:
    """What it signed between the two is still nothing; the command is repeated."""
    key_id = issued(engine)["key_id"]
    [first] = engine.rpc("revoke_signing_key", p_kid=key_id)["keys"]
    issued(engine)
    engine.advance(3600)

    assert first in engine.rpc("revoke_signing_key", p_kid=key_id)["keys"]


@pytest.mark.parametrize(
    "change", [{"kid": "k" * 43}, {"x": "short"}, {"sealed": "s" * 19}, {"sealed": None}]
)
def test_a_key_is_the_one_its_id_names_and_sealed(engine: Engine, change: dict[str, Any]) -> None:
    """A worker's mistake would be every receipt's."""
    x = "A" * 43
    kid = base64.urlsafe_b64encode(
        hashlib.sha256(canonical({"crv": "Ed25519", "kty": "OKP", "x": x}).encode()).digest()
    )
    key = {"kid": kid.rstrip(b"=").decode(), "x": x, "sealed": "s" * 20}
    with pytest.raises(psycopg.Error) as error:
        engine.rpc("add_signing_key", p_chain="jobs", p_key=key | change)

    assert refusal(error.value) == ("PT400", "invalid_argument", "key")
    assert engine.rpc("add_signing_key", p_chain="jobs", p_key=key)["kid"] == key["kid"]


def test_a_key_signs_its_own_chain_alone(engine: Engine) -> None:
    """What an app's key is stolen for is that app's receipts."""
    other = add_key(engine, "lab")
    held = leased(engine)
    with pytest.raises(psycopg.Error) as error:
        issue(engine, held, receipt=receipt_of(engine, issue(engine, held), key_id=other))
    assert refusal(error.value)[:2] == ("PT409", "key_retired")
    engine.rpc("retire_signing_key")
    assert add_key(engine, "lab") == other, "nor is it retired with another's"


@pytest.mark.parametrize("value", ['{"n": 9007199254740993}', '{"\U0001f511": 1}'])
def test_what_readers_would_write_another_way_is_not_signed(engine: Engine, value: str) -> None:
    """Numbers that are no doubles, and names that UTF-16 orders differently."""
    assert engine.one("select queue.canonical(%s)", '{"n": 9007199254740992}')
    with pytest.raises(psycopg.Error) as error:
        engine.one("select queue.canonical(%s)", value)

    assert refusal(error.value)[:2] == ("PT400", "invalid_argument")


def test_receipts_outlive_their_jobs_and_leave_the_oldest_first(engine: Engine) -> None:
    """What is left is one chain; a deleted workspace takes everything of it."""
    receipts = [issued(engine) for _ in range(3)]
    engine.run("delete from public.jobs where id = %s", receipts[1]["job_id"])
    with engine.member(ADA) as ada:
        bundle = ada.rpc("job_receipt", p_job_id=receipts[1]["job_id"])
    assert (bundle["receipt"], "payload" in bundle) == (receipts[1], False)

    engine.run("update queue.receipts set issued_at = now() - interval '2 years' where number < 3")
    engine.run("select queue.prune(100, queue.clock())")
    assert engine.rows("select number from queue.receipts") == [3]
    assert issued(engine)["hashes"]["previous"] == digest_of(receipts[2])
    engine.run("delete from public.workspaces where id = %s", ACME)
    assert engine.one("select count(*) from queue.receipts") == 0
    assert engine.one("select count(*) from queue.chains") == 0
