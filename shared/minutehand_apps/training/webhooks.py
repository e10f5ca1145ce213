"""The video host's webhooks: signed, taken once, in any order.

An event alone decides nothing: it makes the waiting job ask the host at once.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from minutehand.config import ConfigurationError
from minutehand.web.errors import ApiError
from minutehand.web.incoming import is_signed
from minutehand.web.services import Provided
from minutehand_apps.training.services import Training


class TakenEvent(BaseModel):
    """What became of a webhook."""

    known: bool
    repeated: bool


class WebhookRoutes:
    """The routes below `/api/trainings/webhooks`."""

    def __init__(self, app: Training) -> None:
        self._app = app

    def add_to(self, router: APIRouter) -> None:
        """Add the routes."""
        router.add_api_route("/mux", self.take_mux, methods=["POST"])

    async def take_mux(self, request: Request, services: Provided) -> TakenEvent:
        """Take a webhook of Mux, signed by `MUX_WEBHOOK_SECRET`; harmless when repeated."""
        secret = self._app.videos.mux_webhook_secret
        if secret is None:
            raise ApiError(404, "not_found", "This deployment takes no webhooks")
        body = await request.body()
        if not is_signed(body, request.headers.get("mux-signature", ""), secret):
            raise ApiError(401, "unauthorized", "Unauthorized")
        event = read_event(body)
        if event is None:
            return TakenEvent(known=False, repeated=False)
        try:
            taken = await self._app.store.host_event(event)
        except ConfigurationError as error:
            raise ApiError(503, "not_configured", "This deployment lacks a sign-in") from error
        if taken["wake"]:
            await services.waker.wake()
        return TakenEvent.model_validate(taken)


def read_event(body: bytes) -> dict[str, Any] | None:
    """What an event says that matters here; None for other shapes and other objects."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or not isinstance(told.get("data"), dict):
        return None
    kind, data = told.get("type"), told["data"]
    if not isinstance(kind, str) or not kind.startswith(("video.upload.", "video.asset.")):
        return None
    of_asset = kind.startswith("video.asset.")
    settings = data.get("new_asset_settings")
    passthrough = data.get("passthrough") or (
        settings.get("passthrough") if isinstance(settings, dict) else None
    )
    found = {
        "event_id": told.get("id"),
        "type": kind,
        "upload": data.get("upload_id") if of_asset else data.get("id"),
        "asset": data.get("id") if of_asset else data.get("asset_id"),
        "passthrough": passthrough,
    }
    if not isinstance(found["event_id"], str) or not found["event_id"]:
        return None
    return {name: value for name, value in found.items() if isinstance(value, str)}
