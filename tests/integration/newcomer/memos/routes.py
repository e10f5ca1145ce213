"""The routes: upload a note as a member, follow and read it as anyone who has the link."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import HTMLResponse

from minutehand.queue.dependencies import Dependencies
from minutehand.web.auth import UserOrGuest
from minutehand.web.caller import Caller, token_of
from minutehand.web.services import Services
from minutehand.web.uploads import Place, Upload, UploadRoutes

Session = Annotated[str, Path(pattern="^guest_[0-9a-f]{64}$")]
PAGE = """<!doctype html>
<title>Memo</title>
<h1>Memo</h1>
<p id="state">Waiting</p>
<script>
  const state = document.getElementById("state");
  const look = async () => {
    const memo = await (await fetch(location.pathname.replace(/\\/page$/, ""))).json();
    state.textContent = memo.progress?.message ?? memo.status;
    if (memo.result) document.querySelector("h1").textContent = memo.result.headline;
  };
  const events = new EventSource("/api/sessions/SESSION/events");
  events.addEventListener("open", look);
  for (const kind of ["job.progress", "job.completed", "job.failed"])
    events.addEventListener(kind, look);
</script>
"""


class MemoUpload(Upload):
    """An upload, and the link of what it became."""

    session_id: str | None = None


class MemoUploads(UploadRoutes):
    """Notes of at most 100 kB."""

    answer = MemoUpload
    media_types = ("text/plain",)
    most_bytes = 100_000

    def __init__(self, app: Dependencies) -> None:
        self._app = app

    async def on_complete(
        self, place: Place, checksum: str, caller: Caller, services: Services
    ) -> dict[str, Any]:
        """Enqueue its job, and open the session that the link shows."""
        began = await self._app.acting_as(caller.token).call(
            "memo_start", workspace_id=place.workspace_id, key=place.key, title=place.title
        )
        if began.pop("wake"):
            await services.waker.wake()
        return began


def router(services: Services) -> APIRouter:
    """The app's routes over one process's services."""
    app = services.provide(Dependencies, lambda: Dependencies(services.settings))
    uploads = APIRouter(prefix="/api/memos/uploads", tags=["memos"])
    MemoUploads(app).add_to(uploads)
    routes = APIRouter(prefix="/api/memos", tags=["memos"])

    @routes.get("/{session_id}")
    async def get_memo(session_id: Session, caller: UserOrGuest) -> dict[str, Any]:
        """How far it is, and what came of it."""
        functions = app.acting_as(token_of(caller))
        [job] = (await functions.call("guest_session_jobs", session_id=session_id))["jobs"]
        return {name: job[name] for name in ("status", "progress", "result", "error_message")}

    @routes.get("/{session_id}/page", response_class=HTMLResponse)
    async def get_page(session_id: Session, caller: UserOrGuest) -> str:
        """A page that follows it live, and then shows what came of it."""
        return PAGE.replace("SESSION", session_id)

    both = APIRouter()
    both.include_router(uploads)
    both.include_router(routes)
    return both
