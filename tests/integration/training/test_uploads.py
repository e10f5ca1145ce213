"""Uploads through the API and directly to S3: created, interrupted, resumed, completed."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from minutehand.local.users import ADA, BOB, EVE, DemoUser
from minutehand_apps.training.parts import MIN_PART_BYTES
from tests.support.engine import ACME, GLOBEX
from tests.support.stacks import RunningStack
from tests.unit.web.conftest import error_of


def signed_in(stack: RunningStack, user: DemoUser) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=stack.api_url,
        headers={"authorization": f"Bearer {stack.sign_in(user.email)}"},
        timeout=60,
        trust_env=False,
    )


@pytest.fixture
async def ada(stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the API that is signed in as a member of Acme."""
    async with signed_in(stack, ADA) as client:
        yield client


def described(**changes: object) -> dict[str, object]:
    return {
        "workspace_id": ACME,
        "filename": "Über uns/../clip (1).mp4",
        "content_type": "video/mp4",
        "size": MIN_PART_BYTES + 5,
        **changes,
    }


CONTENT = b"a" * MIN_PART_BYTES + b"b" * 5
PARTS = {1: CONTENT[:MIN_PART_BYTES], 2: CONTENT[MIN_PART_BYTES:]}
TO_SIGN: dict[str, Any] = {
    "parts": [
        {"part_number": number, "checksum": hashlib.sha256(part).hexdigest()}
        for number, part in PARTS.items()
    ]
}
WHOLE = {"checksum": hashlib.sha256(CONTENT).hexdigest()}


async def put(part: dict[str, Any]) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as browser:
        response = await browser.put(
            part["url"], content=PARTS[part["part_number"]], headers=part["headers"]
        )
    assert response.status_code == 200, response.text


async def test_an_upload_is_resumed_and_completed(ada: httpx.AsyncClient) -> None:
    """A user resumes an interrupted upload with its id and completes it.

    A repeated completion returns the same training.
    """
    begun = await ada.post("/api/uploads", json=described())
    assert begun.status_code == 201, begun.text
    upload = begun.json()
    path = f"/api/uploads/{upload['id']}"
    signed = (await ada.post(f"{path}/parts", json=TO_SIGN)).json()["parts"]
    assert [part["size_bytes"] for part in signed] == [MIN_PART_BYTES, 5]
    for bound in ("content-length", "x-amz-checksum-sha256"):
        assert all(bound in part["url"].lower() for part in signed)
    await put(signed[0])

    early = await ada.post(f"{path}/complete", json=WHOLE)
    resumed = (await ada.get(path)).json()
    await put(signed[1])
    done = await ada.post(f"{path}/complete", json=WHOLE)
    again = await ada.post(f"{path}/complete", json=WHOLE)

    assert (early.status_code, error_of(early)["detail"]) == (409, {"missing": [2]})
    assert (resumed["missing"], resumed["complete"]) == ([2], False)
    assert done.status_code == again.status_code == 200
    assert (await ada.get(path)).json()["complete"] is True
    assert upload["key"].startswith(f"workspaces/{ACME}/")
    assert upload["key"].endswith("/Uber-uns-..-clip-1-.mp4")
    # The response contains the training's jobs, so the user may close the page.
    training = done.json()["training"]
    assert again.json()["training"]["id"] == training["id"]
    assert {job["job_type"] for job in training["jobs"]} >= {"transcription", "mux_upload"}


async def test_an_upload_is_its_owners_alone(ada: httpx.AsyncClient, stack: RunningStack) -> None:
    """A colleague and another tenant's user get 404 for a user's upload.

    No one may upload into another workspace.
    """
    upload = (await ada.post("/api/uploads", json=described())).json()
    path = f"/api/uploads/{upload['id']}"

    for user in (BOB, EVE):
        async with signed_in(stack, user) as other:
            for method, part, body in (
                ("GET", "", None),
                ("POST", "/parts", TO_SIGN),
                ("POST", "/complete", WHOLE),
                ("DELETE", "", None),
            ):
                response = await other.request(method, f"{path}{part}", json=body)
                assert response.status_code == 404, (method, part)
                assert error_of(response)["code"] == "upload_not_found"
    refused = await ada.post("/api/uploads", json=described(workspace_id=GLOBEX))

    assert (refused.status_code, error_of(refused)["code"]) == (404, "workspace_not_found")
    assert (await ada.get(path)).status_code == 200


async def test_a_file_that_is_not_the_one_that_was_sent_is_removed(ada: httpx.AsyncClient) -> None:
    """An upload whose checksum differs is removed. Completing it again returns 404."""
    upload = (await ada.post("/api/uploads", json=described())).json()
    path = f"/api/uploads/{upload['id']}"
    for part in (await ada.post(f"{path}/parts", json=TO_SIGN)).json()["parts"]:
        await put(part)

    other = await ada.post(f"{path}/complete", json={"checksum": "0" * 64})

    assert (other.status_code, error_of(other)["code"]) == (422, "checksum_mismatch")
    assert (await ada.get(path)).status_code == 404
    assert (await ada.post(f"{path}/complete", json=WHOLE)).status_code == 404
