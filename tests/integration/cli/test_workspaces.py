"""Workspaces and members from the terminal and over HTTP, against the whole stack."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.e2e.console.worker import delete
from tests.support.command import Run
from tests.support.stacks import RunningStack


@pytest.fixture
def run(stack: RunningStack, tmp_path: Path) -> Run:
    """With what an operator has after a deploy: addresses, the secret key, and no sign-in."""
    names = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY")
    path = tmp_path / "prod.env"
    path.write_text("".join(f"{name}={stack.values[name]}\n" for name in names))
    return Run(env={"MINUTEHAND_ENV_FILE": str(path)})


@pytest.fixture
def name(stack: RunningStack) -> Iterator[str]:
    """A workspace's name of this test alone; removed with everything in it."""
    made = f"Initech {uuid.uuid4().hex[:8]}"
    yield made
    delete(stack, "delete from public.workspaces where name = %s", made)


def test_from_nothing_to_a_manager_who_invites(stack: RunningStack, run: Run, name: str) -> None:
    """The steps after a first deploy, as a stranger takes them."""
    address = f"bill-{uuid.uuid4().hex[:8]}@initech.test"
    assert "joins by accepting" in run("workspaces", "create", name, "--manager", address).stdout

    signed_up = httpx.post(
        f"{stack.supabase_url}/auth/v1/signup",
        headers={"apikey": stack.values["SUPABASE_PUBLISHABLE_KEY"]},
        json={"email": address, "password": "a-long-enough-password"},
    )
    assert signed_up.status_code == 200, signed_up.text
    bill = replace(run, last=("--token", signed_up.json()["access_token"]))
    bob = replace(run, last=("--token", stack.sign_in("bob@acme.test")))

    assert name in bill("invitations").stdout
    bill("invitations", "accept", name)
    [own] = bill.json("workspaces", "list")
    assert (own["name"], own["managers"], own["invitations"]) == (name, 1, 0)
    for answer, state in (("decline", "do not join"), ("accept", "you are a member of")):
        bill("members", "add", "bob@acme.test")
        assert state in bob("invitations", answer, name).stdout
    assert "there are none" in bob("invitations", "accept", name, code=1).stderr
    assert "bob@acme.test" in bill("members", "list").stdout
    refused = bill.refused("members", "remove", address)
    assert "must keep one manager" in refused["error"]
    assert "members role" in refused["fix"]
    run("members", "role", "bob@acme.test", "manager", "--workspace", name)
    bill("members", "remove", address)
    assert bill.json("workspaces") == []
    listed = run.json("members", "-w", name)
    assert [row["email"] for row in listed["members"]] == ["bob@acme.test"]


def test_a_repeated_create_and_an_unknown_workspace_say_what_to_do(run: Run, name: str) -> None:
    """Each refusal names the next command."""
    run("workspaces", "create", name, "--manager", "a@b.test")

    again = run.refused("workspaces", "create", name, "--manager", "a@b.test")
    nowhere = run.refused("members", "add", "x@y.test", "-w", "Nowhere")

    assert "members add" in again["fix"]
    assert "'Nowhere' must name exactly one workspace" in nowhere["error"]


def test_people_over_http(stack: RunningStack, run: Run, name: str) -> None:
    """What the console calls: a manager's, a member's and a stranger's answers."""
    made = run.json("workspaces", "create", name, "--manager", stack.demo_email)
    run("invitations", "accept", name, "--token", stack.sign_in(stack.demo_email))
    people = f"{stack.api_url}/api/workspaces/{made['id']}/members"
    ada, bob = (
        {"Authorization": f"Bearer {stack.sign_in(email)}"}
        for email in (stack.demo_email, "bob@acme.test")
    )
    with httpx.Client() as client:
        assert client.get(people, headers=bob).status_code == 404
        invited = client.put(f"{people}/new%2Bone@x.test", headers=ada, json={"role": "manager"})
        asked = client.put(f"{people}/bob@acme.test", headers=ada, json={})
        mine = client.get(f"{stack.api_url}/api/invitations", headers=bob).json()["invitations"]
        there = f"{stack.api_url}/api/invitations/{made['id']}"
        other = client.post(f"{there}/accept", headers=ada)
        joined = client.post(f"{there}/accept", headers=bob)
        refused = client.put(f"{people}/eve@globex.test", headers=bob, json={})
        wrong = client.put(f"{people}/nobody", headers=ada, json={"role": "member"})
        seen = client.get(people, headers=ada).json()
        left = client.delete(f"{people}/bob@acme.test", headers=bob)
        last = client.delete(f"{people}/{stack.demo_email}", headers=ada)

    assert (invited.json()["email"], invited.json()["state"]) == ("new+one@x.test", "invited")
    assert (asked.status_code, asked.json()["state"]) == (200, "invited")
    assert [(row["name"], row["invited_by"]) for row in mine] == [(name, stack.demo_email)]
    assert (other.status_code, other.json()["code"]) == (404, "invitation_not_found")
    assert (joined.status_code, joined.json()["accepted"]) == (200, True)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert (wrong.status_code, wrong.json()["code"]) == (400, "invalid_argument")
    assert [row["email"] for row in seen["members"]] == [stack.demo_email, "bob@acme.test"]
    assert [row["actor"] for row in seen["changes"][:3]] == [
        "bob@acme.test", "bob@acme.test", stack.demo_email,
    ]  # fmt: skip
    assert left.status_code == 204
    assert (last.status_code, last.json()["code"]) == (409, "last_manager")
