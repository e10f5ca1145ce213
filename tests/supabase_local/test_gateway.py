"""Behaviour of the hosted Data API and Auth on which Minutehand relies."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest

from infra.bench.scratch import user_token
from infra.truth.requests import DataApi
from minutehand.queue.errors import JobNotFound, error_from_response
from tests.support.engine import EVE
from tests.support.patience import until
from tests.support.project import Project
from tests.support.stacks import RunningStack

SCRATCH = """
create function scratch_refuse(p_code text) returns jsonb language plpgsql as $$
begin
  raise exception using errcode = p_code, message = 'said', detail = 'detailed', hint = 'a_word';
end $$;
create function scratch_say() returns int language plpgsql as $$
begin
  perform set_config('response.status', '207', true);
  return 1;
end $$;
create table scratch_notes (
  id int generated always as identity primary key, at timestamptz not null default now(),
  owner uuid not null default auth.uid(), body jsonb not null constraint body_is_object
  check (jsonb_typeof(body) = 'object')
);
alter table scratch_notes enable row level security;
create policy own on scratch_notes to authenticated using (owner = (select auth.uid()));
grant select, insert on scratch_notes to authenticated;
notify pgrst, 'reload schema';
"""
#: The HTTP status for each raised SQLSTATE.
STATUSES = {"PT409": 409, "PT422": 422, "PT503": 503, "P0001": 400, "57014": 500}
Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(project: Project, place: DataApi) -> Iterator[Ask]:
    """Send requests to the Data API as Ada or as another user."""
    project.sql(SCRATCH)
    with httpx.Client(base_url=place.rest_url) as client:

        def send(method: str, path: str, caller: str = "ada", **more: Any) -> httpx.Response:
            headers = place.headers(caller) | more.pop("headers", {})
            return client.request(method, path, headers=headers, **more)

        until(lambda: send("GET", "/scratch_notes").is_success)
        yield send


def test_a_user_sees_own_rows_and_no_more(ask: Ask) -> None:
    """A user reads only the rows that row-level security allows."""
    returned = {"prefer": "return=representation"}
    made = ask("POST", "/scratch_notes", headers=returned, json={"body": {"text": "it's \u00e9"}})
    eve = {"authorization": f"Bearer {user_token(EVE)}"}
    forged = jwt.encode({"role": "service_role"}, "x" * 40, algorithm="HS256")
    refused = [
        ask("GET", "/scratch_notes", "anon"),
        ask("GET", "/scratch_notes", "service"),
        ask("GET", "/workspaces", headers={"authorization": f"Bearer {forged}"}),
        ask("GET", "/users", "service", headers={"accept-profile": "auth"}),
    ]

    [row] = made.json()
    assert (row["body"], row["at"][-6:]) == ({"text": "it's \u00e9"}, "+00:00")
    assert ask("GET", "/scratch_notes").json() == [row]
    assert ask("GET", "/scratch_notes", headers=eve).json() == []
    assert [response.status_code for response in refused] == [401, 403, 401, 406]


def test_errors_keep_message_details_and_hint(ask: Ask) -> None:
    """An error of an SQL function reaches the client with message, details and hint."""
    for sqlstate, status in STATUSES.items():
        answer = ask("POST", "/rpc/scratch_refuse", json={"p_code": sqlstate})

        assert answer.status_code == status
        assert answer.headers.get("retry-after") == ("0" if status == 503 else None)
        result = {"message": "said", "details": "detailed", "hint": "a_word"}
        assert answer.json() == {"code": sqlstate, **result}


def test_a_function_that_sets_the_status_is_refused_by_name(ask: Ask) -> None:
    answer = ask("POST", "/rpc/scratch_say", json={})

    assert (answer.status_code, "response.status" in answer.json()["message"]) == (501, True)
    assert "Content-Range" in answer.headers["access-control-expose-headers"]


def test_the_log_names_a_missing_feature_of_a_head_request(stack: RunningStack) -> None:
    """If a HEAD request needs a missing feature, the log names the feature.

    The response has no body.
    """
    headers = {"apikey": stack.supabase_secret_key, "accept": "text/csv"}
    answer = httpx.head(f"{stack.supabase_url}/rest/v1/jobs", headers=headers)

    assert (answer.status_code, answer.content) == (501, b"")
    log = stack.folder / "logs" / "gateway.log"
    until(lambda: "the local Data API does not support text/csv" in log.read_text())


def test_no_change_of_every_row_by_mistake(ask: Ask) -> None:
    """An UPDATE or DELETE without a filter is rejected, as by a hosted project's safeupdate."""
    for method, body in (("PATCH", {"priority": 1}), ("DELETE", None)):
        answer = ask(method, "/jobs", "service", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "21000")


def test_what_a_project_sets_for_postgrest_holds(project: Project, rest: httpx.Client) -> None:
    """A pre-request function of the project can reject a request. `db_max_rows` limits a list.

    With `client_error_verbosity = minimal`, an error has only code and message. The client still
    finds the hint.
    """
    project.sql(
        "create table scratch_rows as select generate_series(1, 3) as id;"
        " grant select on scratch_rows to service_role;"
        " create function scratch_guard() returns void language plpgsql as $$ begin"
        " if current_setting('request.headers')::json->>'x-mine' is null then"
        " raise exception using errcode = 'PT418', message = 'no'; end if; end $$;"
    )
    role = f"alter role authenticator in database {project.database.name}"
    project.sql(
        f"{role} set pgrst.db_pre_request = 'public.scratch_guard';"
        f" {role} set pgrst.db_max_rows = 2;"
        f" {role} set pgrst.client_error_verbosity = 'minimal'; notify pgrst, 'reload config'"
    )

    until(lambda: rest.get("/scratch_rows").status_code == 418)
    mine = {"x-mine": "1"}
    assert len(rest.get("/scratch_rows", headers=mine).json()) == 2
    unknown = {"p_job_id": "00000000-0000-4000-8000-000000000000"}
    answer = rest.post("/rpc/cancel_job", json=unknown, headers=mine)
    error = error_from_response(answer.status_code, answer.json())
    assert answer.json().keys() == {"code", "message"}
    assert (type(error), error.code) == (JobNotFound, "PT404")
