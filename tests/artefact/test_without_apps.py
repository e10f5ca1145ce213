"""The engine without one of its reference apps, and without all: nothing of them is missed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from minutehand.local.postgres import Postgres
from tests.support.databases import create_clone, drop
from tests.support.paths import ROOT

APPS = sorted(path.parent.name for path in (ROOT / "shared/minutehand/apps").glob("*/__init__.py"))
CASES = [*((app,) for app in APPS), tuple(APPS)]
#: What runs in the copy and tells what is left, each part by its own means.
PROBE = """
import asyncio, json, sys
from pathlib import Path
from minutehand.app import find_apps
from minutehand.cli.__main__ import Verbs, app
from minutehand.config import Settings
from minutehand.deploy.build import source_files
from minutehand.deploy.bundles import BUNDLES
from minutehand.deploy.console import console_assets
from minutehand.deploy.service import needs_of, read_stages
from minutehand.functions.jobs.app import build_app
from minutehand.functions.worker.processors import load_processors
from minutehand.local import migrations
from minutehand.project import Project
import typer

project = Project.find()
url = sys.argv[1]
migrations.prepare_hosted(url)
done = migrations.apply_migrations(migrations.as_user(url, "postgres"))
migrations.check_engine(url, project)
settings = Settings.from_env({
    "SUPABASE_URL": "http://127.0.0.1:1", "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x",
    "SUPABASE_SECRET_KEY": "sb_secret_x", "UPLOADS_BUCKET": "b", "SEALING_KEY_FILE": "k",
    **project.environment,
})
group = typer.main.get_command(app)
verbs = group.list_commands(None)
print(json.dumps({
    "migrations": [each.path.name for each in done],
    "verbs": [name for name in verbs if group.get_command(None, name) is not None],
    "job_types": list(load_processors(settings).names),
    "paths": list(build_app(settings).openapi()["paths"]),
    "console": sorted(console_assets({}, find_apps(project.apps))),
    "files": [str(file.relative_to(project.root)) for file in source_files(BUNDLES[0], project)],
    "needs": needs_of(project).model_dump(),
    "stages": read_stages(project),
}))
"""
#: What each app calls its own things, where its name alone would not find them.
TRACES = {
    "beacon": ("beacon",),
    "chat": ("apps/chat", "chat_"),
    "enrichment": ("apollo", "enrich", "accounts", "contacts"),
    "plans": ("apps/plans", "plan_", "/api/plans"),
    "training": ("training", "mux", "ffmpeg"),
}


def copy_without(apps: tuple[str, ...], root: Path) -> None:
    """Copy what the engine consists of, and delete `apps`."""
    ignored = shutil.ignore_patterns("__pycache__", ".local")
    for folder in ("functions", "shared", "infra", "supabase"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    for file in ("serverless.yml", "pyproject.toml", "requirements.lock", "package.json"):
        shutil.copyfile(ROOT / file, root / file)
    (root / "node_modules").symlink_to(ROOT / "node_modules")
    for app in apps:
        shutil.rmtree(root / "shared" / "minutehand" / "apps" / app)


def probe(root: Path, url: str) -> dict[str, Any]:
    """Run the probe on the copy alone: this checkout is not importable there."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        # before the checkout, which the environment's .pth file adds at the end
        "PYTHONPATH": os.pathsep.join(map(str, (root / "shared", root))),
        "MINUTEHAND_PROJECT": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE, url],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("gone", CASES, ids=lambda apps: apps[0] if len(apps) == 1 else "all")
def test_an_app_can_be_deleted_without_a_trace(
    postgres: Postgres, tmp_path: Path, gone: tuple[str, ...]
) -> None:
    """Its folder is all there is of it: SQL, verbs, routes, pages, rights, parameters."""
    copy_without(gone, tmp_path)
    name = f"without_{gone[0]}_{len(gone)}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        create_clone(connection, name, template="template0")
        try:
            told = probe(tmp_path, postgres.url(database=name))
        finally:
            drop(connection, name)

    whole = json.dumps(told).lower()
    assert not {f"apps/{app}/" for app in gone} & set(re.findall(r"apps/\w+/", whole))
    assert not set(gone) & set(told["verbs"])
    for app in gone:
        found = [trace for trace in TRACES.get(app, (app,)) if trace in whole]
        assert found == [], f"{app}: {found}"
    assert len(told["migrations"]) >= 10
    assert {"/api/jobs"} <= set(told["paths"])
    assert "index.html" in told["console"]


@pytest.mark.parametrize("app", APPS)
def test_the_engine_does_not_name_an_app(app: str) -> None:
    """Neither in code nor in configuration; documents may point at an example."""
    folders = [ROOT / "shared" / "minutehand", ROOT / "infra" / "aws", ROOT / "functions"]
    files = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in {".py", ".yml", ".cjs", ".mjs", ".toml", ".json"}
        and "apps" not in path.relative_to(ROOT).parts
    ]
    named = re.compile(rf"minutehand\.apps\.{app}\b|minutehand/apps/{app}\b|\bapollo|\bmux_|ffmpeg")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in [*files, ROOT / "serverless.yml"]
        for line in path.read_text("utf-8").lower().splitlines()
        if named.search(line)
    ]

    assert found == []
