"""An alert posted to Slack, and as plain JSON: what is sent, refused, tried again, kept secret."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minutehand.webhooks.secrets import WebhookSecrets
from tests.integration.webhooks.conftest import Endpoint, Post
from tests.support.engine import GLOBEX
from tests.support.project import ACME, Project

WATCHED = {"name": "<failures> & more", "metric": "failed", "threshold": 1, "minutes": 15}


async def watch(post: Post, url: str, format_: str = "slack", *, of: str = ACME) -> dict[str, Any]:
    """Keep an alert that is posted, as the API does."""
    sealed = await WebhookSecrets(post.worker.settings).seal_address(of, url)
    target = {"format": format_, "host": "127.0.0.1", "sealed_url": sealed}
    made: dict[str, Any] = await post.call("put_alert", p_alert={**WATCHED, "post": target})
    return made


async def announced(post: Post) -> dict[str, Any]:
    """Let it be raised, if it is not yet, and its job run once."""
    post.project.run_sql(
        "insert into queue.stat_deltas (at, job_type, workspace_id, outcome, jobs)"
        f" values (queue.clock(), 'work', '{ACME}', 'failed', 3);"
        "select queue.check_alerts(queue.clock())"
    )
    await post.settle()
    [row] = post.project.rows(
        "select *, extract(epoch from next_retry_at - updated_at)::float as wait"
        " from public.jobs where job_type = 'alert'"
    )
    return row


async def test_slack_gets_a_message_in_blocks(post: Post, endpoint: Endpoint) -> None:
    """As its documentation has them: sections of plain texts, and a text for notifications."""
    made = await watch(post, endpoint.url)

    row = await announced(post)

    assert (row["status"], row["result"]) == ("completed", {"mailed": 0, "posted": True})
    [message] = [received.event for received in endpoint.received]
    assert message["text"] == "failed jobs reached its threshold."
    assert {block["type"] for block in message["blocks"]} == {"section"}
    fields = message["blocks"][1]["fields"]
    texts = [message["blocks"][0]["text"], *fields]
    assert all(set(one) == {"type", "text", "emoji"} for one in texts)
    assert {one["type"] for one in texts} == {"plain_text"}
    assert len(fields) <= 10
    assert max(len(one["text"]) for one in texts) <= 2000
    assert [one["text"] for one in fields][:3] == [
        "Alert: <failures> & more", "Value: 3", "Threshold: 1",
    ]  # fmt: skip
    assert made["post"] == {"format": "slack", "host": "127.0.0.1"}
    told = json.dumps([row, await post.call("list_alerts")], default=str)
    assert "sealed" not in told
    assert f":{endpoint.port}" not in told


async def test_any_other_receiver_gets_a_text_and_the_alert(post: Post, endpoint: Endpoint) -> None:
    """Switched on and off without the address, it is kept; null removes it."""
    await watch(post, endpoint.url, "json")
    for enabled in (False, True):
        await post.call("put_alert", p_alert={**WATCHED, "enabled": enabled})

    await announced(post)

    [message] = [received.event for received in endpoint.received]
    assert (message["type"], message["data"]["value"]) == ("alert.raised", 3)
    assert message["text"] == "failed jobs reached its threshold."
    gone = await post.call("put_alert", p_alert={**WATCHED, "post": None})
    assert gone["post"] is None


@pytest.mark.parametrize(
    ("answer", "status", "wait"),
    [
        ("429 Too Many Requests\r\nRetry-After: 120", "pending", 120),
        ("500 rollup_error", "pending", 10),
        ("404 channel_not_found", "failed", None),
        ("403 action_prohibited", "failed", None),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", "failed", None),
    ],
)
async def test_what_may_pass_is_tried_again_and_the_rest_is_not(
    post: Post, endpoint: Endpoint, answer: str, status: str, wait: float | None
) -> None:
    """Slack says how long to wait; a channel that is gone stays gone."""
    endpoint.answers = [answer]
    await watch(post, endpoint.url)

    row = await announced(post)

    assert row["status"] == status
    assert f"127.0.0.1: the endpoint answered {answer[:3]}" in row["error_message"]
    assert wait is None or 0.8 * wait <= row["wait"] <= 1.2 * wait + 1


async def test_an_address_is_its_workspaces_and_never_inside_our_network(
    project: Project, endpoint: Endpoint
) -> None:
    """One of another workspace does not open; this machine is refused outside development."""
    async with Post(project, stage="prod").open() as post:
        await watch(post, endpoint.url.replace("http", "https", 1), of=GLOBEX)
        assert "cannot be decrypted" in (await announced(post))["error_message"]
        await watch(post, endpoint.url.replace("http", "https", 1))
        project.make_due()
        await post.settle()
        [row] = project.rows("select error_message from public.jobs where job_type = 'alert'")

    assert "not public" in row["error_message"]
    assert endpoint.received == []
