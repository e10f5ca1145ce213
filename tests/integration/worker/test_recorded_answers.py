"""The local Data API answers as PostgREST did, but for what is listed; and `make truth` says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.truth import requests
from infra.truth.requests import Place, allowed, compare, reason_of, record, recorded
from tests.support.project import Project


@pytest.fixture
def place(project: Project) -> Place:
    """The project, as `make truth` knows one."""
    settings = project.settings
    return Place(
        rest_url=f"{settings.supabase_url}/rest/v1",
        jwt_secret=settings.supabase_jwt_secret or "",
        publishable_key=settings.supabase_publishable_key,
        secret_key=settings.supabase_secret_key or "",
        schema=settings.schema_name,
    )


def test_only_listed_answers_differ_and_each_of_them_does(place: Place) -> None:
    """An answer of ours that is not PostgREST's hides a defect until the first hosted project."""
    found = compare(place)

    assert [each for each in found if reason_of(each.name) is None] == []
    assert {reason_of(each.name) for each in found} == set(allowed().values())


def test_what_is_recorded_again_does_not_differ(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--write` makes this project's answers the expected ones."""
    shutil.copytree(requests.FIXTURES, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(requests, "FIXTURES", tmp_path)

    record(place)

    assert compare(place) == []
    assert [pair["name"] for pair in recorded()] == [
        pair["name"] for pair in json.loads((tmp_path / "answers.json").read_text())
    ]


def make_truth(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the command says."""
    return subprocess.run(
        [sys.executable, "-m", "infra.truth", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_project_is_asked_by_its_address(project: Project, place: Place) -> None:
    """Listed differences are printed, each with its reason, and are no failure."""
    told = make_truth(
        "--url",
        project.settings.supabase_url,
        SUPABASE_PUBLISHABLE_KEY=place.publishable_key,
        SUPABASE_SECRET_KEY=place.secret_key,
        SUPABASE_JWT_SECRET=place.jwt_secret,
        MINUTEHAND_SCHEMA=place.schema,
    )

    assert (told.returncode, told.stderr) == (0, "")
    assert "accept.geo: PostgREST asks PostGIS" in told.stdout
    assert "0 of them for no listed reason" in told.stdout


def test_without_docker_it_says_so(tmp_path: Path) -> None:
    """The real server comes as an image."""
    told = make_truth(PATH=str(tmp_path))

    assert told.returncode == 3
    assert "no Docker" in told.stdout
