"""A project of one test's own: a fresh database behind a Data API process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
from psycopg.rows import dict_row

from infra.local.processes import spawn, stop
from shared.config import Settings
from tests.support.databases import Database

JWT_SECRET = "a-test-secret-of-at-least-32-characters"
PUBLISHABLE_KEY = "sb_publishable_test"
SECRET_KEY = "sb_secret_test"
ACME = "11111111-1111-4111-8111-111111111111"
ADA = "aaaaaaaa-0000-4000-8000-000000000001"


@dataclass
class Gateway:
    """A Data API process that can be stopped and started again on the same port."""

    database: Database
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        node = Path(sys.executable).parent / "node"
        command = [node if node.exists() else shutil.which("node") or "node"]
        root = Path(__file__).resolve().parents[2]
        self.process = spawn(
            [*command, root / "infra/local/gateway/server.mjs"],
            env={
                "PATH": str(Path(sys.executable).parent),
                "GATEWAY_PORT": str(self.port),
                "DATABASE_URL": self.database.url,
                "REALTIME_PORT": "1",
                "SUPABASE_JWT_SECRET": JWT_SECRET,
                "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
                "SUPABASE_SECRET_KEY": SECRET_KEY,
                "LITE_TELEMETRY": "0",
            },
            output=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            try:
                if httpx.get(f"{self.url}/_ready", timeout=2, trust_env=False).is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise RuntimeError("the Data API did not come up")

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process)
            self.process = None


@dataclass
class Project:
    """One test's own project: its settings, and eyes on the tables behind it."""

    settings: Settings
    database: Database
    gateway: Gateway

    def rows(self, statement: str, *args: Any) -> list[dict[str, Any]]:
        """Query as the superuser."""
        with self.database.connect() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            cursor.execute(statement.encode(), args)
            return cursor.fetchall()

    def row(self, job_id: str) -> dict[str, Any]:
        """The job's row."""
        [row] = self.rows("select * from public.jobs where id = %s", job_id)
        return row

    def run_sql(self, statement: str, *args: Any) -> None:
        with self.database.connect() as connection:
            connection.execute(statement.encode(), args)

    def insert(self, job_type: str, payload: Any = None, **columns: Any) -> str:
        """Enqueue by a plain insert, the door SQL users take."""
        values = {
            "workspace_id": ACME,
            "job_type": job_type,
            "payload": psycopg.types.json.Jsonb(payload or {}),
            "status": "pending",
            **columns,
        }
        names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
        with self.database.connect() as connection:
            row = connection.execute(
                f"insert into public.jobs ({names}) values ({marks}) returning id".encode(),
                tuple(values.values()),
            ).fetchone()
        assert row is not None
        return str(row[0])

    def token(self, user_id: str = ADA) -> str:
        """A user's JWT, as Auth would sign it."""
        return user_token(user_id)

    def event_types(self, job_id: str) -> list[str]:
        """The job's events in order; fails if their seq has a gap."""
        rows = self.rows(
            "select seq, type from public.job_events where job_id = %s order by seq", job_id
        )
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        return [row["type"].removeprefix("job.") for row in rows]


def user_token(user_id: str) -> str:
    """A user's JWT, as Auth would sign it."""
    now = int(time.time())
    return jwt.encode(
        {
            "sub": user_id,
            "role": "authenticated",
            "aud": "authenticated",
            "iat": now,
            "exp": now + 3600,
        },
        JWT_SECRET,
        algorithm="HS256",
    )
