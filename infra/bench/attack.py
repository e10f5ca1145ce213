"""`python -m infra.bench.attack`: an outsider tries every way in, and what gets through is printed.

A stack of its own. Ada's workspace holds one of everything, each with a secret word in it. Then
Eve, a guest, and bearers of forged tokens send every request that the documents and the database's
catalogue list, with Ada's ids in it and with spoofed addresses. Nothing may answer with the secret
word, nothing of Ada's may change, and nothing may be a 5xx. Exits with 1 when something does.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import psycopg

from infra.bench.storm import token_of
from infra.bench.streams import stack
from minutehand.local.users import ACME, ADA, EVE, GLOBEX

METHODS = ("get", "post", "put", "patch", "delete")
SPOOFED = {
    "X-Forwarded-For": "127.0.0.1",
    "X-Real-Ip": "10.0.0.1",
    "X-Forwarded-Host": "localhost",
    "X-User-Id": str(ADA.id),
    "X-Amzn-Oidc-Identity": str(ADA.id),
}
#: Streams that stay open for any caller; their first answer is what counts.
ENDLESS = ("/stream", "/async-events")


@dataclass
class Target:
    """What is Ada's: ids by the names under which requests carry them, and a word to look for."""

    word: str
    ids: dict[str, str] = field(default_factory=dict)

    def id_of(self, name: str) -> str:
        """The id that a parameter of this name would take."""
        bare = name.removeprefix("p_").removesuffix("s")
        return self.ids.get(bare, self.ids["job_id"])


def claims_of(sub: str | None, role: str = "authenticated", **more: Any) -> dict[str, Any]:
    """Claims as Auth writes them, for an hour."""
    now = int(time.time())
    claims = {"role": role, "aud": "authenticated", "iat": now, "exp": now + 3600, **more}
    return claims if sub is None else {**claims, "sub": sub}


def forged(values: Mapping[str, str]) -> dict[str, str]:
    """Tokens for Ada, or for more than a user, that Auth has not made."""
    secret, ada = values["SUPABASE_JWT_SECRET"], str(ADA.id)
    claims = claims_of(ada)

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    genuine = jwt.encode(claims_of(str(EVE.id)), secret, "HS256").split(".")
    service = claims_of(None, "service_role")
    return {
        "no algorithm": f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}.",
        "another secret": jwt.encode(claims, "x" * 40, "HS256"),
        "a secret of nothing": jwt.encode(claims, "\0" * 32, "HS256"),
        "the publishable key as secret": jwt.encode(
            claims, values["SUPABASE_PUBLISHABLE_KEY"].ljust(32, "x"), "HS256"
        ),
        "another's signature": f"{genuine[0]}.{part(claims)}.{genuine[2]}",
        "expired": jwt.encode({**claims, "exp": int(time.time()) - 60}, secret, "HS256"),
        "service role, another secret": jwt.encode(service, "y" * 40, "HS256"),
        "an embedded key": jwt.encode(
            claims, "z" * 40, "HS256", headers={"jwk": {"kty": "oct", "k": part("z" * 40)}}
        ),
        "a key by path": jwt.encode(claims, "\0" * 32, "HS256", headers={"kid": "../../dev/null"}),
    }


def make_target(values: Mapping[str, str]) -> Target:
    """Give Ada's workspace one of everything, with a secret word in each."""
    target = Target(f"secret-{uuid4().hex}", {"workspace_id": str(ACME), "p_user": str(ADA.id)})
    word = target.word
    with httpx.Client(
        base_url=values["API_URL"],
        headers={"Authorization": f"Bearer {token_of(values, str(ADA.id))}"},
        timeout=60,
        trust_env=False,
    ) as ada:

        def made(method: str, path: str, **more: Any) -> Any:
            answer = ada.request(method, path, **more)
            assert answer.is_success, (path, answer.text)
            return answer.json() if answer.content else None

        job = {
            "workspace_id": str(ACME),
            "job_type": "enrich_account",
            "payload": {"account_id": str(uuid4())},
            "scheduled_for": "2099-01-01T00:00:00Z",
            "session_id": word,
            "concurrency_key": word,
            "tags": [word[:30]],
        }
        ids = target.ids
        ids["job_id"] = made("POST", "/api/jobs", json=job)["id"]
        ids["session_id"] = word
        own = f"/api/workspaces/{ACME}"
        # off: deliveries that fail would change her rows meanwhile
        hook = {"url": "https://192.0.2.1/" + word, "enabled": False}
        ids["webhook_id"] = made("POST", f"{own}/webhooks", json=hook)["id"]
        said = {
            "messages": [{"role": "user", "content": word}],
            "workspace_id": str(ACME),
            "mode": "reply",
        }
        made("POST", "/api/chat", json=said, headers={"x-session-id": word})
        plan = {"prompt": f"Plant {word}", "workspace_id": str(ACME)}
        ids["plan_id"] = made("POST", "/api/plans", json=plan)["plan_id"]
        spec = {
            "jobspec_id": word,
            "version": "1",
            "benchmark": {"name": word},
            "constraints": {"regions": ["us-east"], "min_regions": 1},
            "questions": [word],
        }
        ids["id"] = made("POST", f"/api/v1/jobs?workspace_id={ACME}", json=spec)["id"]
    with psycopg.connect(values["DATABASE_URL"], autocommit=True) as sql:
        for name, table in (("account_id", "accounts"), ("contact_id", "contacts")):
            row = sql.execute(
                f"update public.{table} set name = %s where id = (select id from public.{table}"
                " where workspace_id = %s limit 1) returning id",
                (word, ACME),
            ).fetchone()
            if row is not None:
                ids[name] = str(row[0])
        row = sql.execute(
            "insert into public.trainings (workspace_id, created_by, title, object_key)"
            " values (%s, %s, %s, %s) returning id",
            (ACME, ADA.id, word, f"workspaces/{ACME}/{ADA.id}/{uuid4()}/x.mp4"),
        ).fetchone()
        assert row is not None
        ids["training_id"] = str(row[0])
    return target


def fingerprint(values: Mapping[str, str]) -> dict[str, str]:
    """A digest of Ada's rows in each table; without what time alone changes."""
    moving = ("updated_at", "last_seen_at", "heartbeat_at", "counted_at", "at", "tokens")
    with psycopg.connect(values["DATABASE_URL"], autocommit=True) as sql:
        tables = sql.execute(
            "select a.attrelid::regclass::text from pg_attribute a join pg_class c"
            " on c.oid = a.attrelid where a.attname = 'workspace_id' and c.relkind = 'r'"
            " and not a.attisdropped and c.relnamespace::regnamespace::text in"
            " ('public', 'queue', 'chat', 'plans', 'training', 'beacon', 'enrichment')"
            " and c.relname not in ('stat_deltas', 'stat_minutes', 'stat_hours', 'row_counts',"
            " 'shares', 'turns', 'partitions', 'signals', 'live_counts', 'buckets')"
        ).fetchall()
        found = {}
        for (table,) in tables:
            row = sql.execute(
                "select md5(coalesce(string_agg(r, chr(10) order by r), '')) from (select"
                f" (to_jsonb(t) - %s::text[])::text as r from {table} t where workspace_id = %s) x",
                (list(moving), ACME),
            ).fetchone()
            found[str(table)] = str(row[0]) if row else ""
        return found


@dataclass(frozen=True)
class Attempt:
    """One request."""

    method: str
    url: str
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def sample(schema: Any, document: Any, target: Target, workspace: str, name: str = "") -> Any:
    """A value that fits a schema, with Ada's ids wherever one goes."""
    while "$ref" in schema:
        found: Any = document
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        schema = found
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return sample(schema[union][0], document, target, workspace, name)
    if name.removeprefix("p_") == "workspace_id":
        return workspace
    if "const" in schema or "enum" in schema or "default" in schema:
        return schema.get("const", schema.get("default", (schema.get("enum") or [None])[0]))
    kind = schema.get("type", "object")
    if kind == "object":
        return {
            key: sample(value, document, target, workspace, key)
            for key, value in schema.get("properties", {}).items()
        }
    if kind == "array":
        return [sample(schema.get("items", {}), document, target, workspace, name)]
    if kind == "string":
        if schema.get("format") == "date-time":
            return "2099-01-01T00:00:00Z"
        if "id" in name or schema.get("format") == "uuid":
            return target.id_of(name)
        return {"job_type": "enrich_account", "cron": "* * * * *"}.get(name, "x@example.com")
    return {"integer": 1, "number": 1, "boolean": True}.get(kind)


def routes(document: Any, target: Target, workspace: str) -> Iterator[Attempt]:
    """Every operation of the API, on what is Ada's."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method not in item or path.endswith(ENDLESS):
                continue
            url, query = path, {}
            for each in item[method].get("parameters", ()):
                value = sample(each["schema"], document, target, workspace, each["name"])
                if each["in"] == "path":
                    url = url.replace(f"{{{each['name']}}}", str(value))
                elif each["in"] == "query" and each["name"].endswith("_id"):
                    query[each["name"]] = str(value)
                elif each["name"] == "sessionId":
                    query[each["name"]] = target.word
            content = item[method].get("requestBody", {}).get("content", {})
            body = content.get("application/json")
            yield Attempt(
                method.upper(),
                url + ("?" + str(httpx.QueryParams(query)) if query else ""),
                sample(body["schema"], document, target, workspace) if body else None,
            )


def functions(values: Mapping[str, str], target: Target, workspace: str) -> Iterator[Attempt]:
    """Every function of the Data API, those of the worker and the operator included."""
    with psycopg.connect(values["DATABASE_URL"], autocommit=True) as sql:
        rows = sql.execute(
            "select proname, coalesce(proargnames, '{}'), array(select format_type(t, null)"
            " from unnest(proargtypes) with ordinality as u (t, n) order by n)"
            " from pg_proc where pronamespace = 'public'::regnamespace and prokind = 'f'"
            " and prorettype <> 'trigger'::regtype order by 1"
        ).fetchall()
    request = {**target.ids, "workspace_id": workspace, "ids": [target.ids["job_id"]]}
    for name, arguments, kinds in rows:
        given: dict[str, Any] = {}
        for argument, kind in zip(arguments, kinds, strict=False):
            if argument.removeprefix("p_") == "workspace_id":
                given[argument] = workspace
            elif kind == "uuid":
                given[argument] = target.id_of(argument)
            elif kind == "uuid[]":
                given[argument] = [target.ids["job_id"]]
            elif kind == "jsonb":
                given[argument] = request
            elif kind == "text" and "session" in argument:
                given[argument] = target.word
        yield Attempt("POST", f"/rest/v1/rpc/{name}", given)


def tables(values: Mapping[str, str]) -> Iterator[Attempt]:
    """Every table and view, by every verb."""
    with psycopg.connect(values["DATABASE_URL"], autocommit=True) as sql:
        rows = sql.execute(
            "select c.relname, array(select attname::text from pg_attribute a where a.attrelid ="
            " c.oid and attnum > 0 and not attisdropped) from pg_class c where relnamespace ="
            " 'public'::regnamespace and relkind in ('r', 'v', 'p') order by 1"
        ).fetchall()
    for name, columns in rows:
        mine = f"/rest/v1/{name}"
        where = f"?workspace_id=eq.{ACME}" if "workspace_id" in columns else ""
        yield Attempt("GET", f"{mine}{where}")
        yield Attempt("GET", f"{mine}?limit=1000")
        yield Attempt("DELETE", f"{mine}{where or '?id=not.is.null'}")
        change = {"workspace_id": str(GLOBEX)} if where else {columns[0]: "2099-01-01"}
        yield Attempt("PATCH", f"{mine}{where or '?id=not.is.null'}", change)
        yield Attempt("POST", mine, {"workspace_id": str(ACME)})
        upsert = {"Prefer": "resolution=merge-duplicates"}
        yield Attempt("POST", mine, {"workspace_id": str(ACME), "id": str(ACME)}, upsert)


class Attack:
    """Sends attempts, and remembers what got through."""

    def __init__(self, values: Mapping[str, str], target: Target) -> None:
        self._values = values
        self._target = target
        self.sent = 0
        self.statuses: Counter[int] = Counter()
        self.through: list[str] = []

    async def send(self, who: str, token: str | None, attempts: list[Attempt]) -> None:
        """Send them as `who`, a few at a time."""
        headers = {"apikey": self._values["SUPABASE_PUBLISHABLE_KEY"], **SPOOFED}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        room, before = asyncio.Semaphore(4), len(self.through)
        async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:

            async def one(attempt: Attempt) -> None:
                async with room:
                    await self._judge(who, http, attempt)

            await asyncio.gather(*(one(each) for each in attempts))
        print(f"{who}: {len(attempts)} requests, {len(self.through) - before} through", flush=True)

    async def _judge(self, who: str, http: httpx.AsyncClient, attempt: Attempt) -> None:
        rest = attempt.url.startswith("/rest/")
        base = self._values["SUPABASE_URL" if rest else "API_URL"]
        for _ in range(3):
            answer = await http.request(
                attempt.method, base + attempt.url, json=attempt.json, headers=attempt.headers
            )
            if answer.status_code != 429:
                break
            await asyncio.sleep(min(2.0, float(answer.headers.get("retry-after", "1"))))
        self.sent += 1
        self.statuses[answer.status_code] += 1
        # what a request said itself, its answer may repeat
        said = f"{attempt.url} {json.dumps(attempt.json)}"
        told = self._target.word in answer.text and self._target.word not in said
        # the Data API has no better status for a write to a view that takes none
        view = rest and '"code":"55000"' in answer.text
        away = answer.status_code >= 500 and answer.status_code != 503 and not view
        if told or away:
            what = "tells Ada's word" if told else "is an error of ours"
            self.through.append(attempt.url)
            print(
                f"THROUGH  {who}: {attempt.method} {attempt.url} {json.dumps(attempt.json)[:300]}"
                f" -> {answer.status_code} {what}: {answer.text[:300]}",
                flush=True,
            )


async def attack(values: Mapping[str, str]) -> bool:
    """Play it all; whether nothing got through."""
    target = make_target(values)
    await settled(values)
    before = fingerprint(values)
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        document = (await http.get(f"{values['API_URL']}/api/openapi.json")).json()
    on_ada = [*routes(document, target, str(ACME)), *functions(values, target, str(ACME))]
    through_own = [*routes(document, target, str(GLOBEX)), *functions(values, target, str(GLOBEX))]
    played = Attack(values, target)
    eve = token_of(values, str(EVE.id))
    await played.send("Eve", eve, on_ada)
    await played.send("Eve at the tables", eve, list(tables(values)))
    await played.send("Eve through her own workspace", eve, through_own)
    await played.send("a guest", None, [*on_ada, *tables(values)])
    for name, token in forged(values).items():
        # every token meets the same check: a few requests of each kind show it
        await played.send(f"a token, {name}", token, on_ada[:: 1 + len(on_ada) // 40])
    await settled(values)
    after = fingerprint(values)
    changed = sorted(table for table in before if before[table] != after.get(table))
    print(f"{played.sent} requests: {dict(sorted(played.statuses.items()))}")
    if changed:
        print(f"CHANGED  Ada's rows of {', '.join(changed)}")
    return not played.through and not changed


async def settled(values: Mapping[str, str]) -> None:
    """Wait until nothing of Ada's runs any more."""
    async with await psycopg.AsyncConnection.connect(
        values["DATABASE_URL"], autocommit=True
    ) as sql:
        for _ in range(600):
            found = await sql.execute(
                "select count(*) from public.jobs where workspace_id = %s and (status ="
                " 'processing' or status = 'pending' and coalesce(scheduled_for, created_at)"
                " < now() + interval '1 day')",
                (ACME,),
            )
            row = await found.fetchone()
            if row == (0,):
                return
            await asyncio.sleep(0.2)


def main() -> int:
    """Start a stack and attack it."""
    argparse.ArgumentParser(prog="python -m infra.bench.attack", description=__doc__).parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="minutehand-attack-") as folder,
        stack(Path(folder), seconds=300) as values,
    ):
        bare = {name: value.strip("'\"") for name, value in values.items()}
        return 0 if asyncio.run(attack(bare)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
