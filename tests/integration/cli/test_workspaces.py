"""Workspaces and members from the terminal and over HTTP, against the whole stack."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from tests.support.command import app
from tests.support.stacks import RunningStack


@pytest.fixture
def operator(stack: RunningStack, tmp_path: Path) -> Path:
    """What an operator has after a deploy: addresses and the secret key, nobody to sign in as."""
    names = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY")
    path = tmp_path / "prod.env"
    path.write_text("".join(f"{name}={stack.values[name]}\n" for name in names))
    return path


@pytest.fixture
def name(stack: RunningStack) -> Iterator[str]:
    """A workspace's name of this test alone; removed with everything in it."""
    made = f"Initech {uuid.uuid4().hex[:8]}"
    yield made
    with stack.connect() as connection:
        connection.execute("delete from public.workspaces where name = %s", (made,))


def run(*words: str, env_file: Path) -> tuple[int, str]:
    """Exit code and what was printed."""
    result = CliRunner().invoke(app, [*words, "--env-file", str(env_file)])
    return result.exit_code, result.stdout + result.stderr


def test_from_nothing_to_a_manager_who_invites(
    stack: RunningStack, operator: Path, name: str
) -> None:
    """The steps after a first deploy, as a stranger takes them."""
    address = f"bill-{uuid.uuid4().hex[:8]}@initech.test"
    code, said = run("workspaces", "create", name, "--manager", address, env_file=operator)
    assert code == 0, said
    assert "joins at the first sign-in" in said

    signed_up = httpx.post(
        f"{stack.supabase_url}/auth/v1/signup",
        headers={"apikey": stack.values["SUPABASE_PUBLISHABLE_KEY"]},
        json={"email": address, "password": "a-long-enough-password"},
    )
    assert signed_up.status_code == 200, signed_up.text
    token = signed_up.json()["access_token"]

    code, listed = run("workspaces", "list", "--json", "--token", token, env_file=operator)
    [own] = json.loads(listed)
    assert (code, own["name"], own["managers"], own["invitations"]) == (0, name, 1, 0)
    assert run("members", "add", "bob@acme.test", "--token", token, env_file=operator)[0] == 0
    code, said = run("members", "list", "--token", token, env_file=operator)
    assert code == 0
    assert "bob@acme.test" in said
    code, said = run("members", "remove", address, "--token", token, env_file=operator)
    assert code == 1
    assert "must keep one manager" in said
    assert "members role" in said
    role = ("members", "role", "bob@acme.test", "manager", "--workspace", name)
    assert run(*role, env_file=operator)[0] == 0
    assert run("members", "remove", address, "--token", token, env_file=operator)[0] == 0
    assert json.loads(run("workspaces", "--json", "--token", token, env_file=operator)[1]) == []
    code, listed = run("members", "--json", "-w", name, env_file=operator)
    assert [row["email"] for row in json.loads(listed)["members"]] == ["bob@acme.test"]


def test_a_repeated_create_and_an_unknown_workspace_say_what_to_do(
    operator: Path, name: str
) -> None:
    """Each refusal names the next command."""
    assert run("workspaces", "create", name, "--manager", "a@b.test", env_file=operator)[0] == 0

    code, said = run("workspaces", "create", name, "--manager", "a@b.test", env_file=operator)
    assert (code, "members add" in said) == (1, True)
    code, said = run("members", "add", "x@y.test", "-w", "Nowhere", env_file=operator)
    assert (code, "'Nowhere' must name exactly one workspace" in said) == (1, True)


def test_people_over_http(stack: RunningStack, operator: Path, name: str) -> None:
    """What the console calls: a manager's, a member's and a stranger's answers."""
    code, made = run(
        "workspaces", "create", name, "--manager", stack.demo_email, "--json", env_file=operator
    )
    assert code == 0, made
    people = f"{stack.api_url}/api/workspaces/{json.loads(made)['id']}/members"
    ada, bob = (
        {"Authorization": f"Bearer {stack.sign_in(email)}"}
        for email in (stack.demo_email, "bob@acme.test")
    )
    with httpx.Client() as client:
        assert client.get(people, headers=bob).status_code == 404
        invited = client.put(f"{people}/new%2Bone@x.test", headers=ada, json={"role": "manager"})
        added = client.put(f"{people}/bob@acme.test", headers=ada, json={})
        refused = client.put(f"{people}/eve@globex.test", headers=bob, json={})
        wrong = client.put(f"{people}/nobody", headers=ada, json={"role": "member"})
        seen = client.get(people, headers=ada).json()
        left = client.delete(f"{people}/bob@acme.test", headers=bob)
        last = client.delete(f"{people}/{stack.demo_email}", headers=ada)

    assert (invited.json()["email"], invited.json()["state"]) == ("new+one@x.test", "invited")
    assert (added.status_code, added.json()["state"]) == (200, "member")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_argument")
    assert [row["email"] for row in seen["members"]] == [stack.demo_email, "bob@acme.test"]
    assert seen["changes"][0]["actor"] == stack.demo_email
    assert left.status_code == 204
    assert (last.status_code, last.json()["code"]) == (409, "last_manager")
