"""Uploads by ids that were edited: an id grants nothing, whatever its holder writes into it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from minutehand.web import paging
from tests.integration.training.conftest import GLOBEX, Studio
from tests.integration.training.test_training import DESCRIBED, begin, complete
from tests.support.project import ACME, ADA

KEY, S3_ID, SIZE, TITLE, TRAINING = range(5)


def edited(upload: dict[str, Any], place: int, value: Any) -> str:
    """An upload's id with one of its values replaced."""
    text = upload["id"]
    values = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    values[place] = value
    return paging.encode(*values)


async def answers(studio: Studio, upload_id: str) -> set[tuple[int, str | None]]:
    """What every route of an upload says of an id."""
    found = set()
    parts = {"parts": [{"part_number": 1, "checksum": "0" * 64}]}
    for method, path, body in (
        ("GET", "", None),
        ("POST", "/parts", parts),
        ("POST", "/complete", {"checksum": "0" * 64}),
        ("DELETE", "", None),
    ):
        answer = await studio.call(method, f"/api/uploads/{upload_id}{path}", json=body)
        found.add((answer.status_code, answer.json().get("code")))
    return found


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (SIZE, 0), (SIZE, -1), (SIZE, True), (SIZE, 100.0), (SIZE, 16 * 1024**3 + 1),
        (SIZE, 10**400),
        (TITLE, ""), (TITLE, " "), (TITLE, "x" * 201), (TITLE, "\ud800"), (TITLE, 7),
        (TRAINING, "abc"), (TRAINING, "\0"), (TRAINING, "\ud800"), (TRAINING, "../x"),
        (S3_ID, ""), (S3_ID, "a b"), (S3_ID, "\ud800"), (S3_ID, "x" * 1025),
        (KEY, ""), (KEY, "../../etc/passwd"), (KEY, f"workspaces/{ACME}/training/x/0001.pcm"),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
async def test_an_id_that_was_never_given_out_is_no_upload(
    studio: Studio, place: int, value: Any
) -> None:
    """Neither an error of ours nor a call to the store."""
    upload = await begin(studio, b"x" * 100)

    assert await answers(studio, edited(upload, place, value)) == {(404, "upload_not_found")}


async def test_a_key_of_another_place_is_no_upload(studio: Studio) -> None:
    """Of another's file, another's workspace, a folder above, or a line more."""
    upload = await begin(studio, b"x" * 100)
    key = upload["key"]
    folder, _, name = key.rpartition("/")

    for other in (
        key.replace(ACME, GLOBEX),
        key.replace(ADA, "bbbbbbbb-0000-4000-8000-000000000002"),
        f"{folder}/../{name}",
        f"{folder}/..",
        f"{folder}/.",
        f"/{key}",
        f"{key}\n",
        f"{key}?versionId=1",
        key.replace("workspaces", "Workspaces"),
    ):
        found = await answers(studio, edited(upload, KEY, other))
        assert found == {(404, "upload_not_found")}, other


async def test_a_larger_size_is_not_signed(studio: Studio) -> None:
    """The operator's limit holds for parts too, whatever size the id says."""
    upload = await begin(studio, b"x" * 100)
    grown = edited(upload, SIZE, 6 * 1024**3)

    answer = await studio.call(
        "POST",
        f"/api/uploads/{grown}/parts",
        json={"parts": [{"part_number": 700, "checksum": "0" * 64}]},
    )
    done = await complete(studio, {"id": grown}, b"x" * 100)

    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
    assert (done.status_code, done.json()["code"]) == (409, "upload_incomplete")


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"filename": "../../etc/passwd"}, "etc-passwd"),
        ({"filename": "..\\..\\boot.mp4"}, "boot.mp4"),
        ({"filename": ".."}, "file"),
        ({"filename": "\u202egp4.exe"}, "gp4.exe"),
        ({"filename": "a?b#c%2e%2e.mp4"}, "a-b-c-2e-2e.mp4"),
        ({"filename": "\U0001d42fideo.mp4"}, "video.mp4"),
    ],
)
async def test_a_name_leads_nowhere(studio: Studio, more: dict[str, Any], name: str) -> None:
    """The last part of the key, in characters that need no escaping."""
    upload = await begin(studio, b"x", **more)

    assert upload["key"].startswith(f"workspaces/{ACME}/{ADA}/")
    assert upload["key"].split("/")[4:] == [name]


@pytest.mark.parametrize(
    "more",
    [
        {"filename": ""}, {"filename": "a\0b"}, {"filename": "\ud800"}, {"filename": "x" * 256},
        {"title": "a\0b"}, {"title": "\ud800"}, {"title": " "},
        {"content_type": "video/mp4\r\nx: y"}, {"content_type": "video/../x"},
        {"content_type": "video/mp4; charset=x"}, {"content_type": "video/*"},
        {"size": "10"}, {"size": True}, {"size": 1.0}, {"size": 10**400},
        {"training_id": "../x"}, {"surprise": 1},
    ],
    ids=lambda more: repr(more)[:40],
)  # fmt: skip
async def test_what_does_not_fit_is_refused_in_words(studio: Studio, more: dict[str, Any]) -> None:
    """With a status of the caller's, before anything is begun."""
    body = json.dumps({**DESCRIBED, "size": 10, **more})
    headers = {"content-type": "application/json"}

    answer = await studio.call("POST", "/api/uploads", content=body, headers=headers)

    assert answer.status_code in {400, 413, 422}, answer.text
    assert answer.json()["error"]
