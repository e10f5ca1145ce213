"""The environment variables of the local stack's processes, and of `.local/env`."""

import base64
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from minutehand.commit import code_environment
from minutehand.config import ConfigurationError
from minutehand.deploy.service import needs_of
from minutehand.local.aws import BUCKET, REGION
from minutehand.local.users import ADA, EVE, PASSWORD
from minutehand.project import VARIABLE, Project, Tenancy
from supabase_local.environment import (
    PREFERRED_GATEWAY,
    addresses,
    for_children as supabase_environment,
    with_other_names,
)
from supabase_local.ports import LOOPBACK, reserve_port

PREFERRED_API = 8000
#: Settings with the keys of a Supabase project, and the names of these keys in the output of
#: `supabase status -o env`.
CLI_NAMES = {
    "SUPABASE_PUBLISHABLE_KEY": ("PUBLISHABLE_KEY", "ANON_KEY"),
    "SUPABASE_SECRET_KEY": ("SECRET_KEY", "SERVICE_ROLE_KEY"),
    "SUPABASE_JWT_SECRET": ("JWT_SECRET",),
    "DATABASE_URL": ("DB_URL",),
}
FROM_CLI = "… (supabase status -o env prints it)"
#: Environment variables that Minutehand's processes inherit from the launcher, in addition to
#: Supabase's variables.
PASSED = frozenset({"WORKER_CONCURRENCY", "EXTRA_WORKERS", "WORKERS_AT_ONCE"})


def choose_ports(*, prefer_known: bool) -> dict[str, int]:
    """Reserve a port of this machine for each part of the stack.

    With `prefer_known`, the gateway and the API get their documented ports if these are free.
    """
    known = {"gateway": PREFERRED_GATEWAY, "api": PREFERRED_API} if prefer_known else {}
    return {name: reserve_port(known.get(name)) for name in ("gateway", "realtime", "aws", "api")}


def contract(
    ports: Mapping[str, int],
    supabase: Mapping[str, str],
    database_url: str,
    state: Path,
    project: Project,
) -> dict[str, str]:
    """Return the settings of the local stack, which `.local/env` contains.

    `supabase` contains the keys of the local Supabase that this stack starts, or all settings of a
    Supabase that already runs.
    """
    api = f"http://{LOOPBACK}:{ports['api']}"
    return {
        **with_other_names({**addresses(ports["gateway"], database_url), **supabase}),
        "API_URL": api,
        "CONSOLE_URL": f"{api}/",
        "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{ports['aws']}",
        "AWS_REGION": REGION,
        "WORKER_SECRET_TOKEN": "dev-secret-token",
        "BACKGROUND_JOB_TOKEN": "dev-background-token",
        **project.environment,
        **code_environment(project),
        "STAGE": "local",
        "CORS_ORIGINS": f"{api},http://localhost:{ports['api']}",
        "ALLOW_ANONYMOUS": "true",
        "STREAMING": "true",
        **needs_of(project).variables({}),
        "UPLOADS_BUCKET": BUCKET,
        # use a file for the encryption key, because moto's KMS loses its keys when moto stops
        "SEALING_KEY_FILE": str(state / "sealing.key"),
    }


def sealing_key(values: Mapping[str, str]) -> str:
    """Derive the key that encrypts stored secrets from the project's secret.

    All machines that share the project's secret have the same key.
    """
    secret = values.get("SUPABASE_SECRET_KEY") or values["SUPABASE_JWT_SECRET"]
    digest = hmac.digest(secret.encode(), b"sealing key of a project", "sha256")
    return base64.urlsafe_b64encode(digest).decode()


def demo_values(tenancy: Tenancy = "workspaces") -> dict[str, str]:
    """Return settings with the demo accounts, and with the ids of their tenants.

    A project with its own tables of tenants has no demo accounts, because its own seed creates
    users.
    """
    if tenancy == "existing":
        return {}
    ada, eve = (user.workspace_id if tenancy == "workspaces" else user.id for user in (ADA, EVE))
    return {
        "DEMO_EMAIL": ADA.email,
        "DEMO_PASSWORD": PASSWORD,
        "DEMO_WORKSPACE_ID": str(ada),
        "DEMO_OTHER_EMAIL": EVE.email,
        "DEMO_OTHER_WORKSPACE_ID": str(eve),
    }


def remote_values(url: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a Supabase that already runs.

    `environ` may contain each key under its old name or its new name.

    Without `DATABASE_URL`, the worker polls, because the database cannot wake the worker. `environ`
    may also contain demo accounts, in variables with the names that `demo_values` returns.

    Raises:
        ConfigurationError: A required key of the Supabase project is not set.
    """
    values = {"SUPABASE_URL": url.rstrip("/")}
    for name, aliases in {**CLI_NAMES, **dict.fromkeys(demo_values(), ())}.items():
        value = next((environ[key] for key in (name, *aliases) if environ.get(key)), None)
        if value is not None:
            values[name] = value
    if "SUPABASE_PUBLISHABLE_KEY" not in values:
        raise ConfigurationError("SUPABASE_PUBLISHABLE_KEY", "is not set", FROM_CLI)
    if not {"SUPABASE_SECRET_KEY", "SUPABASE_JWT_SECRET"} & values.keys():
        raise ConfigurationError("SUPABASE_SECRET_KEY", "is not set", FROM_CLI)
    return values


def for_children(
    values: Mapping[str, str], parent_env: Mapping[str, str], project: Project
) -> dict[str, str]:
    """Return the environment variables of the local stack's processes.

    The processes inherit the launcher's variables for a local Supabase, for the worker, and for
    variables in the apps' `lambda.yml`. AWS credentials are replaced by placeholders, so that no
    process uses a real AWS account.
    """
    app_variables = needs_of(project).variables(parent_env)
    extra_values = {
        name: value
        for name, value in parent_env.items()
        if name in PASSED
        or name.startswith(("LANGUAGE_MODEL", "SPEECH_", "OTEL_"))
        or (value and name in app_variables)
    }
    return {
        # includes the apps' default settings and the URLs of local servers
        **supabase_environment(values, parent_env),
        **extra_values,
        VARIABLE: str(project.root),
        # let Python find the project's packages, as `python -m` does in the project's folder, and
        # then those that the launcher finds
        "PYTHONPATH": os.pathsep.join(
            [*map(str, project.import_roots), parent_env.get("PYTHONPATH", "")]
        ).rstrip(os.pathsep),
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
