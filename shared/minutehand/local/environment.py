"""The environment of the local stack: what its parts are started with, what `.local/env` says."""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from minutehand.commit import code_environment
from minutehand.config import ConfigurationError
from minutehand.deploy.service import needs_of
from minutehand.local.aws import BUCKET, REGION
from minutehand.local.users import ADA, EVE, PASSWORD
from minutehand.project import VARIABLE, Project, Tenancy
from supabase_local.environment import PREFERRED_GATEWAY, addresses, with_other_names
from supabase_local.environment import for_children as supabase_environment
from supabase_local.ports import LOOPBACK, reserve_port

PREFERRED_API = 8000
#: Our names of a project's keys, and what `supabase status -o env` calls them.
CLI_NAMES = {
    "SUPABASE_PUBLISHABLE_KEY": ("PUBLISHABLE_KEY", "ANON_KEY"),
    "SUPABASE_SECRET_KEY": ("SECRET_KEY", "SERVICE_ROLE_KEY"),
    "SUPABASE_JWT_SECRET": ("JWT_SECRET",),
    "DATABASE_URL": ("DB_URL",),
}
FROM_CLI = "… (supabase status -o env prints it)"
#: Of the launcher's environment, what the product's parts get besides.
PASSED = frozenset({"WORKER_CONCURRENCY", "EXTRA_WORKERS", "WORKERS_AT_ONCE"})


@dataclass(frozen=True)
class Ports:
    """Where each part listens on loopback."""

    gateway: int
    realtime: int
    aws: int
    api: int

    @classmethod
    def choose(cls, *, prefer_known: bool) -> Ports:
        """Reserve ports; the documented ones when free, unless many stacks share the machine."""
        return cls(
            gateway=reserve_port(PREFERRED_GATEWAY if prefer_known else None),
            realtime=reserve_port(),
            aws=reserve_port(),
            api=reserve_port(PREFERRED_API if prefer_known else None),
        )


def contract(
    ports: Ports, supabase: Mapping[str, str], database_url: str, state: Path, project: Project
) -> dict[str, str]:
    """Build what `.local/env` holds: names for tools, and the settings.

    `supabase` is the keys of a stack of its own, or all values of another Supabase.
    """
    api = f"http://{LOOPBACK}:{ports.api}"
    return {
        **with_other_names({**addresses(ports.gateway, database_url), **supabase}),
        "API_URL": api,
        "CONSOLE_URL": f"{api}/",
        "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{ports.aws}",
        "AWS_REGION": REGION,
        "WORKER_SECRET_TOKEN": "dev-secret-token",
        "BACKGROUND_JOB_TOKEN": "dev-background-token",
        **project.environment,
        **code_environment(project),
        "STAGE": "local",
        "CORS_ORIGINS": f"{api},http://localhost:{ports.api}",
        "ALLOW_ANONYMOUS": "true",
        "STREAMING": "true",
        **needs_of(project).variables({}),
        "UPLOADS_BUCKET": BUCKET,
        # a file and not moto's KMS, which forgets its keys when it stops
        "SEALING_KEY_FILE": str(state / "sealing.key"),
    }


def sealing_key(values: Mapping[str, str]) -> str:
    """The key that seals in a project: made of its secret, so that no machine has one alone."""
    secret = values.get("SUPABASE_SECRET_KEY") or values["SUPABASE_JWT_SECRET"]
    digest = hmac.digest(secret.encode(), b"sealing key of a project", "sha256")
    return base64.urlsafe_b64encode(digest).decode()


def demo_values(tenancy: Tenancy = "workspaces") -> dict[str, str]:
    """Who can sign in to a stack: those of our demo workspaces, or as their own tenants.

    Empty where the tenants are the project's own: their people are its seed's.
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
    """What a stack beside another Supabase takes from it; names as ours or the Supabase CLI's.

    Without a `DATABASE_URL` the worker polls, and nothing wakes it. Who may sign in to our demo
    workspaces there is taken by the names of `demo_values`.

    Raises:
        ConfigurationError: A key is missing.
    """
    url = url.rstrip("/")
    found = {"SUPABASE_URL": url, "REALTIME_URL": f"{url.replace('http', 'ws', 1)}/realtime/v1"}
    for name, others in {**CLI_NAMES, **dict.fromkeys(demo_values(), ())}.items():
        value = next((environ[key] for key in (name, *others) if environ.get(key)), None)
        if value is not None:
            found[name] = value
    if "SUPABASE_PUBLISHABLE_KEY" not in found:
        raise ConfigurationError("SUPABASE_PUBLISHABLE_KEY", "is not set", FROM_CLI)
    if not {"SUPABASE_SECRET_KEY", "SUPABASE_JWT_SECRET"} & found.keys():
        raise ConfigurationError("SUPABASE_SECRET_KEY", "is not set", FROM_CLI)
    return found


def for_children(
    values: Mapping[str, str], inherited: Mapping[str, str], project: Project
) -> dict[str, str]:
    """Build the environment of the stack's own processes.

    Beyond what every part of a local Supabase gets, what sets the worker, and the variables that
    the apps' `lambda.yml` name, may be overridden; a developer's real AWS account is never reached.
    """
    of_apps = needs_of(project).variables(inherited)
    passed = {
        name: value
        for name, value in inherited.items()
        if name in PASSED
        or name.startswith(("LANGUAGE_MODEL", "SPEECH_", "OTEL_"))
        or (value and name in of_apps)
    }
    return {
        **supabase_environment(values, inherited),  # with the apps' defaults and local servers
        **passed,
        VARIABLE: str(project.root),
        # the project's own packages, as for a command run with `python -m` in its folder
        "PYTHONPATH": os.pathsep.join(map(str, project.import_roots)),
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
