"""From a job's event to a subscriber's server, through queue, worker and network."""

from __future__ import annotations

import httpx
import pytest

from infra.bench.scratch import scratch_settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.functions import WorkerFunctions
from minutehand.webhooks.processors import WebhookStore
from minutehand.webhooks.secrets import WebhookSecrets
from minutehand.webhooks.sent import Sent
from tests.integration.webhooks.conftest import Endpoint, Post
from tests.support.engine import GLOBEX
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
    post.make_due()

    [row] = await post.settle()

    assert (row["status"], row["attempts"]) == ("completed", 2)
    first, second = endpoint.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    listed = await post.listed()
    assert (listed["failures"], listed["problem"]) == (0, None)


@pytest.mark.parametrize(
    ("answer", "says", "wait"),
    [
        ("429 Too Many Requests\r\nRetry-After: 120", "answered 429", 120),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", "302; redirects are not followed", 10),
        (None, "did not answer in time", 10),
    ],
)
async def test_other_answers_back_off(
    post: Post, hasty: Post, endpoint: Endpoint, answer: str | None, says: str, wait: int
) -> None:
    """Retry-After wins; a redirect is no delivery; silence has an end."""
    post = hasty if answer is None else post
    await post.subscribe(endpoint.url, event_types=["job.created"])
    endpoint.answers = [answer]
    post.project.insert("work")

    [row] = await post.settle()

    assert row["status"] == "pending"
    assert says in row["error_message"]
    assert 0.8 * wait <= row["wait"] <= 1.2 * wait
    assert says in (await post.listed())["problem"]
    # half a second may be over before a busy machine has sent anything
    assert len(endpoint.received) == 1 or answer is None


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


async def test_a_name_that_is_none_counts_as_a_failure(post: Post) -> None:
    """Else its deliveries would fail for ever, and nobody be told why."""
    await post.subscribe("https://xn--a.test/", event_types=["job.created"])
    post.project.insert("work")

    [row] = await post.settle()

    assert "must be a domain name" in row["error_message"]
    assert (await post.listed())["failures"] == 1


async def test_an_endpoint_that_is_gone_is_not_asked_again(post: Post, endpoint: Endpoint) -> None:
    """410 says that nobody will ever listen there; other failures get twenty tries."""
    await post.subscribe(endpoint.url, event_types=["job.created"])
    endpoint.answers = ["410 Gone"]
    post.project.insert("work")

    [row] = await post.settle()

    assert row["status"] == "failed"
    assert row["error_message"] == "the endpoint answered 410; the webhook is disabled"
    listed = await post.listed()
    assert (listed["enabled"], listed["last_status"]) == (False, 410)
    assert listed["disabled_reason"] == "the endpoint answered 410: it is gone for good"
    assert len(endpoint.received) == 1


async def test_an_endpoint_that_keeps_failing_is_disabled_for_all_to_see(
    post: Post, endpoint: Endpoint
) -> None:
    """The reason is shown, and what was waiting is not sent."""
    post.project.run_sql(
        "update queue.settings set value = '2' where name = 'webhook_failures_max'"
    )
    await post.subscribe(endpoint.url, event_types=["job.created"])
    endpoint.answers = ["503 Service Unavailable"] * 9
    post.project.insert("work")
    await post.settle()
    post.make_due()
    post.project.insert("work", status="pending")

    rows = await post.settle()

    listed = await post.listed()
    assert listed["enabled"] is False
    assert "the last with: the endpoint answered 503" in listed["disabled_reason"]
    assert "failed" in {row["status"] for row in rows}
    assert any("the webhook is disabled" in (row["error_message"] or "") for row in rows)
    post.make_due()
    sent = len(endpoint.received)
    await post.settle()
    assert len(endpoint.received) == sent


async def test_a_secret_of_another_workspace_does_not_open(post: Post, endpoint: Endpoint) -> None:
    """Whoever writes to the database cannot sign in another's name."""
    stolen = await WebhookSecrets(post.project.settings).make(GLOBEX)
    await post.subscribe(endpoint.url, event_types=["job.created"], sealed_secret=stolen.sealed)
    post.project.insert("work")

    [row] = await post.settle()

    assert "cannot be decrypted" in row["error_message"]
    assert (await post.listed())["failures"] == 1
    assert endpoint.received == []


async def test_an_endpoint_that_hangs_is_given_less_time(
    post: Post, hasty: Post, endpoint: Endpoint
) -> None:
    """And all of it again once it has answered."""
    await post.subscribe(endpoint.url, event_types=["job.created"])
    endpoint.answers = [None, None]
    post.project.insert("work")
    await hasty.settle()
    post.make_due()
    await hasty.settle()
    assert (await post.listed())["timeouts"] == 2
    endpoint.answers.clear()  # of what a busy machine did not send in time
    post.make_due()

    [row] = await post.settle()

    assert row["status"] == "completed"
    assert (await post.listed())["timeouts"] == 0


@pytest.mark.parametrize(("ok", "reports"), [(True, 3), (False, 1)])
async def test_a_failure_whose_answer_is_lost_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, ok: bool, reports: int
) -> None:
    """Each report counts towards the end of the webhook."""
    asked: list[httpx.Request] = []

    def lose(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise httpx.ReadTimeout("lost", request=request)

    settings = scratch_settings("http://project.test")
    api = DataApi(settings.supabase_url, transport=httpx.MockTransport(lose))
    store = WebhookStore(settings)
    monkeypatch.setattr(store, "_functions", WorkerFunctions(settings, api=api))
    with pytest.raises(QueueUnavailable):
        await store.sent("00000000-0000-4000-8000-000000000001", 1, Sent(ok=ok, message="said"))

    await store.aclose()
    assert len(asked) == reports
