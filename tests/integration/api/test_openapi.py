"""The published document against the running service: every route, every status, every shape."""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from psycopg.types.json import Jsonb

from minutehand.config import Settings
from minutehand.local.users import ADA
from tests.e2e.console.worker import delete
from tests.integration.api.conftest import ACME_ID, Client, Hand
from tests.support.stacks import RunningStack
from tests.support.weekly import weekly

Document = dict[str, Any]
METHODS = ("get", "post", "put", "patch", "delete")
ROUNDS = weekly(12, otherwise=4)


@pytest.fixture
async def document(client: Client) -> Document:
    """The document as a client gets it."""
    response = await client().get("/api/openapi.json")
    assert response.status_code == 200
    found: Document = response.json()
    return found


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


async def test_the_document_is_valid_and_names_every_route(
    document: Document, settings: Settings
) -> None:
    """A route that is served is documented, and nothing else is."""
    from minutehand.functions.health.app import build_app as build_health
    from minutehand.functions.jobs.app import build_app as build_jobs
    from minutehand.functions.status.app import build_app as build_status
    from minutehand.functions.worker.routes import PROCESS_PATH, WORKER_PATH

    validate(document)
    served = {("get", WORKER_PATH), ("post", WORKER_PATH), ("post", PROCESS_PATH)}
    for build in (build_health, build_jobs, build_status):
        paths = build(settings).openapi()["paths"]
        served |= {(method, path) for path, item in paths.items() for method in item}

    assert {(method, path) for method, path, _ in operations(document)} == served


async def test_every_protected_operation_refuses_a_guest_and_says_so_in_the_document(
    document: Document, client: Client
) -> None:
    """Security is declared where it is enforced, and enforced where it is declared."""
    for method, path, operation in operations(document):
        url = path.replace("{", "").replace("}", "")
        for name in (
            "job_id", "workspace_id", "account_id", "contact_id", "import_id", "webhook_id",
            "operation_id",
        ):  # fmt: skip
            url = url.replace(name, ACME_ID)
        response = await client().request(method, url)

        security = operation.get("security", [])
        # {} says that it also goes without: this stack lets guests in
        assert (response.status_code == 401) is (bool(security) and {} not in security), (
            method,
            path,
        )


async def test_every_operation_that_counts_its_callers_documents_their_limit(
    document: Document,
) -> None:
    """A quick client meets the limit of requests on any route, reads included."""
    counted = [each for each in operations(document) if each[2].get("security")]

    assert len(counted) > 50
    assert [each[:2] for each in counted if "429" not in each[2]["responses"]] == []


ODD_VALUES: list[Any] = [None, True, -1, 0.5, "", "x" * 300, [], {}, "ünï\u2028code", 10**30]


class Maker:
    """Values that fit a JSON schema, and now and then one that does not."""

    def __init__(self, document: Document, seed: int, known: Mapping[str, str]) -> None:
        self._document = document
        self._random = random.Random(seed)
        self._known = known

    def value(self, schema: Document, name: str = "", depth: int = 0) -> Any:
        dice = self._random
        if dice.random() < 0.06:
            return dice.choice(ODD_VALUES)
        if "$ref" in schema:
            return self.value(self._resolve(schema["$ref"]), name, depth + 1)
        for union in ("anyOf", "oneOf", "allOf"):
            if union in schema:
                return self.value(dice.choice(schema[union]), name, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return dice.choice(schema["enum"])
        if name in self._known and dice.random() < 0.7:
            return self._known[name]
        kind = schema.get("type", "object")
        kind = dice.choice(kind) if isinstance(kind, list) else kind
        make = getattr(self, f"_{kind}", None)
        return make(schema, depth) if make else None

    def _object(self, schema: Document, depth: int) -> Any:
        required = set(schema.get("required", ()))
        return {
            name: self.value(each, name, depth + 1)
            for name, each in schema.get("properties", {}).items()
            if name in required or (depth < 4 and self._random.random() < 0.3)
        }

    def _array(self, schema: Document, depth: int) -> Any:
        least = schema.get("minItems", 0)
        count = self._random.randint(least, least + 2)
        return [self.value(schema.get("items", {}), "", depth + 1) for _ in range(count)]

    def _string(self, schema: Document, depth: int) -> str:
        dice = self._random
        if schema.get("format") == "uuid":
            return dice.choice([ACME_ID, "00000000-0000-4000-8000-00000000dead"])
        if schema.get("format") == "date-time":
            return dice.choice(["2031-01-01T00:00:00Z", "2020-01-01T00:00:00+02:00"])
        if "pattern" in schema:
            return dice.choice(["video/mp4", "text/csv"])
        least = schema.get("minLength", 0)
        return "".join(dice.choices(string.ascii_letters + "äß%_*", k=least + dice.randint(0, 8)))

    def _integer(self, schema: Document, depth: int) -> int:
        least, most = schema.get("minimum", 0), schema.get("maximum", 1000)
        return self._random.randint(int(least), min(int(most), int(least) + 100))

    def _number(self, schema: Document, depth: int) -> float:
        return float(self._integer(schema, depth))

    def _boolean(self, schema: Document, depth: int) -> bool:
        return self._random.random() < 0.5

    def _resolve(self, reference: str) -> Document:
        found: Any = self._document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        resolved: Document = found
        return resolved


def request_for(
    maker: Maker, method: str, path: str, operation: Document
) -> tuple[str, dict[str, Any]]:
    url, query, headers = path, {}, {}
    for parameter in operation.get("parameters", ()):
        value = maker.value(parameter["schema"], parameter["name"])
        if parameter["in"] == "path":
            text = str(value).replace("/", "").replace(".", "") or "x"
            url = url.replace(f"{{{parameter['name']}}}", text)
        elif parameter["in"] == "query" and value is not None and maker.value({"type": "boolean"}):
            query[parameter["name"]] = value if isinstance(value, list) else str(value)
        elif parameter["in"] == "header" and isinstance(value, str) and value.isascii():
            headers[parameter["name"]] = value or "x"
    more: dict[str, Any] = {"params": query, "headers": headers}
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        more["json"] = maker.value(content["application/json"]["schema"])
    return url, more


#: Streams by any `Accept`, which stay open on this stack.
ENDLESS = ("/api/async-events", "/api/plans/{plan_id}/stream")


@pytest.mark.weekly
async def test_whatever_is_sent_the_answer_is_one_the_document_knows(
    document: Document, hand: Hand, client: Client, stack: RunningStack
) -> None:
    """Random requests made from the schemas: a documented status, and a body of its shape."""
    job = await hand.enqueue()
    known = {"job_id": job.id, "workspace_id": ACME_ID, "job_type": hand.job_type}
    guest = client()
    callers = {
        "userToken": client(stack.sign_in(ADA.email)),
        "operatorToken": client(stack.worker_secret_token),
        "workerToken": client(stack.worker_secret_token),
        "backgroundToken": client(stack.background_job_token),
    }
    limit = asyncio.Semaphore(4)
    answered: dict[int, int] = {}

    async def once(method: str, path: str, operation: Document, seed: int) -> None:
        maker = Maker(document, seed, known)
        url, more = request_for(maker, method, path, operation)
        [scheme] = operation.get("security", [{"": []}])[0]
        async with limit:
            response = await callers.get(scheme, guest).request(method, url, **more)
        where = f"{method.upper()} {url} {more} -> {response.status_code} {response.text[:400]}"
        answered[response.status_code] = answered.get(response.status_code, 0) + 1
        described = operation["responses"].get(str(response.status_code))
        # readiness may say of a busy machine that it is not ready
        unready = response.status_code == 503 and "health" in path
        if (response.status_code >= 500 and not unready) or described is None:
            wrong.append(where)
        else:
            wrong.extend(f"{where}: {e}" for e in deviations(document, described, response))

    wrong: list[str] = []
    settings = settings_of_acme(stack)
    try:
        await asyncio.gather(
            *(
                once(method, path, operation, seed=hash_of(method, path) + round_)
                for method, path, operation in operations(document)
                if (not path.endswith(("/events", "/worker", "/process")) or method == "get")
                and path not in ENDLESS
                for round_ in range(ROUNDS)
            )
        )
    finally:
        undo_steering(stack, settings)
    assert not wrong, "\n".join(wrong)
    assert answered.get(200, 0) > 20
    assert answered.get(422, 0) > 20


def settings_of_acme(stack: RunningStack) -> list[Any]:
    """The workspace's settings as they stand: a row, or none."""
    with stack.connect() as connection:
        return connection.execute(
            "select to_jsonb(s) from public.workspace_settings as s where workspace_id = %s",
            (ACME_ID,),
        ).fetchall()


def undo_steering(stack: RunningStack, settings: list[Any]) -> None:
    """A workspace paused, throttled, scheduled or set by chance would change every test after."""
    tables = ("pauses", "tenant_limits", "schedules", "webhooks")
    for table in (*(f"queue.{name}" for name in tables), "public.workspace_settings"):
        delete(stack, f"delete from {table} where workspace_id = %s", ACME_ID)
    with stack.connect() as connection:
        for (row,) in settings:
            connection.execute(
                "insert into public.workspace_settings"
                " select * from jsonb_populate_record(null::public.workspace_settings, %s)",
                (Jsonb(row),),
            )


def hash_of(method: str, path: str) -> int:
    """The same number in every run, unlike `hash`."""
    return sum(ord(sign) * place for place, sign in enumerate(f"{method} {path}", 1))


def deviations(document: Document, described: Document, response: httpx.Response) -> list[str]:
    """How an answer's body differs from its description."""
    content = described.get("content", {})
    kind = response.headers.get("content-type", "").partition(";")[0]
    if response.status_code == 204:
        return ["a body"] if response.content else []
    if kind not in content and not (kind == "application/json" and not content):
        return [f"the type {kind}"]
    if kind != "application/json" or "schema" not in content.get(kind, {}):
        return []
    schema = {**content[kind]["schema"], "components": document["components"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(response.json())]
