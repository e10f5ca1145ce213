"""From a job's event to a subscriber's server, through queue, worker and network."""

from __future__ import annotations

import pytest

from tests.integration.webhooks.conftest import Endpoint, Post
from tests.support.project import Project


async def test_each_event_arrives_signed_and_in_order_per_job(
    post: Post, endpoint: Endpoint
) -> None:
    """Three jobs at once; each one's story is told in its order."""
    made = await post.subscribe(endpoint.url)
    jobs = [post.project.insert("work") for _ in range(3)]

    rows = await post.settle()

    for job_id in jobs:
        story = [r.event["type"] for r in endpoint.received if r.event["data"]["job_id"] == job_id]
        assert story == ["job.created", "job.leased", "job.completed"]
    assert all(received.is_signed_with(made["secret"]) for received in endpoint.received)
    assert len({received.headers["webhook-id"] for received in endpoint.received}) == 9
    assert [row["result"] for row in rows] == [{"sent": True, "status": 200}] * 9
    assert (await post.listed())["last_status"] == 200


async def test_a_failure_is_sent_again_under_the_same_id(post: Post, endpoint: Endpoint) -> None:
    """500, then 200; the failures in a row are forgotten."""
    await post.subscribe(endpoint.url, event_types=["job.created"])
    endpoint.answers = ["500 Internal Server Error"]
    post.project.insert("work")
    [row] = await post.settle()
    assert (row["status"], row["error_message"]) == ("pending", "the endpoint answered 500")
    assert 8 <= row["wait"] <= 12
    assert (await post.listed())["failures"] == 1
    post.project.make_due()

    [row] = await post.settle()

    assert (row["status"], row["attempts"]) == ("completed", 2)
    first, second = endpoint.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    listed = await post.listed()
    assert (listed["failures"], listed["problem"]) == (0, None)


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        ("http", "only https addresses are allowed"),
        ("https", "resolves to an address that is not public"),
    ],
)
async def test_this_machine_is_refused_outside_development(
    project: Project, endpoint: Endpoint, scheme: str, says: str
) -> None:
    """Whatever the engine's setting says."""
    async with Post(project, stage="prod").open() as post:
        await post.subscribe(endpoint.url.replace("http", scheme, 1), event_types=["job.created"])
        post.project.insert("work")

        [row] = await post.settle()

    assert row["status"] == "pending"
    assert says in row["error_message"]
    assert endpoint.received == []
