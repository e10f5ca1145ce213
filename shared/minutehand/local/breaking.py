"""What the console's "Break it" panel does to this machine's stack, and to nothing else.

Bound to loopback by its host, opened by a token that only the console's own origin can read.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import psycopg
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from minutehand.config import Settings
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.local.processes import Identity
from minutehand.project import Project

FREEZE_SECONDS = 15
DROP_SECONDS = 20
HEADER = "x-break-token"
BREAK_PATH = "/local/break/"
_LOOPBACK = {"127.0.0.1", "localhost"}
_FREEZE = "import os, sys, time; pid = int(sys.argv[1]); time.sleep(0.2); os.kill(pid, {stop})"
_THAW = "; time.sleep(float(sys.argv[2])); os.kill(pid, {go})"


# it ends by its own clock: its caller may be killed meanwhile
_DROP = """
do $do$ begin
  create schema if not exists minutehand_local;
  execute format($make$
    create or replace function minutehand_local.drop_message() returns trigger
    language plpgsql set search_path = '' as $body$
    begin
      return case when clock_timestamp() < %L then null else new end;
    end $body$ $make$, clock_timestamp() + interval '{seconds} seconds');
  create or replace trigger drop_for_a_while before insert on realtime.messages
    for each row execute function minutehand_local.drop_message();
end $do$
"""


class NotInStackError(Exception):
    """What should be broken does not belong to this stack."""


def break_token(environ: Mapping[str, str]) -> str:
    """Derive the panel's token from the stack's secret, so that it outlives a killed API."""
    secret = environ.get("SUPABASE_JWT_SECRET", "").encode()
    return hmac.new(secret, b"break it", hashlib.sha256).hexdigest()


class Breaker:
    """The ways to break this stack; each returns what was done, in a sentence.

    Args:
        workers: The processes that run jobs.
    """

    def __init__(self, environ: Mapping[str, str], *, workers: Callable[[], list[int]]) -> None:
        self._token = break_token(environ)
        self._workers = workers
        self._database_url = environ.get("DATABASE_URL", "")
        self._state = Path(environ.get("SEALING_KEY_FILE", "")).parent
        self.ways: dict[str, Callable[[], Awaitable[str]]] = {
            "kill-worker": self.kill_worker,
            "freeze-worker": self.freeze_worker,
            "kill-realtime": self.kill_realtime,
            "drop-messages": self.drop_messages,
            "restart-postgres": self.restart_postgres,
            "expire-leases": self.expire_leases,
            "jump-clock": self.jump_clock,
        }

    async def answer(self, way: str, *, host: str, given: str) -> tuple[int, dict[str, str]]:
        """Break it that way, if the request comes from the stack's own console: status and body."""
        # a page of another origin may reach loopback by a name of its own, but not with our name
        if host not in _LOOPBACK or not hmac.compare_digest(given.encode(), self._token.encode()):
            return _refusal(403, "forbidden", "Only this stack's own console may break it")
        act = self.ways.get(way)
        if act is None:
            return _refusal(404, "unknown_way", "Unknown way to break it")
        try:
            return 200, {"done": await act()}
        except NotInStackError as error:
            return _refusal(409, "not_ours", str(error))
        except psycopg.OperationalError as error:
            return _refusal(503, "unavailable", f"The database is unavailable: {error}".strip())

    async def kill_worker(self) -> str:
        """Kill what runs the jobs."""
        for pid in self._running_workers():
            os.kill(pid, signal.SIGKILL)
        return "The worker is killed; another one takes its place."

    async def freeze_worker(self) -> str:
        """Stop the worker's clock for a while: its leases expire under it."""
        program = _FREEZE.format(stop=int(signal.SIGSTOP)) + _THAW.format(go=int(signal.SIGCONT))
        for pid in self._running_workers():
            await asyncio.create_subprocess_exec(
                sys.executable,
                *("-c", program, str(pid), str(FREEZE_SECONDS)),
                start_new_session=True,
            )
        return f"The worker is frozen for {FREEZE_SECONDS} s."

    def _running_workers(self) -> list[int]:
        pids = self._workers()
        if not pids:
            raise NotInStackError("No worker is running at this moment: enqueue a job first.")
        return pids

    async def kill_realtime(self) -> str:
        """Kill the Realtime server: messages in flight are lost."""
        for child in self._children():
            process = child.find()
            if process and any("supabase_local.realtime" in part for part in process.cmdline()):
                process.kill()
                return "Realtime is killed; watchers poll until it is back."
        raise NotInStackError("No Realtime server of this stack is running.")

    async def drop_messages(self) -> str:
        """Lose every broadcast for a while, as a plan's limit or a full pool would."""
        await self._ask(_DROP.format(seconds=DROP_SECONDS))
        return f"Realtime messages are dropped for {DROP_SECONDS} s; watchers read what they miss."

    async def restart_postgres(self) -> str:
        """End Postgres as a crash would; every connection is cut."""
        folder = await self._ask("show data_directory")
        postmaster = int((Path(str(folder)) / "postmaster.pid").read_text().split()[0])
        if postmaster not in {child.pid for child in self._children()}:
            raise NotInStackError(
                "This Postgres was not started by this stack, so it is unchanged."
            )
        os.kill(postmaster, signal.SIGQUIT)
        return "Postgres is crashed; it recovers and the launcher starts it again."

    async def expire_leases(self) -> str:
        """Let all leases end now: anyone who holds one becomes a zombie."""
        count = await self._ask(
            "with expired as (update queue.leases set expires_at = now() - interval '1 second',"
            " look_at = now() - interval '1 second'"
            " returning 1) select count(*) from expired"
        )
        return f"{count} leases have expired; their jobs run again, the zombies are fenced off."

    async def jump_clock(self) -> str:
        """Make every delayed job due now."""
        count = await self._ask(
            "with jumped as (update queue.deferred set run_at = now() where run_at > now()"
            " returning 1) select count(*) from jumped"
        )
        return f"{count} delayed jobs are due now."

    def _children(self) -> list[Identity]:
        recorded = self._state / "children.json"
        if not recorded.exists():
            return []
        return [Identity(**entry) for entry in json.loads(recorded.read_text())]

    async def _ask(self, statement: str) -> object:
        if not self._database_url:
            raise NotInStackError(
                "This database was not started by this stack, so it is unchanged."
            )
        async with await psycopg.AsyncConnection.connect(
            self._database_url, autocommit=True, connect_timeout=3
        ) as connection:
            project = Project.find()
            named = rewrite(statement, Schemas(project.schema_, project.engine_schema))
            found = await connection.execute(named.encode())
            row = await found.fetchone() if found.description else None
        return row[0] if row else None


def break_routes(
    settings: Settings, environ: Mapping[str, str], workers: Callable[[], list[int]]
) -> list[Route]:
    """The panel's one route; none outside the local stage."""
    if settings.stage != "local":
        return []
    breaker = Breaker(environ, workers=workers)

    async def break_it(request: Request) -> JSONResponse:
        status, body = await breaker.answer(
            request.path_params["way"],
            host=request.url.hostname or "",
            given=request.headers.get(HEADER, ""),
        )
        return JSONResponse(body, status_code=status)

    return [Route(f"{BREAK_PATH}{{way}}", break_it, methods=["POST"])]


def _refusal(status: int, code: str, text: str) -> tuple[int, dict[str, str]]:
    return status, {"error": text, "code": code}
