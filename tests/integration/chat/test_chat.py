"""From a message to its reply, and from a complex one to background work and its result."""

from __future__ import annotations

import pytest

from tests.integration.chat.conftest import Desk
from tests.unit.ai.model_server import Fault, ModelServer


async def test_a_message_is_answered(desk: Desk, server: ModelServer) -> None:
    """Once, by a job of its own; its text streamed as progress, usage and cost counted."""
    server.faults["text"] = [Fault(said="The roof is being mended; it will take a week. " * 3)]
    conversation = await desk.begin()
    sent = await desk.say(conversation, "What about the roof?", client_id="one")

    state = await desk.settled(conversation)

    asked, reply = await desk.messages(conversation)
    assert (asked["text"], asked["kind"], asked["job_id"]) == (
        "What about the roof?", "message", sent["job_id"],
    )  # fmt: skip
    assert (reply["author"], reply["kind"], reply["job_id"]) == (
        "assistant", "reply", sent["job_id"],
    )  # fmt: skip
    assert reply["text"].startswith("The roof is being mended")
    assert (reply["model"], reply["offline"], reply["input_tokens"]) == ("test-model", False, 100)
    assert reply["cost_usd"] == pytest.approx((100 * 1 + 50 * 2) / 1e6)
    assert (state["title"], state["messages"], state["replies"]) == ("What about the roof?", 2, [])
    told = desk.project.rows(
        "select data -> 'progress' as p from public.job_events"
        " where session_id = %s and type = 'job.progress'",
        f"chat:{conversation}",
    )
    live = [row["p"] for row in told if row["p"]["stage"].startswith("text:")]
    assert live[-1]["stage"] == "text:0"
    assert live[-1]["message"].startswith("The roof is being mended")
    job = desk.project.row(sent["job_id"])
    assert (job["status"], job["result"]) == ("completed", {"message_id": reply["id"]})
