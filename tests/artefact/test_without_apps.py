"""The engine without its reference apps, and with each of them alone: nothing else is missed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from minutehand.local import migrations
from minutehand.local.postgres import Postgres
from minutehand.resources import resource
from tests.support.databases import HOSTED, create_clone, drop
from tests.support.paths import ROOT

APPS = sorted(path.parent.name for path in (ROOT / "shared/minutehand_apps").glob("*/__init__.py"))
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


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the engine consists of, without its apps."""
    root = tmp_path_factory.mktemp("engine")
    ignored = shutil.ignore_patterns("__pycache__", ".local", *APPS)
    for folder in ("functions", "shared", "infra", "supabase"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    for file in ("serverless.yml", "pyproject.toml", "requirements.lock", "package.json"):
        shutil.copyfile(ROOT / file, root / file)
    (root / "node_modules").symlink_to(ROOT / "node_modules")
    return root


@pytest.fixture(scope="module")
def before_apps(postgres: Postgres) -> Iterator[str]:
    """The name of a database with those of the engine's migrations that come before the apps'."""
    name, url = "before_apps", postgres.url(database="before_apps")
    found = migrations.find_migrations()
    of_apps = [each for each in found if each.path.parent != resource("migrations")]
    first = min(each.path.name for each in of_apps)
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        create_clone(connection, name, template=HOSTED)
        owner = migrations.as_user(url, "postgres")
        migrations.apply_migrations(owner, [each for each in found if each.path.name < first])
        yield name
        drop(connection, name)


def probe(root: Path, url: str) -> dict[str, Any]:
    """Run the probe on the copy alone: this checkout is not importable there."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        # before the checkout, which the environment's .pth file adds at the end
        "PYTHONPATH": os.pathsep.join(map(str, (root / "shared", root))),
        "MINUTEHAND_PROJECT": str(root),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE, url],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("kept", [*APPS, "none"])
def test_an_app_needs_no_other_and_leaves_no_trace(
    postgres: Postgres, copied: Path, before_apps: str, kept: str
) -> None:
    """Its folder is all there is of it: SQL, verbs, routes, pages, rights, parameters."""
    gone = [app for app in APPS if app != kept]
    folder = Path("shared/minutehand_apps") / kept
    if kept in APPS:
        shutil.copytree(ROOT / folder, copied / folder)
    name = f"with_{kept}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        create_clone(connection, name, template=before_apps)
        try:
            told = probe(copied, postgres.url(database=name))
        finally:
            drop(connection, name)
            shutil.rmtree(copied / folder, ignore_errors=True)

    whole = json.dumps(told).lower()
    assert set(re.findall(r"apps/(\w+)/", whole)) == {kept} & set(APPS)
    assert set(APPS) & set(told["verbs"]) <= {kept}
    for app in gone:
        found = [trace for trace in TRACES.get(app, (app,)) if trace in whole]
        assert found == [], f"{app}: {found}"
    assert told["migrations"][-1].endswith("_close_engine.sql")
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
    named = re.compile(rf"minutehand_apps\.{app}\b|minutehand_apps/{app}\b|\bapollo|\bmux_|ffmpeg")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in [*files, ROOT / "serverless.yml"]
        for line in path.read_text("utf-8").lower().splitlines()
        if named.search(line)
    ]

    assert found == []
