"""Who plans nothing pays nothing for the app: not in modules, not in connections."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, os, sys
from minutehand.config import Settings
settings = Settings.from_env(os.environ)
import minutehand.functions.worker.handler
from minutehand.functions.worker.processors import load_processors
load_processors(settings)
from minutehand.functions.jobs.app import build_app
build_app(settings)
print(json.dumps([name for name in sys.modules if name.startswith("minutehand")]))
"""


def test_neither_the_api_nor_an_idle_worker_loads_a_language_model(repository: Path) -> None:
    """The app is registered, with its routes; a model comes with the first plan."""
    listed = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=repository,
        env={
            "SUPABASE_URL": "https://project.example",
            "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x",
            "SUPABASE_SECRET_KEY": "sb_secret_x",
            "WORKER_SECRET_TOKEN": "x",
            "MINUTEHAND_APPS": "minutehand_apps.*",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = json.loads(listed.stdout)

    assert "minutehand_apps.plans.processors" in loaded
    assert [name for name in loaded if name.startswith("minutehand.ai")] == []
    assert "minutehand_apps.plans.pipeline" not in loaded
