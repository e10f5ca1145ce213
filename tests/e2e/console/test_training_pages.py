"""The training app's pages: from a video to its transcript, wide and narrow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import fits, violations_in_both_schemes
from tests.e2e.console.people import ADA

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

TITLE = "Changing the paper <img src=x onerror=alert(1)>"
PATIENCE = 300_000  # a real recogniser on a busy machine


def test_a_video_becomes_a_transcript_before_ones_eyes(visit: Visit) -> None:
    """Uploaded, worked on, played at a place, retried, deleted; no page is reloaded."""
    visitor = visit(ADA, "/trainings")
    page = visitor.page
    expect(page.get_by_text("No videos yet")).to_be_visible()
    page.get_by_role("button", name="New video").press("Enter")
    page.get_by_role("button", name="Take a sample").press("Enter")
    expect(page.get_by_text("changing-the-paper.mp4")).to_be_visible()
    page.get_by_label("Title").fill(TITLE)
    page.get_by_role("button", name="Upload", exact=True).press("Enter")

    expect(page).to_have_url(re.compile(r"/trainings/[0-9a-f-]{36}$"), timeout=PATIENCE)
    expect(page.get_by_role("heading", level=1)).to_have_text(TITLE)
    expect(page.get_by_text("Ready", exact=True)).to_be_visible(timeout=PATIENCE)
    expect(page.locator("[data-job=transcription]")).to_contain_text("Completed")
    procedure = page.get_by_role("region", name="Procedure")
    expect(procedure).to_contain_text("no language model is configured")
    transcript = page.get_by_role("list", name="Transcript")
    expect(transcript).to_contain_text("front door of the machine")
    transcript.get_by_role("button").last.click()
    page.wait_for_function("() => document.querySelector('video').currentTime > 0")
    page.set_viewport_size({"width": 320, "height": 700})
    fits(page)
    assert violations_in_both_schemes(visitor) == []

    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page).to_have_url(re.compile(r"/trainings$"))
    expect(page.get_by_text("No videos yet")).to_be_visible()


def test_a_wrong_file_says_why_and_is_retried_in_the_monitor(visit: Visit, tmp_path: Path) -> None:
    """In seconds; the monitor has the failed jobs of all trainings."""
    file = tmp_path / "notes.mp4"
    file.write_text("this is no video")
    visitor = visit(ADA, "/trainings")
    page = visitor.page
    page.get_by_role("button", name="New video").click()
    page.get_by_role("dialog").get_by_label("Video").set_input_files(file)
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("not a video", timeout=PATIENCE)

    visitor.go("/trainings/monitor?status=failed")
    jobs = page.locator("[data-state=failed]")
    expect(jobs).to_have_count(2, timeout=PATIENCE)
    expect(jobs.first).to_contain_text("not a video")
    page.get_by_role("button", name="Retry transcription").click()
    expect(jobs).to_have_count(2, timeout=PATIENCE)
