"""One contract, three readers: the API's model, the published schema and the database agree."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from psycopg.types.json import Jsonb
from pydantic import ValidationError

from minutehand_apps.beacon.models import SCHEMAS, JobSpec, schema_of
from minutehand_apps.beacon.responses import OutputRejected, read_output
from tests.integration.beacon.conftest import Station
from tests.support.project import ACME, Project

QUICK = settings(
    derandomize=True,  # the same examples in every run
    # how long it takes to make them up is the machine's matter
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
odd = st.one_of(st.none(), st.booleans(), st.integers(-5, 99), st.floats(0, 3), text, st.just([]))
identifier = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)
question = st.one_of(
    text.filter(lambda each: each.strip(" \t\n\r")),
    st.fixed_dictionaries(
        {"id": identifier, "question": st.just("Why?"), "category": st.just("c")}
    ),
)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Job specs, most of them good."""
    regions = draw(st.lists(identifier, min_size=1, max_size=4, unique=draw(st.booleans())))
    spec: dict[str, Any] = {
        "jobspec_id": draw(identifier),
        "version": draw(st.one_of(identifier, st.integers(0, 9))),
        "benchmark": {"name": "b", **draw(st.dictionaries(identifier, odd, max_size=2))},
        "constraints": {"regions": regions, "min_regions": draw(st.integers(1, len(regions)))},
        "questions": draw(st.lists(question, min_size=1, max_size=4)),
    }
    if draw(st.booleans()):
        spec["models"] = draw(
            st.lists(st.one_of(identifier, st.fixed_dictionaries({"id": identifier})), max_size=3)
        )
    if draw(st.booleans()):
        spec["metadata"] = draw(st.dictionaries(text, odd, max_size=3))
    return spec


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A spec in which something was replaced, removed or added."""
    spec = draw(specs())
    target = draw(st.sampled_from([spec, spec["constraints"], spec["benchmark"]]))
    name = draw(st.sampled_from([*target, "timeout", "stragglers", "extra"]))
    if draw(st.booleans()):
        target.pop(name, None)
    else:
        target[name] = draw(odd)
    return spec


@pytest.fixture(scope="module")
def connection(project: Project) -> Any:
    with project.database.connect() as opened:
        yield opened


def by_model(spec: Any) -> bool:
    try:
        JobSpec.model_validate_json(json.dumps(spec))
    except ValidationError:
        return False
    return True


@QUICK
@given(spec=st.one_of(specs(), spoilt()))
def test_the_database_takes_exactly_the_specs_that_the_api_takes(
    connection: psycopg.Connection[Any], spec: dict[str, Any]
) -> None:
    """And what they take, the published schema takes too; it cannot say everything they can."""
    [problem] = connection.execute("select beacon.spec_problem(%s)", (Jsonb(spec),)).fetchone()  # type: ignore[misc]
    taken = by_model(spec)

    assert (problem is None) == taken, problem
    if taken:
        Draft202012Validator(schema_of("jobspec")).validate(spec)


@st.composite
def answers(draw: st.DrawFn) -> tuple[JobSpec, Any, bool]:
    """A spec, a provider's data for it in either shape, and whether it is whole."""
    spec = JobSpec.model_validate(
        draw(specs().filter(by_model)),
    )
    responses: list[Any] = [
        {
            "question_id": each.question_id,
            "question": each.question,
            "response": "Because.",
            "duration_ms": draw(st.one_of(st.integers(0, 1000), st.floats(0, 1000))),
        }
        for each in spec.asked
    ]
    responses = draw(st.permutations(responses))
    change = draw(st.sampled_from(["none", "none", "missing", "extra", "empty", "twice", "odd"]))
    if change == "missing":
        responses = responses[1:]
    elif change == "extra":
        responses = [*responses, {**responses[0], "question_id": "other"}]
    elif change == "empty":
        responses[0] = {**responses[0], "response": draw(st.sampled_from(["", " \n", None]))}
    elif change == "twice":
        responses = [*responses, responses[0]]
    elif change == "odd":
        responses[0] = draw(odd)
    data: Any = {"responses": responses}
    return spec, draw(st.sampled_from([data, {"data": data}])), change == "none"


@QUICK
@given(case=answers())
def test_outputs_are_one_answer_per_question_in_order_in_either_shape(
    connection: psycopg.Connection[Any], case: tuple[JobSpec, Any, bool]
) -> None:
    """What is read is what the database takes; what is not whole is rejected with a reason."""
    spec, data, whole = case
    if not whole:
        with pytest.raises(OutputRejected, match=r"."):
            read_output(data, spec)
        return
    output = read_output(data, spec).model_dump(mode="json", exclude_none=True)

    assert [each["question_id"] for each in output["data"]["responses"]] == [
        each.question_id for each in spec.asked
    ]
    stored = spec.model_dump(mode="json", exclude_unset=True)
    [problem] = connection.execute(  # type: ignore[misc]
        "select beacon.output_problem(%s, %s)", (Jsonb(output), Jsonb(stored))
    ).fetchone()
    assert problem is None


@pytest.mark.parametrize("name", ["jobspec", "output"])
def test_the_database_checks_by_the_published_schema(
    connection: psycopg.Connection[Any], name: str
) -> None:
    """Titles and descriptions apart, the two are one."""

    def bare(value: Any, *, names: bool = False) -> Any:
        if isinstance(value, dict):
            return {
                key: bare(each, names=key in {"properties", "$defs"})
                for key, each in value.items()
                if names or key not in {"title", "description", "default", "$id", "$schema"}
            }
        return [bare(each) for each in value] if isinstance(value, list) else value

    [stored] = connection.execute(f"select beacon.{name}_schema()").fetchone()  # type: ignore[misc]
    assert stored == bare(schema_of(name))


async def test_every_schema_is_published(station: Station) -> None:
    """Under its own address, valid as a schema, for anyone."""
    listed = (await station.call("GET", "/schemas", user=None)).json()
    assert set(listed) == set(SCHEMAS)
    for name in listed:
        found = await station.call("GET", f"/schemas/{name}", user=None)
        Draft202012Validator.check_schema(found.json())
        assert found.json()["$id"] == f"/api/v1/schemas/{name}"
    assert (await station.call("GET", "/schemas/other", user=None)).status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"constraints": {"regions": [], "min_regions": 1}}, "constraints.regions"),
        ({"constraints": {"regions": ["a", "b"], "min_regions": 0}}, "constraints.min_regions"),
        ({"constraints": {"regions": ["a", "b"], "min_regions": 3}}, "min_regions"),
        ({"constraints": {"regions": ["a", "a"], "min_regions": 1}}, "regions"),
        ({"questions": []}, "questions"),
        ({"questions": [" "]}, "questions"),
        ({"questions": [{"id": "a"}]}, "questions"),
        ({"questions": ["one", {"id": "q1", "question": "two", "category": "c"}]}, "questions"),
        ({"benchmark": {}}, "benchmark.name"),
        ({"jobspec_id": "a b"}, "jobspec_id"),
        ({"jobspec_id": None}, "jobspec_id"),
        ({"version": None}, "version"),
        ({"models": []}, "models"),
        ({"surprise": 1}, "surprise"),
        ({"metadata": {"n": 2**60}}, "canonical"),
    ],
    ids=str,
)
async def test_what_is_wrong_with_a_spec_is_named(
    station: Station, change: dict[str, Any], field: str
) -> None:
    """A refusal says which member and why, and is never a 500."""
    body = {**station.spec(), "workspace_id": ACME}
    body.update(change)
    answer = await station.call("POST", "/jobs", json=body)

    assert answer.status_code == 422, answer.text
    assert field in answer.text


@pytest.mark.parametrize(
    ("path", "name"), [("/jobs", "min_regions"), ("/receipts/verify", "receipts")]
)
async def test_a_name_that_occurs_twice_is_refused(station: Station, path: str, name: str) -> None:
    """Readers differ in which one counts: what was signed could be read as something else."""
    body = station.spec() if path == "/jobs" else {"receipts": []}
    doubled = json.dumps(body).replace(f'"{name}":', f'"{name}": 1, "{name}":')
    headers = {"Content-Type": "application/json"}
    answer = await station.call("POST", path, content=doubled.encode(), headers=headers)

    assert (answer.status_code, "occurs twice" in answer.text) == (422, True), answer.text
