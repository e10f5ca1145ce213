"""Messages of Supabase Realtime that wake a worker."""

import asyncio
import logging

import pytest

from infra.bench.scratch import scratch_settings
from minutehand.functions.worker import realtime_wakeups
from minutehand.tasks import end_tasks
from minutehand.worker.registry import Registry
from tests.support.harness import until


async def test_an_error_of_any_kind_ends_no_wake_ups_and_is_a_warning_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the connection to Realtime fails with any error, the worker tries again.

    Only the first failure is a warning.
    """
    monkeypatch.setattr(realtime_wakeups, "RETRY_DELAY_SECONDS", 0)
    caplog.set_level(logging.DEBUG, logger=realtime_wakeups.__name__)
    settings = scratch_settings(supabase_url="ftp://127.0.0.1")
    wakeups = realtime_wakeups.RealtimeWakeups(settings, lambda: None)
    wakeups.follow("topic")

    task = asyncio.create_task(wakeups.run(Registry()))
    await until(lambda: len(caplog.records) >= 3)
    await end_tasks([task])

    levels = [record.levelname for record in caplog.records[:3]]
    assert levels == ["WARNING", "DEBUG", "DEBUG"]
