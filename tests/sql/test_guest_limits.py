"""Callers without an account: whose address is counted, how many there may be, what they see."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, Engine, refusal

MESSAGE: dict[str, Any] = {
    "text": "Hello", "client_id": None, "documents": [], "mode": "reply", "ask": False,
    "ask_seconds": 60, "seed": 0,
}  # fmt: skip
PLAN = {"prompt": "Plant a hedge", "speed_vs_detail": "fast_but_skip_details"}
OTHER = {**PLAN, "prompt": "Cut a hedge"}
MINE, THEIRS = "203.0.113.7", "198.51.100.9"


@pytest.fixture
def guests(engine: Engine) -> Engine:
    """A project that lets guests in, at another hour than the machine's midnight."""
    for job_type in ("chat_reply", "chat_work", "plan"):
        engine.register(job_type)
    engine.stop_clock()
    noon = "date_trunc('day', queue.clock(), 'UTC') + interval '36 hours'"
    engine.advance(engine.one(f"select extract(epoch from {noon} - queue.clock())::float"))
    engine.run("update queue.settings set value = 'true' where name = 'allow_anonymous'")
    limit(engine, chat_guest_messages=1000, chat_guest_sessions=1000, plan_guest_plans=1000)
    return engine


def limit(engine: Engine, percent: int = 10, **limits: int) -> None:
    """Set what all guests may do a minute, ten times as much a day, and the share of an address."""
    for name, most in limits.items():
        for unit, value in (("minute", most), ("day", most * 10)):
            engine.run(
                "update queue.settings set value = %s::jsonb where name = %s",
                json.dumps(value),
                f"{name}_per_{unit}",
            )
    engine.run(
        "update queue.settings set value = %s::jsonb where name = 'guest_address_percent'",
        json.dumps(percent),
    )


@contextmanager
def guest(engine: Engine, address: str = MINE, **headers: str) -> Iterator[Engine]:
    """A guest's session through the Data API, whose gateway saw `address`."""
    sent = {"x-forwarded-for": address, **headers}
    with engine.database.as_role("anon") as connection:
        connection.execute("select set_config('request.headers', %s, false)", (json.dumps(sent),))
        yield Engine(engine.database, connection)


def ask(session: Engine, number: int, **more: Any) -> Any:
    """Begin a session by its first message."""
    return session.rpc(
        "chat_request",
        p_session_id=f"unguessable-session-{number:06}",
        p_request={**MESSAGE, **more},
    )


def asked(session: Engine, count: int, start: int = 0) -> int:
    """How many of so many new sessions are taken before the first refusal."""
    for number in range(count):
        try:
            ask(session, start + number)
        except psycopg.Error as error:
            if refusal(error)[:2] != ("PT429", "quota_exceeded"):
                raise
            return number
    return count


def may_begin(engine: Engine, address: str, role: str = "anon") -> bool:
    """Whether a guest is let in before anything is done for it."""
    headers = json.dumps({"x-forwarded-for": address})
    with suppress(psycopg.Error), engine.connection.transaction(force_rollback=True):
        claims = json.dumps({"role": role})
        engine.run("select set_config('request.jwt.claims', %s, true)", claims)
        engine.run("select set_config('request.headers', %s, true)", headers)
        engine.run("select queue.check_guest('chat_guest_sessions')")
        return True
    return False


def test_an_address_has_its_share_and_all_guests_their_total(guests: Engine) -> None:
    """A script with the publishable key must leave room for everybody else."""
    limit(guests, percent=100, chat_guest_sessions=1)
    assert may_begin(guests, MINE)
    limit(guests, percent=1, chat_guest_sessions=50)
    assert may_begin(guests, MINE)
    limit(guests, chat_guest_sessions=50)

    with guest(guests, MINE) as one, guest(guests, THEIRS) as other:
        assert asked(one, 20) == 5
        assert asked(other, 3, 100) == 3
    taken = 8
    for number in range(20):
        with guest(guests, f"192.0.2.{number}") as another:
            taken += asked(another, 5, 200 + 5 * number)

    assert taken == 50
    assert guests.one("select count(*) from public.chat_conversations") == 50
    assert not may_begin(guests, "192.0.2.99")
    assert may_begin(guests, "192.0.2.99", "service_role")
    guests.advance(60)
    assert may_begin(guests, "192.0.2.99")
    with guest(guests, MINE) as one:
        assert asked(one, 1, 900) == 1


def test_the_day_has_a_total_of_its_own(guests: Engine) -> None:
    """Slowly is not for ever."""
    limit(guests, chat_guest_sessions=10)
    taken = 0
    with guest(guests) as one:
        for minute in range(20):
            taken += asked(one, 1, minute)
            guests.advance(60)
    guests.advance(3 * 86400)
    with guest(guests, THEIRS) as other:
        taken += asked(other, 1, 20)

    assert taken == 11
    kept = guests.rows("select distinct address from queue.guest_uses where address <> ''")
    assert kept == [THEIRS]


@pytest.mark.parametrize(
    ("headers", "counted"),
    [
        ({"x-forwarded-for": f"{THEIRS}, {MINE}"}, MINE),
        ({"x-forwarded-for": f"{THEIRS},{MINE}", "cf-connecting-ip": "192.0.2.1"}, "192.0.2.1"),
        ({"x-forwarded-for": "2001:db8:1:2:3:4:5:6"}, "2001:db8:1:2::"),
        ({"x-forwarded-for": "nonsense"}, "unknown"),
        ({"x-forwarded-for": MINE, "x-minutehand-client": f"{THEIRS} 1 0000"}, MINE),
    ],
)
def test_the_address_is_what_the_gateway_saw(
    guests: Engine, headers: dict[str, str], counted: str
) -> None:
    """Whatever a caller says of itself, in front of it or in a header of ours."""
    with guest(guests, **headers) as one:
        ask(one, 1)

    assert guests.rows("select distinct address from queue.guest_uses where address <> ''") == [
        counted
    ]


def test_no_argument_charges_another(guests: Engine) -> None:
    """An address in the request is a field that there is not."""
    with guest(guests) as one, pytest.raises(psycopg.Error) as error:
        ask(one, 1, address=THEIRS)

    assert refusal(error.value)[:2] == ("PT400", "invalid_argument")


def signed(guests: Engine, address: str, at: float) -> dict[str, str]:
    """The header with which the API passes a guest on."""
    key = bytes.fromhex(guests.rpc("guest_key")["key"])
    said = f"{address} {int(at)}"
    inner = hashlib.sha256(key + said.encode()).digest()
    return {"x-minutehand-client": f"{said} {hashlib.sha256(key + inner).hexdigest()}"}


def test_the_api_passes_on_who_called_it_for_two_minutes(guests: Engine) -> None:
    """Its own address would be the one of all its guests; an old signature is anybody's."""
    now = float(guests.one("select extract(epoch from queue.clock())"))
    for address, ago in (("192.0.2.1", 118), ("192.0.2.2", 122), ("192.0.2.3", -122)):
        with guest(guests, "10.0.0.1", **signed(guests, address, now - ago)) as one:
            ask(one, 200 + ago)
    kept = signed(guests, "192.0.2.44", now)
    guests.rpc("revoke_worker_keys", p_before="2020-01-01T00:00:00Z")
    with guest(guests, "10.0.0.2", **kept) as one:
        ask(one, 3)

    counted = set(guests.rows("select address from queue.guest_uses where address <> ''"))
    assert counted == {"192.0.2.1", "10.0.0.1", "10.0.0.2"}


def test_plans_of_guests_have_the_same_limits(guests: Engine) -> None:
    """One script must not spend the day's plans of everybody."""
    limit(guests, plan_guest_plans=20)
    with guest(guests) as one:
        made = [one.rpc("plan_start", p_workspace_id=None, p_plan=PLAN) for _ in range(2)]
        one.rpc("plan_delete", p_plan_id=made[0]["plan_id"])
        with pytest.raises(psycopg.Error) as error:
            one.rpc("plan_start", p_workspace_id=None, p_plan=PLAN)
    assert refusal(error.value) == ("PT429", "quota_exceeded", "plan_guest_plans_per_minute")

    with guest(guests, THEIRS) as other:
        assert other.rpc("plan_start", p_workspace_id=None, p_plan=PLAN)["created_at"]


def test_a_sign_in_without_an_account_is_a_guests_and_no_other_is(guests: Engine) -> None:
    """Auth gives a new anonymous user to each who asks."""
    limit(guests, plan_guest_plans=10)
    made = []
    for claims in ({"is_anonymous": True}, {"is_anonymous": False}, {}):
        with guests.database.as_role("authenticated", {"sub": ADA, **claims}) as connection:
            person = Engine(guests.database, connection)
            with suppress(psycopg.Error):
                for _ in range(3):
                    person.rpc("plan_start", p_workspace_id=ACME, p_plan=PLAN)
        made.append(guests.one("select count(*) from public.plans"))

    assert made == [1, 4, 7]


def test_rows_and_jobs_of_guests_count_in_the_quotas_of_their_workspace(guests: Engine) -> None:
    """No uid is not the service."""
    guests.run("update queue.settings set value = '3' where name = 'max_chat_conversations'")
    with guest(guests) as one:
        assert asked(one, 9) == 3
    guests.run("update queue.settings set value = '50000' where name = 'max_chat_conversations'")
    guests.run("update queue.settings set value = '4' where name = 'user_pending_max'")
    with guest(guests) as one:
        assert asked(one, 9, 20) == 1
    guests.run("update queue.settings set value = '1' where name = 'max_plans'")
    guests.run("update queue.settings set value = '1000' where name = 'user_pending_max'")
    with guest(guests) as one:
        one.rpc("plan_start", p_workspace_id=None, p_plan=PLAN)
        with pytest.raises(psycopg.Error) as error:
            one.rpc("plan_start", p_workspace_id=None, p_plan=PLAN)
    assert refusal(error.value)[2] == "max_plans"


def test_an_id_of_fewer_than_sixteen_characters_is_no_key(guests: Engine) -> None:
    """Whatever the setting says."""
    guests.rpc("set_settings", p_settings={"chat_session_id_min_characters": 1})
    with guest(guests) as one:
        with pytest.raises(psycopg.Error) as error:
            one.rpc("chat_request", p_session_id="customer-000042", p_request=MESSAGE)
        assert one.rpc("chat_request", p_session_id="customer-0000042", p_request=MESSAGE)

    assert refusal(error.value)[:2] == ("PT422", "session_id_invalid")


def test_a_guests_idempotency_key_counts_within_its_session(guests: Engine) -> None:
    """Two strangers who both say order-1 are not one."""
    with guest(guests) as one, guest(guests, THEIRS) as other:
        first = one.rpc("plan_start", p_workspace_id=None, p_plan=PLAN, p_idempotency_key="order-1")
        second = other.rpc(
            "plan_start", p_workspace_id=None, p_plan=PLAN, p_idempotency_key="order-1"
        )
        assert first["plan_id"] != second["plan_id"]
        assert first["session_id"] != second["session_id"]
        other.rpc("plan_start", p_workspace_id=None, p_plan=OTHER, p_idempotency_key="order-1")
        again = [
            one.rpc(
                "plan_start",
                p_workspace_id=None,
                p_plan=PLAN,
                p_session_id=first["session_id"],
                p_idempotency_key="order-2",
            )
            for _ in range(2)
        ]
        with pytest.raises(psycopg.Error) as error:
            one.rpc(
                "plan_start",
                p_workspace_id=None,
                p_plan=OTHER,
                p_session_id=first["session_id"],
                p_idempotency_key="order-2",
            )

    assert again[0]["plan_id"] == again[1]["plan_id"]
    assert refusal(error.value)[1] == "idempotency_conflict"


def test_a_members_key_still_counts_within_the_workspace(guests: Engine) -> None:
    """The contract that members have."""
    with guests.member(ADA) as ada:
        made = [
            ada.rpc("plan_start", p_workspace_id=ACME, p_plan=PLAN, p_idempotency_key="order-1")
            for _ in range(2)
        ]

    assert made[0]["plan_id"] == made[1]["plan_id"]


def test_who_is_removed_loses_the_conversations_begun_as_a_member(guests: Engine) -> None:
    """Else they read and fill the workspace's; what was opened to them from outside stays."""
    session = "guest_" + "d" * 64
    opened = guests.rpc("open_guest_session", p_workspace_id=ACME, p_options={"user_id": BOB})[
        "session_id"
    ]
    with guests.member(BOB) as bob, guests.member(ADA) as ada:
        bob.rpc("chat_request", p_session_id=session, p_request={**MESSAGE, "workspace_id": ACME})
        ada.rpc("remove_member", p_workspace_id=ACME, p_member=BOB)

        for function, arguments in (
            ("chat_said", {}),
            ("guest_session_jobs", {}),
            ("chat_request", {"p_request": MESSAGE}),
        ):
            with pytest.raises(psycopg.Error) as error:
                bob.rpc(function, p_session_id=session, **arguments)
            assert refusal(error.value)[:2] == ("PT404", "session_not_found"), function
        assert bob.rpc("chat_status", p_session_id=session)["replies"] == []
        assert bob.rpc("guest_session_jobs", p_session_id=opened)["jobs"] == []
        assert ada.rpc("chat_said", p_session_id=session)["messages"] != []
