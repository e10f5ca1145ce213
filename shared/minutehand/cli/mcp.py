"""`minutehand mcp`, which offers tools for jobs, and the pages, to a coding agent."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Literal

import typer

from minutehand.cli.jobs import enqueue_job, read_jobs
from minutehand.docs import PAGES
from minutehand.terminal.connection import CommandFailed, Connection
from minutehand.terminal.events import ENDED
from minutehand.terminal.ids import resolve_job_id
from minutehand.terminal.options import workspace_verb
from minutehand.terminal.output import Output
from minutehand.version import VERSION

MAX_JOBS = 50
MAX_LOG_LINES = 20
MAX_WATCH_SECONDS = 25


class Tools:
    """The tools for the agent. Each tool's docstring is the description that the agent reads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._get = connection.get

    def list_jobs(
        self,
        job_type: str | None = None,
        state: str | None = None,
        tag: str | None = None,
        search: str | None = None,
        limit: int = 20,
    ) -> list[dict[str, Any]]:
        """List jobs, newest first. A state is e.g. queued, running, retrying, failed."""
        filters = {"job_type": job_type, "state": state, "tag": tag, "search": search}
        workspace = self._connection.workspace
        return read_jobs(
            self._connection, {"workspace_id": workspace, **filters}, min(limit, MAX_JOBS)
        )

    def explain(self, job_id: str) -> dict[str, Any]:
        """Explain why a job is not running or has failed, and what to do."""
        path = self._path(job_id)
        return {
            "explained": self._get(f"{path}/explain"),
            "attempts": self._get(f"{path}/attempts"),
        }

    def watch(self, job_id: str, seconds: float = 20) -> dict[str, Any]:
        """Wait up to 25 seconds for the end of a job; return the job and its last log lines."""
        path = self._path(job_id)
        end = time.monotonic() + min(seconds, MAX_WATCH_SECONDS)
        while (job := self._get(path))["status"] not in ENDED and time.monotonic() < end:
            time.sleep(1)
        logs = self._get(f"{path}/logs", limit=200)["logs"]
        return {"job": job, "logs": logs[-MAX_LOG_LINES:]}

    def status(self) -> dict[str, Any]:
        """Show the workspace's problems, and counts and durations of its job types."""
        workspace = self._connection.workspace
        explanation = self._get("/api/status/explain", workspace_id=workspace)
        return {"findings": explanation, "status": self._get("/api/status", workspace_id=workspace)}

    def enqueue(
        self,
        job_type: str,
        payload: dict[str, Any],
        delay_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Enqueue a job. With an idempotency key, a repeated call creates no second job."""
        return enqueue_job(
            self._connection, job_type, payload, idempotency_key, delay_seconds=delay_seconds
        )

    def retry(self, job_id: str) -> dict[str, Any]:
        """Run a failed or cancelled job again, or a delayed job now."""
        return self._post(f"{self._path(job_id)}/retry")

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job. A worker that responds asks it to stop within five seconds."""
        return self._post(f"{self._path(job_id)}/cancel")

    def pause(
        self, job_type: str, reason: str | None = None, action: Literal["pause", "resume"] = "pause"
    ) -> dict[str, Any]:
        """Stop starting jobs of a type in the workspace, or resume the type."""
        body = {"job_type": job_type, "reason": reason}
        return self._post(self._connection.path(action), json=body)

    def _path(self, job_id: str) -> str:
        return f"/api/jobs/{resolve_job_id(self._connection, job_id)}"

    def _post(self, path: str, **options: Any) -> dict[str, Any]:
        return dict(self._connection.call("POST", path, **options))


READ_TOOLS = ("list_jobs", "explain", "watch", "status")
WRITE_TOOLS = ("enqueue", "retry", "cancel", "pause")


@workspace_verb
def mcp(
    output: Output,
    connection: Connection,
    *,
    write: Annotated[
        bool, typer.Option("--write", help="Also offer tools that change jobs: enqueue, retry, …")
    ] = False,
) -> None:
    """Serve jobs and pages to an agent by MCP, with your rights; read-only by default."""
    from fastmcp import FastMCP
    from fastmcp.resources import TextResource

    server = FastMCP("minutehand", version=VERSION)
    tools = Tools(connection)
    for name in READ_TOOLS + (WRITE_TOOLS if write else ()):
        server.tool(with_fixes(getattr(tools, name)))
    for page in PAGES:
        uri: Any = f"docs://{page.topic}"
        server.add_resource(TextResource(uri=uri, name=page.title, text=page.printed))
    server.run("stdio", show_banner=False)


def with_fixes(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Report an error of the API as an error of the tool, with its code and the next step."""
    from fastmcp.exceptions import ToolError

    @wraps(tool)
    def call(**arguments: Any) -> Any:
        try:
            return tool(**arguments)
        except CommandFailed as error:
            parts = (str(error), error.code, error.fix)
            raise ToolError("; ".join(part for part in parts if part)) from error

    return call
