"""Parts of the local stack's launcher: environment, keys and settings."""

import os
from pathlib import Path

from rich.console import Console

from minutehand.deploy.apps import Needs
from minutehand.local.environment import contract, for_children, remote_values
from minutehand.local.stack import Stack
from minutehand.project import Project
from supabase_local.logs import Logs
from supabase_local.state import StateFolder

SECRETS = {"SUPABASE_JWT_SECRET": "s" * 40, "SUPABASE_SECRET_KEY": "sb_secret_x"}
PROJECT = Project.find()
PORTS = {"gateway": 1, "realtime": 2, "aws": 3, "api": 4}


def test_a_developers_own_accounts_do_not_reach_the_stack(tmp_path: Path) -> None:
    """AWS and Supabase credentials in the developer's shell are not passed to the local stack."""
    parent_env = {
        "PATH": "/bin",
        "PYTHONPATH": "/lib",
        "AWS_PROFILE": "production",
        "AWS_SECRET_ACCESS_KEY": "real",
        "SUPABASE_URL": "https://real.supabase.co",
        "SUPABASE_WORKER_KEY": "real",
        "LOG_LEVEL": "DEBUG",
        "MUX_TOKEN_ID": "named by an app's lambda.yml",
        "USE_MOCK_APOLLO": "false",
        "CHAT_PACE_SECONDS": "",
        "BEACON_PROVIDERS": "[]",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
    }

    values = contract(PORTS, SECRETS, "postgresql://x", tmp_path, PROJECT)
    values["BEACON_PROVIDERS"] = "those of the local stack"
    made = for_children(values, parent_env, PROJECT)

    assert "real" not in made.values()
    assert "AWS_PROFILE" not in made
    assert made["SUPABASE_URL"] == "http://127.0.0.1:1"
    assert (made["PATH"], made["LOG_LEVEL"]) == ("/bin", "DEBUG")
    assert made["PYTHONPATH"].endswith(f"{os.pathsep}/lib")
    assert made["MUX_TOKEN_ID"] == "named by an app's lambda.yml"
    assert (made["USE_MOCK_APOLLO"], made["BEACON_PROVIDERS"]) == ("false", "[]")
    assert made["CHAT_PACE_SECONDS"] == "0.6"  # an empty variable in the shell counts as unset
    assert made["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4318"


def test_two_machines_seal_alike_beside_one_supabase(tmp_path: Path) -> None:
    """Two machines that use one Supabase project get one encryption key.

    Each machine can therefore open values that the other sealed.
    """
    keys = {"SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x", "SERVICE_ROLE_KEY": "sb_secret_x"}
    remote = remote_values("https://project.supabase.co", keys)
    logs = Logs(Console(), tmp_path)
    made: list[tuple[str, str]] = []

    for supabase in (None, remote, remote):
        state = StateFolder(tmp_path / ("a" if len(made) < 2 else "b"))
        values = Stack(state, logs, print, parent_env={}, remote=supabase).values
        made.append((values["SUPABASE_URL"], Path(values["SEALING_KEY_FILE"]).read_text()))

    assert made[1] == made[2] != made[0]
    assert values["NEXT_PUBLIC_SUPABASE_URL"] == made[1][0] == "https://project.supabase.co"
    assert values["SUPABASE_SERVICE_ROLE_KEY"] == "sb_secret_x"


def test_a_setting_that_only_aws_has_is_named_at_the_start() -> None:
    """The launcher names the variables of `lambda.yml` that the local stack lacks."""
    given = {"SHOP_DB": "shop.db", "LIMIT": 5, "PACE": "1", "OWN": "x", "STAGE_S": "${param:s}"}
    given["BUCKET"] = {"Ref": "Bucket"}
    worker = {"environment": given, "secrets": ["KEY"]}
    needs = Needs.model_validate({"functions": {"worker": worker}, "local": {"PACE": "0"}})

    assert needs.unset({"OWN": "y"}) == ["LIMIT", "SHOP_DB"]
