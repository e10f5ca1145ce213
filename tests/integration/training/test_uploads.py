"""Uploads through the API and to S3: created, interrupted, resumed, completed."""

import hashlib

import httpx

from minutehand_apps.training.parts import MIN_PART_BYTES
from minutehand_apps.training.uploads import UploadToken
from tests.integration.training.conftest import Studio
from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Json
from tests.support.project import Project
from tests.unit.web.conftest import error_of


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
TO_SIGN: Json = {
    "parts": [
        {"part_number": number, "checksum": hashlib.sha256(part).hexdigest()}
        for number, part in PARTS.items()
    ]
}
WHOLE = {"checksum": hashlib.sha256(CONTENT).hexdigest()}


def put(part: Json) -> None:
    content = PARTS[part["part_number"]]
    response = httpx.put(part["url"], content=content, headers=part["headers"], trust_env=False)
    assert response.status_code == 200, response.text


async def test_an_upload_is_resumed_and_completed(studio: Studio) -> None:
    """A user resumes an interrupted upload with its id and completes it.

    A repeated completion returns the same training. An id with another size is not completed.
    """
    upload = await studio.ok("POST", "/api/uploads", json=described())
    path = f"/api/uploads/{upload['id']}"
    signed = (await studio.ok("POST", f"{path}/parts", json=TO_SIGN))["parts"]
    assert [part["size_bytes"] for part in signed] == [MIN_PART_BYTES, 5]
    for bound in ("content-length", "x-amz-checksum-sha256"):
        assert all(bound in part["url"].lower() for part in signed)
    put(signed[0])

    early = await studio.call("POST", f"{path}/complete", json=WHOLE)
    resumed = await studio.ok("GET", path)
    put(signed[1])
    done = await studio.call("POST", f"{path}/complete", json=WHOLE)
    again = await studio.call("POST", f"{path}/complete", json=WHOLE)
    shorter = UploadToken.decode(upload["id"]).model_copy(update={"size_bytes": 5}).encode()
    other = await studio.call("POST", f"/api/uploads/{shorter}/complete", json=WHOLE)

    assert other.status_code == 404
    assert (early.status_code, error_of(early)["detail"]) == (409, {"missing": [2]})
    assert (resumed["missing"], resumed["complete"]) == ([2], False)
    assert done.status_code == again.status_code == 200
    assert (await studio.ok("GET", path))["complete"] is True
    assert upload["key"].startswith(f"workspaces/{ACME}/")
    assert upload["key"].endswith("/ber-uns-..-clip-1-.mp4")
    # The response contains the training's jobs, so the user may close the page.
    training = done.json()["training"]
    assert again.json()["training"]["id"] == training["id"]
    assert {job["job_type"] for job in training["jobs"]} >= {"transcription", "mux_upload"}


async def test_a_file_above_the_limit_is_not_accepted(studio: Studio, project: Project) -> None:
    """The limit also holds for the parts of an upload, because a caller can change its id."""
    upload = await studio.ok("POST", "/api/uploads", json=described())
    settings = project.settings.with_environ(UPLOADS_MAX_BYTES=str(MIN_PART_BYTES))

    async with Studio(project, settings).open() as limited:
        for path, body in (("", described()), (f"/{upload['id']}/parts", TO_SIGN)):
            response = await limited.call("POST", f"/api/uploads{path}", json=body)
            assert (response.status_code, error_of(response)["code"]) == (413, "upload_too_large")


async def test_an_upload_is_its_owners_alone(studio: Studio) -> None:
    """A colleague, another tenant's user and a former member get 404 for a user's upload.

    No one may upload into another workspace.
    """
    upload = await studio.ok("POST", "/api/uploads", json=described())
    path = f"/api/uploads/{upload['id']}"

    for user in (BOB, EVE):
        for method, part, body in (
            ("GET", "", None),
            ("POST", "/parts", TO_SIGN),
            ("POST", "/complete", WHOLE),
            ("DELETE", "", None),
        ):
            response = await studio.call(method, f"{path}{part}", user=user, json=body)
            assert response.status_code == 404, (method, part)
            assert error_of(response)["code"] == "upload_not_found"
    refused = await studio.call("POST", "/api/uploads", json=described(workspace_id=GLOBEX))

    assert (refused.status_code, error_of(refused)["code"]) == (404, "workspace_not_found")
    assert (await studio.call("GET", path)).status_code == 200
    studio.project.sql("delete from workspace_members where user_id = %s returning 1", ADA)
    left = await studio.call("GET", path)
    studio.project.sql(
        "insert into workspace_members (workspace_id, user_id, role) "
        "values (%s, %s, 'manager') returning 1",
        ACME,
        ADA,
    )
    assert left.status_code == 404


async def test_a_file_that_is_not_the_one_that_was_sent_is_not_processed(studio: Studio) -> None:
    """The training of an upload whose checksum differs fails with that reason."""
    upload = await studio.ok("POST", "/api/uploads", json=described())
    path = f"/api/uploads/{upload['id']}"
    for part in (await studio.ok("POST", f"{path}/parts", json=TO_SIGN))["parts"]:
        put(part)

    other = await studio.ok("POST", f"{path}/complete", json={"checksum": "0" * 64})
    state = await studio.ended(other["training"])

    assert state["status"] == "failed"
    assert "checksum mismatch" in state["reason"]
