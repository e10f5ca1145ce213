"""Beacon's rules in SQL: who may do what, what never changes, one transaction per receipt."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from minutehand.apps.beacon.canonical import canonical, digest, digest_of
from minutehand.apps.beacon.jws import SigningKey
from minutehand.apps.beacon.models import BundledReceipt, Spec
from tests.support.databases import Database
from tests.support.engine import broken_invariants
from tests.support.project import ACME, ADA

EVE = "aaaaaaaa-0000-4000-8000-000000000003"
GLOBEX = "22222222-2222-4222-8222-222222222222"
BOB = "aaaaaaaa-0000-4000-8000-000000000002"
KEY = SigningKey.from_seed(b"k" * 32)
TABLES = ["beacon_specs", "beacon_runs", "beacon_receipts", "beacon_run_states"]
MEMBERS = {"beacon_create_spec", "beacon_start_run", "beacon_deliveries", "beacon_keys"}
WORKER = {
    "beacon_keys", "beacon_add_key", "beacon_start_for_job", "beacon_load", "beacon_issue",
}  # fmt: skip
SAMPLES = {"codes": ["ok:200"], "outcome": [0], "started_ms": [0], "latency_us": [1234]}


def spec_of(**fields: Any) -> dict[str, Any]:
    """A spec with every default."""
    target = {"url": "https://provider.example/v1", **fields.pop("target", {})}
    return Spec.model_validate({"target": target, "regions": ["eu", "us"], **fields}).model_dump(
        mode="json"
    )


@dataclass
class Desk:
    """The doors, as members and as the worker, over one database."""

    database: Database

    def as_member(self, statement: str, *args: Any, user: str = ADA) -> Any:
        """One value, as a signed-in user."""
        with self.database.as_role("authenticated", {"sub": user}) as connection:
            return _value(connection, statement, args)

    def as_worker(self, statement: str, *args: Any) -> Any:
        """One value, as the worker."""
        with self.database.as_role("job_worker", {}) as connection:
            return _value(connection, statement, args)

    def rows(self, statement: str, *args: Any) -> list[tuple[Any, ...]]:
        """Rows, as the superuser."""
        with self.database.connect() as connection:
            return connection.execute(statement.encode(), args or None).fetchall()

    def run_sql(self, statement: str, *args: Any) -> None:
        """Run a statement as the superuser."""
        with self.database.connect() as connection:
            connection.execute(statement.encode(), args or None)

    def write(self, spec: dict[str, Any] | None = None, *, user: str = ADA) -> dict[str, Any]:
        """Write a spec of Acme's."""
        made: dict[str, Any] = self.as_member(
            "select public.beacon_create_spec(%s, 'models', %s)",
            ACME, Jsonb(spec or spec_of()), user=user,
        )  # fmt: skip
        return made

    def start(self) -> str:
        """Start a run of Acme's; its id."""
        spec = self.write()["spec"]
        return str(self.as_member("select public.beacon_start_run(%s)", spec["id"])["run_id"])

    def lease(self, run_id: str, region: str | None = None) -> dict[str, Any]:
        """A leased job of the run, as the worker would have it: {job_id, fence}."""
        with self.database.connect() as connection:
            if region is not None:
                connection.execute(
                    "select queue.enqueue(%s, null, jsonb_build_array(jsonb_build_object("
                    " 'job_type', 'beacon_region', 'parent_id', r.job_id, 'payload',"
                    " jsonb_build_object('run_id', r.id, 'region', %s::text))), false)"
                    " from public.beacon_runs as r where r.id = %s",
                    (ACME, region, run_id),
                )
            kind = "beacon_run" if region is None else "beacon_region"
            request = {
                "worker_id": "w", "tick_id": _uuid(connection), "call": 1, "limit": 1000,
                "job_types": [kind],
            }  # fmt: skip
            answer = _value(connection, "select public.lease_jobs(%s)", (Jsonb(request),))
        [lease] = [
            one
            for one in answer["leases"]
            if one["job"]["payload"]["run_id"] == run_id
            and one["job"]["payload"].get("region") == region
        ]
        return {"job_id": lease["job"]["id"], "fence": lease["fence"]}

    def sign(self, held: dict[str, Any], *, key: SigningKey = KEY, **fields: Any) -> dict[str, Any]:
        """A receipt for a leased job at the chain's present end, fields replaced as asked."""
        loaded = self.as_worker("select public.beacon_load(%s)", Jsonb(held))
        payload: dict[str, Any] = {
            "workspace_id": ACME,
            "run_id": loaded["run"]["id"],
            "job_id": held["job_id"],
            "spec_digest": loaded["spec"]["digest"],
            "issued_at": datetime.now(UTC).isoformat(),
            "verdict": "none",
            "number": loaded["head"]["number"] + 1,
            "previous": loaded["head"]["digest"],
        }
        [(region,)] = self.rows(
            "select payload ->> 'region' from public.jobs where id = %s", held["job_id"]
        )
        if region is not None:
            payload |= {"type": "beacon.region/1", "region_requested": region}
            payload["samples"] = {"count": 1, "digest": digest_of(SAMPLES)}
        else:
            known = {receipt["region"]: receipt["digest"] for receipt in loaded["receipts"]}
            payload |= {"type": "beacon.run/1", "outcome": "partial"}
            payload["regions"] = [
                {"region": r, "status": "completed", "receipt": known[r]}
                if r in known
                else {"region": r, "status": "failed"}
                for r in loaded["run"]["regions"]
            ]
        samples = SAMPLES if region is not None else None
        jws = key.sign({k: v for k, v in {**payload, **fields}.items() if v != "absent"})
        return {**held, "jws": jws, "samples": samples}

    def issue(self, request: dict[str, Any]) -> dict[str, Any]:
        """Store a signed receipt."""
        answer: dict[str, Any] = self.as_worker("select public.beacon_issue(%s)", Jsonb(request))
        return answer

    def numbers(self) -> list[int]:
        """Acme's chain; fails where a link does not fit."""
        rows = self.rows(
            "select number, previous, digest from public.beacon_receipts order by number"
        )
        assert [row[1] for row in rows[1:]] == [row[2] for row in rows[:-1]]
        return [row[0] for row in rows]


def _value(connection: psycopg.Connection[Any], statement: str, args: Any) -> Any:
    row = connection.execute(statement.encode(), args).fetchone()
    assert row is not None
    return row[0]


def _uuid(connection: psycopg.Connection[Any]) -> str:
    return str(_value(connection, "select gen_random_uuid()", ()))


@pytest.fixture
def desk(database: Database) -> Any:
    """A seeded database that knows beacon's job types and a signing key."""
    database.seed()
    made = Desk(database)
    made.run_sql(
        'select public.register_job_types(\'[{"job_type": "beacon_run", "internal": true},'
        ' {"job_type": "beacon_region", "internal": true}]\')'
    )
    made.run_sql(
        "update queue.settings set value = 'false' where name = 'beacon_private_addresses'"
    )
    made.as_worker(
        "select public.beacon_add_key(%s)",
        Jsonb({"kid": KEY.kid, "x": KEY.x, "sealed": "mh1." + "x" * 40}),
    )
    yield made
    with database.connect() as connection:
        assert broken_invariants(connection) == {}


def refused(call: Any, *args: Any, **more: Any) -> tuple[str, str]:
    """The stable word and the detail of a refusal."""
    with pytest.raises(psycopg.Error) as caught:
        call(*args, **more)
    return str(caught.value.diag.message_hint), str(caught.value.diag.message_detail)


def test_doors_and_tables_are_granted_by_name(desk: Desk) -> None:
    """Members read and start; the worker issues; nobody writes a table; anon reads keys."""
    granted = {
        role: {
            name
            for (name,) in desk.rows(
                "select proname from pg_proc where proname like 'beacon%%'"
                " and pronamespace = 'public'::regnamespace"
                " and has_function_privilege(%s, oid, 'execute')",
                role,
            )
        }
        for role in ("anon", "authenticated", "job_worker", "service_role")
    }
    assert granted == {
        "anon": {"beacon_keys"},
        "authenticated": MEMBERS,
        "job_worker": WORKER,
        "service_role": MEMBERS | WORKER | {"beacon_prune", "beacon_retire_key"},
    }
    writable = desk.rows(
        "select c.relname, r.rolname from pg_class as c cross join pg_roles as r"
        " where (c.relname like 'beacon%%' and c.relnamespace = 'public'::regnamespace"
        "   or c.relnamespace = 'beacon'::regnamespace) and c.relkind in ('r', 'v')"
        " and r.rolname in ('anon', 'authenticated', 'service_role', 'job_worker')"
        " and has_table_privilege(r.oid, c.oid, 'insert, update, delete, truncate')"
    )
    assert writable == []
    uncommented = desk.rows(
        "select p.proname from pg_proc as p where p.pronamespace = 'beacon'::regnamespace"
        " and obj_description(p.oid, 'pg_proc') is null union all"
        " select c.relname || '.' || a.attname from pg_class as c join pg_attribute as a"
        " on a.attrelid = c.oid and a.attnum > 0 where c.relnamespace = 'beacon'::regnamespace"
        " and c.relkind = 'r' and col_description(c.oid, a.attnum) is null"
    )
    assert uncommented == []


def test_members_see_their_own_rows_and_nobody_elses(desk: Desk) -> None:
    run_id = desk.start()
    held = desk.lease(run_id, "eu")
    desk.issue(desk.sign(held))

    def counts(user: str) -> list[int]:
        return [desk.as_member(f"select count(*) from public.{t}", user=user) for t in TABLES]

    assert counts(BOB) == [1, 1, 1, 1]
    assert counts(EVE) == [0, 0, 0, 0]
    spec_id = desk.rows("select id from public.beacon_specs")[0][0]
    for statement, argument, word in (
        ("select public.beacon_start_run(%s)", spec_id, "spec_not_found"),
        ("select public.beacon_deliveries(%s)", run_id, "run_not_found"),
        ("select public.beacon_create_spec(%s, 'x', '{}')", ACME, "workspace_not_found"),
    ):
        assert refused(desk.as_member, statement, argument, user=EVE)[0] == word


BAD: list[tuple[str, dict[str, Any]]] = [
    ("spec", {"more": 1}),
    ("target.url", {"target": {"url": "http://provider.example/"}}),
    ("target.url", {"target": {"url": "https://localhost/"}}),
    ("target.url", {"target": {"url": "https://169.254.169.254/latest"}}),
    ("target.url", {"target": {"url": "https://0x7f.1/"}}),
    ("target.url", {"target": {"url": "https://provider.example/#part"}}),
    ("target.url", {"target": {"url": "https://provider.example/?API_key=x"}}),
    ("target.url", {"target": {"url": "https://provider.example/?a=1&access_token=x"}}),
    *(
        ("target.url", {"target": {"url": f"https://provider.example/v1{end}"}})
        for end in (
            "?key=x",
            "?sig=x",
            "?a=1;jwt=x",
            "?to%6Ben=x",
            "?%2574oken=x",
            "?apiKey=x",
            "?MYKEY",
            "?x%3D1%26pwd%3Dx",
            ";session=x",
            "?subscription-key=x",
            "?X-Amz-Signature=x",
            "?a&auth",
            "?key2=x",
            "?JSESSIONID=x",
            "?oauthVerifier=x",
            "?userPwd=x",
            "/?APIKey=x",
        )
    ),
    *(
        ("target.headers", {"target": {"headers": {name: "x"}}})
        for name in (
            "x-key",
            "x-jwt",
            "ocp-apim-subscription-key",
            "private-key",
            "x-api_key",
            "bearer",
            "x-auth-user",
            "x.session",
            "xtoken",
            "proxy-authorization",
        )
    ),
    ("target.headers", {"target": {"headers": {"accept": "Bearer abc"}}}),
    ("target.headers", {"target": {"headers": {"x-tenant": "9f86d081884c7d659a2feaa0c55ad015"}}}),
    ("target.method", {"target": {"method": "CONNECT"}}),
    ("target.headers", {"target": {"headers": {"authorization": "Bearer x"}}}),
    ("target.headers", {"target": {"headers": {"x-api-key": "x"}}}),
    ("target.headers", {"target": {"headers": {"cookie": "x"}}}),
    ("target.headers", {"target": {"headers": {"host": "x"}}}),
    ("target.headers", {"target": {"headers": {"X-Upper": "x"}}}),
    ("target.headers", {"target": {"headers": {"x-line": "a\r\nb: c"}}}),
    ("target.body", {"target": {"body": {"json": 1}}}),
    ("regions", {"regions": []}),
    ("regions", {"regions": ["eu", "eu"]}),
    ("regions", {"regions": ["EU"]}),
    ("regions", {"regions": [f"r{n}" for n in range(21)]}),
    ("samples", {"samples": 2001}),
    ("samples", {"samples": 1.5}),
    ("samples", {"samples": 50.0}),
    ("samples", {"samples": "50"}),
    ("warm_up", {"warm_up": -1}),
    ("concurrency", {"concurrency": 21}),
    ("timeout_ms", {"timeout_ms": 30001}),
    ("connection", {"connection": "keep"}),
    ("thresholds.p95_ms", {"thresholds": {"p95_ms": 0, "error_rate": None}}),
    ("thresholds.error_rate", {"thresholds": {"p95_ms": None, "error_rate": 0.00001}}),
    ("thresholds.error_rate", {"thresholds": {"p95_ms": None, "error_rate": 1.1}}),
    ("thresholds", {"thresholds": {}}),
]


def test_a_spec_that_breaks_a_rule_is_refused_by_its_field(desk: Desk) -> None:
    """Whoever calls, with or without the API before it."""
    for field, change in BAD:
        spec = spec_of()
        spec |= {**change, "target": spec["target"] | change.get("target", {})}

        assert refused(desk.write, spec) == ("invalid_argument", field), change


def test_what_only_looks_a_little_like_a_secret_is_taken(desk: Desk) -> None:
    """Words are whole words, and headers that everybody sends are nobody's key."""
    url = "https://provider.example/token/v1?author=a&keyword=b&max_tokens=9&q=key%20sig"
    headers = {
        "accept": "application/json", "accept-language": "en", "if-none-match": '"9f86d081884c7d6"',
        "x-request-id": "9f86d081884c7d659a2feaa0c55ad015", "user-agent": "Us/1.0",
        "anthropic-version": "2023-06-01", "x-monitor": "minutehand", "range": "bytes=0-99",
    }  # fmt: skip
    assert desk.write(spec_of(target={"url": url, "headers": headers}))["created"]


def test_a_days_samples_have_an_end_that_says_when_it_goes_on(desk: Desk) -> None:
    """Warm-ups and regions count; the key that started a run still finds it."""
    desk.run_sql("update queue.settings set value = '207' where name = 'beacon_samples_per_day'")
    spec = desk.write(spec_of(samples=50, warm_up=2))["spec"]  # 104 with both regions
    start = "select public.beacon_start_run(%s, %s)"
    first = desk.as_member(start, spec["id"], "one")["run_id"]

    with pytest.raises(psycopg.Error, match=r"make it 208; .* at \d{4}-\d\d-\d\dT00:00:00Z") as no:
        desk.as_member(start, spec["id"], "two")
    assert (no.value.sqlstate, no.value.diag.message_hint) == ("PT429", "quota_exceeded")
    assert desk.as_member(start, spec["id"], "one")["run_id"] == first
    desk.run_sql("update public.beacon_runs set created_at = created_at - interval '25 hours'")
    assert desk.as_member(start, spec["id"], "two")["created"]


def test_regions_that_ask_one_host_share_its_pace(desk: Desk) -> None:
    """Whatever its spelling and port; another host has a share of its own."""
    pace = "select beacon.pace(%s, %s)::double precision"
    assert desk.rows(pace, ACME, "https://provider.example/v1")[0][0] == 50
    held = desk.lease(desk.start(), "eu")
    desk.start()

    assert desk.rows(pace, ACME, "https://PROVIDER.example.:8443?a")[0][0] == 12.5
    assert desk.rows(pace, ACME, "https://other.example/")[0][0] == 50
    assert desk.rows(pace, GLOBEX, "https://provider.example/v1")[0][0] == 50
    loaded = desk.as_worker("select public.beacon_load(%s)", Jsonb(held))
    assert loaded["requests_per_second"] == 12.5
    with desk.database.as_role("service_role", {}) as connection:
        for value in (30, 0, "30"):
            call = "select public.set_settings(%s)"
            setting = Jsonb({"beacon_requests_per_second": value})
            if value == 30:
                connection.execute(call, (setting,))
            else:
                with pytest.raises(psycopg.Error, match="invalid"), connection.transaction():
                    connection.execute(call, (setting,))
    assert desk.rows(pace, ACME, "https://provider.example/v1")[0][0] == 7.5


def test_what_other_readers_would_write_another_way_has_no_canonical_text(desk: Desk) -> None:
    """A name that UTF-16 sorts elsewhere, a number that a double does not hold."""
    for value, what in (({"\U0001f600": 1}, "name"), ([{"a": 2**53 + 1}], "number")):
        assert refused(desk.rows, "select beacon.canonical(%s)", Jsonb(value)) == (
            "invalid_argument",
            what,
        )
    taken = {"\uffff": 2**53, "\ud7ff": "\U0001f600"}
    assert desk.rows("select beacon.canonical(%s)", Jsonb(taken))[0][0] == (
        '{"\ud7ff":"\U0001f600","\uffff":9007199254740992}'
    )


NUMBERS = st.integers(0, 10**12) | st.integers(0, 9999).map(lambda n: n / 10_000)
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(VALUES, min_size=20, max_size=20))
def test_sql_and_python_write_the_same_canonical_text(desk: Desk, values: list[Any]) -> None:
    """The digest of a spec is made in one and checked in the other."""
    rows = desk.rows(
        "select beacon.canonical(v.value), beacon.digest(beacon.canonical(v.value))"
        " from jsonb_array_elements(%s) with ordinality as v order by v.ordinality",
        Jsonb(values),
    )

    assert [row[0] for row in rows] == [canonical(value) for value in values]
    assert [row[1] for row in rows] == [digest_of(value) for value in values]


def test_specs_and_receipts_never_change(desk: Desk) -> None:
    """Not by the service, not by a superuser who forgot what they are."""
    held = desk.lease(desk.start(), "eu")
    desk.issue(desk.sign(held))

    for statement in (
        "update public.beacon_receipts set jws = 'x'",
        "delete from public.beacon_receipts",
        "truncate public.beacon_receipts",
        "delete from public.beacon_runs",
        "update public.beacon_specs set name = 'x'",
        "delete from public.beacon_specs",
    ):
        assert refused(desk.run_sql, statement)[0] == "invalid_state", statement
    desk.run_sql("delete from public.workspaces where id = %s", ACME)
    assert desk.numbers() == []


def test_a_receipt_must_say_what_is_so(desk: Desk) -> None:
    """A field that is not the leased job's is refused by its name, and nothing is stored."""
    held = desk.lease(desk.start(), "eu")
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("run_id", {"workspace_id": "22222222-2222-4222-8222-222222222222"}),
        ("run_id", {"run_id": held["job_id"]}),
        ("run_id", {"job_id": "absent"}),
        ("region_requested", {"region_requested": "us"}),
        ("region_requested", {"type": "beacon.run/1"}),
        ("spec_digest", {"spec_digest": "sha256:" + "0" * 64}),
        ("issued_at", {"issued_at": "2020-01-01T00:00:00Z"}),
        ("samples.digest", {"samples": {"count": 1, "digest": "sha256:" + "0" * 64}}),
    ]

    for field, change in wrong:
        assert refused(desk.issue, desk.sign(held, **change)) == ("receipt_invalid", field), change
    forged = SigningKey.from_seed(b"f" * 32)
    assert refused(desk.issue, desk.sign(held, key=forged))[0] == "key_retired"
    for jws in ("", "a.b.c", "e30.e30." + "A" * 86, None):
        assert refused(desk.issue, {**held, "jws": jws})[0] in {"receipt_invalid", "key_retired"}
    assert refused(desk.issue, {**desk.sign(held), "fence": -1})[0] == "lease_lost"
    assert desk.numbers() == []


def test_a_receipt_is_issued_once(desk: Desk) -> None:
    """A repeat, with whatever text, finds the first."""
    held = desk.lease(desk.start(), "eu")

    first = desk.issue(desk.sign(held))
    again = desk.issue(desk.sign(held, verdict="passed"))

    assert (first["created"], again["created"]) == (True, False)
    assert first["receipt"]["jws"] == again["receipt"]["jws"]
    assert desk.numbers() == [1]


def test_a_stale_place_in_the_chain_is_told_the_new_end(desk: Desk) -> None:
    run_id = desk.start()
    one, two = desk.lease(run_id, "eu"), desk.lease(run_id, "us")
    early = desk.sign(two)
    made = desk.issue(desk.sign(one))["receipt"]

    answer = desk.issue(early)

    assert answer == {"issued": False, "head": {"number": 1, "digest": made["digest"]}}
    assert desk.issue(desk.sign(two))["receipt"]["number"] == 2


def test_racing_receipts_keep_the_chain_gapless(desk: Desk) -> None:
    """Eight regions at once, each signing anew until it fits: 1 to 8, each link right."""
    spec = spec_of(regions=[f"r{n}" for n in range(8)])
    spec_id = desk.write(spec)["spec"]["id"]
    run_id = desk.as_member("select public.beacon_start_run(%s)", spec_id)["run_id"]
    held = [desk.lease(run_id, f"r{n}") for n in range(8)]
    errors: list[BaseException] = []

    def race(one: dict[str, Any]) -> None:
        try:
            while not desk.issue(desk.sign(one))["issued"]:
                pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=race, args=(one,)) for one in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert errors == []
    assert desk.numbers() == list(range(1, 9))


FAULTS = {
    "receipt": "before insert on public.beacon_receipts",
    "link": "before update on beacon.chains",
    "run": "before update on public.beacon_runs",
    "event": "before insert on public.job_events",
    "outbox": "before insert on queue.outbox",
}


@pytest.mark.parametrize("place", sorted(FAULTS))
def test_receipt_link_and_outbox_are_one_transaction(desk: Desk, place: str) -> None:
    """A fault in any of the five writes leaves none of them; the next try makes all."""
    desk.as_member('select public.put_webhook(%s, \'{"url": "https://sink.example/"}\')', ACME)
    held = desk.lease(desk.start())
    request = desk.sign(held)
    desk.run_sql("delete from queue.outbox")
    desk.run_sql(
        "create function public.fail() returns trigger language plpgsql as"
        " $$ begin raise exception 'the plug is pulled'; end $$"
    )
    desk.run_sql(f"create trigger fail {FAULTS[place]} for each row execute function public.fail()")

    with pytest.raises(psycopg.Error, match="the plug is pulled"):
        desk.issue(request)

    left = desk.rows(
        "select (select count(*) from public.beacon_receipts),"
        " (select max(number) from beacon.chains),"
        " (select count(*) from public.beacon_runs where outcome is not null),"
        " (select count(*) from public.job_events where type like 'beacon.%%'),"
        " (select count(*) from queue.outbox)"
    )
    assert left == [(0, None, 0, 0, 0)]
    desk.run_sql("drop function public.fail() cascade")
    assert desk.issue(request)["created"]
    assert desk.rows(
        "select e.type from queue.outbox as o join public.job_events as e using (job_id, seq)"
        " order by o.id"
    ) == [("beacon.receipt.issued",), ("beacon.run.finished",)]


def test_a_run_that_has_ended_takes_no_more_regions(desk: Desk) -> None:
    """Its receipt said which regions there are; a region revived by hand changes nothing."""
    run_id = desk.start()
    late = desk.lease(run_id, "us")
    desk.issue(desk.sign(desk.lease(run_id)))

    assert refused(desk.issue, desk.sign(late)) == ("invalid_state", "partial")
    loaded = desk.as_worker("select public.beacon_load(%s)", Jsonb(late))
    assert loaded["over"] == "The run has ended without this region; start another"


def test_a_region_retried_by_hand_asks_no_more_than_was_counted(desk: Desk) -> None:
    """Not without its run, whose regions share the pace, and not again and again."""
    run_id = desk.start()
    held = desk.lease(run_id, "eu")

    def over() -> str | None:
        said: str | None = desk.as_worker("select public.beacon_load(%s)", Jsonb(held))["over"]
        return said

    assert over() is None
    [(run_job,)] = desk.rows("select job_id from public.beacon_runs where id = %s", run_id)
    desk.run_sql("update public.jobs set generation = 11 where id = %s", held["job_id"])
    assert over() is None
    desk.run_sql("update public.jobs set generation = 12 where id = %s", held["job_id"])
    assert over() == "The region was begun anew ten times; start another run"
    desk.run_sql("update public.jobs set generation = 2 where id = %s", held["job_id"])
    desk.as_member("select public.cancel_job(%s)", run_job)
    assert over() == "The run has ended without this region; start another"


def test_whatever_an_endpoint_answers_its_receipt_has_room(desk: Desk) -> None:
    """Every status as an outcome of its own, each also with too long a body."""
    words = {200: "ok", 300: "redirect", 400: "client_error", 500: "server_error"}
    outcomes = {f"{words[code // 100 * 100]}:{code}": 1 for code in range(200, 600)}
    outcomes |= {f"too_large:{code}": 4 for code in range(200, 600)}
    request = desk.sign(
        desk.lease(desk.start(), "eu"),
        statistics={"count": 2000, "errors": 1900, "outcomes": outcomes},
        padding="x" * 1500,  # for all else that a receipt states
    )

    assert desk.issue(request)["created"]
    assert BundledReceipt(jws=request["jws"])


def test_a_key_is_valid_for_whoever_may_sign_by_it(desk: Desk) -> None:
    """A worker's clock may be minutes off: what is stored must verify, by the keys as published."""
    late = datetime.now(UTC) - timedelta(minutes=4)
    receipt = desk.issue(desk.sign(desk.lease(desk.start(), "eu"), issued_at=late.isoformat()))

    [key] = desk.as_member("select public.beacon_keys()")["keys"]
    assert receipt["created"]
    assert key["nbf"] <= late.timestamp()
    desk.run_sql("update beacon.signing_keys set not_after = now() + interval '1 minute'")
    early = (datetime.now(UTC) + timedelta(minutes=4)).isoformat()
    held = desk.lease(desk.start(), "us")
    assert refused(desk.issue, desk.sign(held, issued_at=early))[0] == "key_retired"


def test_a_runs_deliveries_are_read_without_the_workspaces_others(desk: Desk) -> None:
    """However many were made since; and a job somebody hung below a run is no region of it."""
    run_id = desk.start()
    held = desk.lease(run_id, "eu")
    desk.issue(desk.sign(held))
    desk.run_sql(
        "insert into public.jobs (workspace_id, job_type, payload)"
        " select %s, 'webhook_delivery', jsonb_build_object('webhook_id', gen_random_uuid(),"
        " 'job_id', case n when 1 then %s::uuid else gen_random_uuid() end,"
        " 'seq', (select event_seq from public.beacon_receipts))"
        " from generate_series(1, 3000) as n",
        ACME,
        held["job_id"],
    )
    desk.run_sql("analyze public.jobs")
    desk.run_sql(
        "insert into public.jobs (workspace_id, job_type, payload, parent_id)"
        " select %s, 'webhook_delivery', '{\"region\": \"us\"}', job_id from public.beacon_runs,"
        " generate_series(1, 2)",
        ACME,
    )

    with desk.database.as_role("authenticated", {"sub": ADA}) as connection:
        told = _value(connection, "select public.beacon_deliveries(%s)", (run_id,))
        read = _value(
            connection,
            "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables"
            " where schemaname = 'public' and relname = 'jobs'",
            (),
        )

    [event] = told["events"]
    assert [one["status"] for one in event["deliveries"]] == ["pending"]
    assert read < 100
    regions = desk.as_member("select regions from public.beacon_run_states")
    assert [region["region"] for region in regions] == ["eu", "us"]


def test_a_retired_key_signs_for_an_hour_more_and_is_listed_for_ever(desk: Desk) -> None:
    other = SigningKey.from_seed(b"o" * 32)
    held = desk.lease(desk.start(), "eu")
    new = Jsonb({"kid": other.kid, "x": other.x, "sealed": "mh1." + "y" * 40})

    kept = desk.as_worker("select public.beacon_add_key(%s)", new)
    desk.run_sql("select public.beacon_retire_key()")
    now = desk.as_worker("select public.beacon_add_key(%s)", new)

    assert (kept["kid"], now["kid"]) == (KEY.kid, other.kid)
    keys = desk.as_member("select public.beacon_keys()")["keys"]
    assert [("exp" in key, key["kid"]) for key in keys] == [(False, other.kid), (True, KEY.kid)]
    assert not any("sealed" in key or "d" in key for key in keys)
    assert desk.issue(desk.sign(held))["created"]  # by the old one, in its last hour
    desk.run_sql("update beacon.signing_keys set not_after = now() where kid = %s", KEY.kid)
    again = desk.lease(desk.start(), "eu")
    assert refused(desk.issue, desk.sign(again))[0] == "key_retired"
    assert desk.issue(desk.sign(again, key=other))["created"]
    bad = Jsonb({"kid": KEY.kid, "x": other.x, "sealed": "mh1." + "y" * 40})
    assert refused(desk.as_worker, "select public.beacon_add_key(%s)", bad)[0] == "invalid_argument"


def test_retention_takes_the_oldest_and_leaves_one_chain(desk: Desk) -> None:
    for _ in range(3):
        desk.issue(desk.sign(desk.lease(desk.start())))

    def prune(before: str) -> int:
        [(answer,)] = desk.rows(f"select public.beacon_prune(%s, {before})", ACME)
        removed: int = answer["removed"]
        return removed

    assert prune("now() - interval '1 day'") == 0
    assert prune("(select issued_at from public.beacon_receipts where number = 2)") == 1
    assert desk.numbers() == [2, 3]
    assert prune("now() + interval '1 day'") == 1
    assert desk.numbers() == [3]
    desk.issue(desk.sign(desk.lease(desk.start())))
    assert desk.numbers() == [3, 4]


def test_retention_takes_runs_that_ended_without_a_receipt(desk: Desk) -> None:
    """Cancelled, or never finished; not those under way, nor those that one receipt tells of."""
    cancelled, told, waiting = desk.start(), desk.start(), desk.start()
    desk.issue(desk.sign(desk.lease(told, "eu")))
    for run_id in (cancelled, told):
        [(job_id,)] = desk.rows("select job_id from public.beacon_runs where id = %s", run_id)
        desk.as_member("select public.cancel_job(%s)", job_id)

    desk.run_sql("select public.beacon_prune(%s, now() + interval '1 day')", ACME)

    left = {str(row[0]) for row in desk.rows("select id from public.beacon_runs")}
    assert left == {told, waiting}


def test_a_measure_job_starts_one_run_of_its_own_workspaces_spec(desk: Desk) -> None:
    """However often its worker asks; and a worker that lost the job asks in vain."""
    desk.run_sql('select public.register_job_types(\'[{"job_type": "beacon_measure"}]\')')
    desk.write()
    for workspace, user in ((ACME, ADA), ("22222222-2222-4222-8222-222222222222", EVE)):
        desk.as_member(
            "select public.enqueue_job(%s, 'beacon_measure', '{\"spec\": \"models\"}')",
            workspace, user=user,
        )  # fmt: skip
    with desk.database.connect() as connection:
        request = {
            "worker_id": "w", "tick_id": _uuid(connection), "call": 1, "limit": 9,
            "job_types": ["beacon_measure"],
        }  # fmt: skip
        leases = _value(connection, "select public.lease_jobs(%s)", (Jsonb(request),))["leases"]
    [own] = [one for one in leases if one["job"]["workspace_id"] == ACME]
    [strange] = [one for one in leases if one["job"]["workspace_id"] != ACME]

    def start(lease: dict[str, Any], **more: Any) -> Any:
        held = {"job_id": lease["job"]["id"], "fence": lease["fence"], **more}
        return desk.as_worker("select public.beacon_start_for_job(%s)", Jsonb(held))

    first = start(own)
    desk.write(spec_of(samples=7))  # the next version, before a later attempt of the same job
    again = start(own)

    assert (first["created"], again["created"]) == (True, False)
    assert first["run_id"] == again["run_id"]
    assert desk.rows("select created_by::text from public.beacon_runs") == [(ADA,)]
    assert refused(start, strange)[0] == "spec_not_found"
    assert refused(start, own, fence=-1)[0] == "lease_lost"


def test_a_members_own_job_is_no_measurement(desk: Desk) -> None:
    """Only the platform makes these jobs, so a payload is always beacon's own."""
    assert (
        refused(
            desk.as_member,
            "select public.enqueue_job(%s, 'beacon_region', '{\"run_id\": \"x\"}')",
            ACME,
        )[0]
        == "forbidden"
    )


def test_a_workspace_has_at_most_twenty_runs_under_way(desk: Desk) -> None:
    """Ended ones do not count; the refused one leaves nothing behind."""
    runs = [desk.start() for _ in range(20)]

    assert refused(desk.start) == ("quota_exceeded", "20")
    assert desk.rows("select count(*) from public.beacon_runs") == [(20,)]
    desk.run_sql(
        "update public.beacon_runs set outcome = 'failed', finished_at = now() where id = %s",
        runs[0],
    )
    assert desk.start() not in runs


def test_two_starts_at_once_do_not_share_the_last_place(desk: Desk) -> None:
    """The second waits until the first is there to be counted."""
    for _ in range(19):
        desk.start()
    spec_id = desk.write()["spec"]["id"]
    found: list[tuple[str, str]] = []
    second = threading.Thread(target=lambda: found.append(refused(desk.start)))
    waiting = (
        b"select count(*) from pg_locks where locktype = 'advisory' and not granted"
        b" and database = (select oid from pg_database where datname = current_database())"
    )
    with desk.database.connect() as first, desk.database.connect() as watcher:
        with first.transaction():
            first.execute("select public.beacon_start_run(%s)", (spec_id,))
            second.start()
            while second.is_alive() and watcher.execute(waiting).fetchone() == (0,):
                second.join(0.05)
        second.join(120)

    assert found == [("quota_exceeded", "20")]


def test_what_is_stored_is_what_was_signed(desk: Desk) -> None:
    """Columns are read out of the receipt's own text."""
    held = desk.lease(desk.start(), "eu")
    request = desk.sign(held)
    desk.issue(request)

    [(jws, stored, kid, found)] = desk.rows(
        "select jws, payload, kid, digest from public.beacon_receipts"
    )
    part = jws.split(".")[1]
    assert jws == request["jws"]
    assert stored == json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    assert (kid, found) == (KEY.kid, digest(jws))
