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


def test_from_nothing_to_a_manager_who_adds_people(
    stack: RunningStack, run: Run, name: str
) -> None:
    """The steps after a first deploy, as a stranger takes them."""
    address = f"bill-{uuid.uuid4().hex[:8]}@initech.test"
    create = ("workspaces", "create", name, "--manager", address)
    assert "Authentication" in run.refused(*create)["fix"]
    signed_up = httpx.post(
        f"{stack.supabase_url}/auth/v1/signup",
        headers={"apikey": stack.values["SUPABASE_PUBLISHABLE_KEY"]},
        json={"email": address, "password": "a-long-enough-password"},
    )
    assert signed_up.status_code == 200, signed_up.text
    assert "managed by" in run(*create).stdout
    assert "workspaces list" in run.refused(*create)["fix"]

    bill = replace(run, last=("--token", signed_up.json()["access_token"]))
    [own] = bill.json("workspaces", "list")
    assert (own["name"], own["members"], own["managers"]) == (name, 1, 1)
