"""A temporary project with its own Postgres and Data API.

The temporary project is deleted at the end.

The worker's tests also use these temporary projects. No temporary project uses `.local`, the folder
of the local stack.
"""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg

from minutehand.config import Settings
from minutehand.local.database import apply_project, seed_files
from minutehand.local.migrations import history
from minutehand.local.users import ACME, ADA, create_demo_users
from minutehand.project import Project
from supabase_local import migrations
from supabase_local.node import GATEWAY, node_binary
from supabase_local.ports import reserve_port
from supabase_local.postgres import Postgres
from supabase_local.processes import spawn, stop

JWT_SECRET = "a-scratch-secret-of-at-least-32-characters"
PUBLISHABLE_KEY = "sb_publishable_scratch"
SECRET_KEY = "sb_secret_scratch"
WORKSPACE = str(ACME)
USER = str(ADA.id)


@dataclass
class Gateway:
    """A Data API process that can be restarted on its port."""

    database_url: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    jwt_secret: str = JWT_SECRET
    #: Schema that is exposed in addition to `public`.
    schema: str = "public"
    #: Major version of PostgREST, whose responses the local Data API reproduces.
    version: str = "16"

    @property
    def url(self) -> str:
        """Base URL of the project."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the Data API process, and wait until the process responds.

        Raises:
            RuntimeError: The process ended, or did not respond within 90 seconds.
        """
        self.process = spawn(
            [node_binary(), GATEWAY],
            env={
                "GATEWAY_PORT": str(self.port),
                "DATABASE_URL": self.database_url,
                "REALTIME_PORT": "1",
                "SUPABASE_JWT_SECRET": self.jwt_secret,
                "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
                "SUPABASE_SECRET_KEY": SECRET_KEY,
                "LITE_TELEMETRY": "0",
                "DATA_API_VERSION": self.version,
                "DATA_API_SCHEMAS": self.schema,
                "NODE_COMPILE_CACHE": os.environ.get("NODE_COMPILE_CACHE", ""),
            },
            output=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 90
        while not self._responds():
            time.sleep(0.03)
            if (code := self.process.poll()) is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the Data API on port {self.port} did not start; {code}")

    def stop(self) -> None:
        """Stop the process. Running calls of the Data API fail."""
        if self.process is not None:
            stop(self.process)
            self.process = None

    def _responds(self) -> bool:
        try:
            return httpx.get(f"{self.url}/_ready", timeout=20, trust_env=False).is_success
        except httpx.HTTPError:
            return False


@dataclass
class Scratch:
    """A temporary project that is running."""

    postgres: Postgres
    gateway: Gateway

    @property
    def database_url(self) -> str:
        """URL of the database, as the superuser."""
        return self.gateway.database_url

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables with the project's settings, including DATABASE_URL."""
        return {
            "SUPABASE_URL": self.gateway.url,
            "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
            "SUPABASE_SECRET_KEY": SECRET_KEY,
            "SUPABASE_JWT_SECRET": JWT_SECRET,
            "DATABASE_URL": self.database_url,
            "MINUTEHAND_APPS": "minutehand_apps.*",
        }

    def connect(self) -> psycopg.Connection[Any]:
        """Open a connection in autocommit mode as the superuser."""
        return psycopg.connect(self.database_url, autocommit=True)


def scratch_settings(url: str = "http://127.0.0.1:9", **changes: Any) -> Settings:
    """Return the settings of a temporary project. At the default address, nothing responds."""
    made = Settings(
        supabase_url=url,
        supabase_publishable_key=PUBLISHABLE_KEY,
        supabase_secret_key=SECRET_KEY,
        supabase_jwt_secret=JWT_SECRET,
        worker_secret_tokens=("worker-token",),
        background_job_tokens=("background-token",),
        apps=("minutehand_apps.*",),
    )
    return made.model_copy(update=changes)


def user_token(user_id: str = USER) -> str:
    """Sign a token for a user, as Auth does."""
    now = int(time.time())
    claims = {"sub": user_id, "role": "authenticated", "aud": "authenticated", "iat": now}
    return jwt.encode({**claims, "exp": now + 36_000}, JWT_SECRET, algorithm="HS256")


def prepare_database(server: Postgres, database: str, *, is_released: bool = False) -> str:
    """Create a database with the migrations, the demo's users and the seed. Return its URL.

    Args:
        server: A Postgres server that is running.
        database: Name of the database.
        is_released: True to install the last release instead of the current sources.
    """
    if database != "postgres":
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"create database {database}".encode())
    url = server.url(database=database)
    owner = migrations.as_owner(url)
    migrations.prepare_hosted(url)
    migrations.set_project_owner(url, server.password)
    if is_released:
        released = Project.find().root / "supabase" / "migrations"  # without the apps
        files = [file for file in history(Project.find()) if file.parent == released]
        migrations.apply_migrations(owner, files)
    else:
        apply_project(owner)
    create_demo_users(url)
    migrations.apply_seed(owner, seed_files()[0])
    return url


@contextmanager
def scratch_project(folder: Path) -> Iterator[Scratch]:
    """Run a temporary project in `folder` until the block ends."""
    server = Postgres(folder)
    try:
        server.start()
        gateway = Gateway(prepare_database(server, "postgres"), reserve_port())
        gateway.start()
        try:
            yield Scratch(server, gateway)
        finally:
            gateway.stop()
    finally:
        server.destroy()
