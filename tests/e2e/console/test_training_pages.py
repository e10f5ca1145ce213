"""The training app's pages: from a video to its procedure, and uploads that break off."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Response, Route, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import fits, picture, violations, violations_in_both_schemes
from tests.e2e.console.people import ADA, BOB

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

TITLE = "Changing the paper <img src=x onerror=alert(1)> **now**"
PATIENCE = 300_000  # a real recogniser on a busy machine
PART = 8 * 1024 * 1024


def until(page: Page, expression: str) -> None:
    """Wait for an expression in the page, whose policy forbids to evaluate text there."""
    give_up = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < give_up, expression
        page.wait_for_timeout(50)


def is_first_part(answer: Response) -> bool:
    """Whether storage has answered to the first part of a file."""
    return answer.request.method == "PUT" and "partNumber=1&" in f"{answer.url}&"


@pytest.mark.timeout(600)  # ffmpeg and speech recognition, 100 s on a busy machine
def test_a_video_becomes_a_procedure_before_ones_eyes(
    visit: Visit, repository: Path, api: Callable[..., Any]
) -> None:
    """Uploaded, worked on, played at a step's place, edited by two, printed, deleted."""
    visitor = visit(ADA, "/trainings", allow=(r"status of 409 .*/procedure\)",))
    page = visitor.page
    expect(page.get_by_text("No videos yet")).to_be_visible()
    visitor.settle()
    found = violations(page, repository)
    page.get_by_role("button", name="New video").press("Enter")
    page.get_by_role("button", name="Take a sample").press("Enter")
    expect(page.get_by_text("changing-the-paper.mp4")).to_be_visible()
    page.get_by_label("Title").fill(TITLE)
    found += violations(page, repository)
    page.get_by_role("button", name="Upload", exact=True).press("Enter")
    expect(page).to_have_url(re.compile(r"/trainings/[0-9a-f-]{36}$"), timeout=PATIENCE)
    expect(page.get_by_role("heading", level=1)).to_have_text(TITLE)
    expect(page.locator("[data-stage=verify]")).to_have_attribute(
        "data-state", "completed", timeout=PATIENCE
    )
    picture(page, "training-live")
    for stage in ("publish", "procedure"):  # in parallel: the video does not wait for its words
        expect(page.locator(f"[data-stage={stage}]")).to_have_attribute(
            "data-state", "completed", timeout=PATIENCE
        )
    expect(page.get_by_text("No video host is configured")).to_be_visible()
    expect(page.get_by_text("Without a language model", exact=True)).to_be_visible()

    video = page.locator("video")
    until(page, "document.querySelector('video')?.readyState >= 1")
    page.get_by_role("button", name=re.compile("^Play step 2 from")).press("Enter")
    until(page, "document.querySelector('video').currentTime > 1")
    video.evaluate("(element) => element.pause()")
    cues = "[...(document.querySelector('video').textTracks[0]?.cues ?? [])].map((cue) => cue.text)"
    until(page, f"{cues}.some((text) => text.includes('turn off the power'))")
    assert page.locator("main img[src=x]").count() == 0
    pictures = page.get_by_role("img", name=re.compile("^The video at"))
    expect(pictures).to_have_count(page.locator("ol[aria-label=Steps] > li").count())
    pictures.first.scroll_into_view_if_needed()
    until(page, "document.querySelector('ol[aria-label=Steps] img').naturalWidth > 0")
    found += violations_in_both_schemes(visitor, repository, pictured="training-wide")

    page.get_by_role("button", name="Edit").press("Enter")
    page.get_by_role("textbox", name="What to do").first.fill("Turn the power off <b>first</b>")
    page.get_by_role("textbox", name="At", exact=True).first.fill("nonsense")
    page.get_by_role("button", name="Save as the next version").press("Enter")
    expect(page.get_by_text("nonsense is not a time")).to_be_visible()
    page.get_by_role("textbox", name="At", exact=True).first.fill("0:01")
    at = f"/api/trainings/{page.url.rpartition('/')[2]}/procedure"
    theirs = api("GET", at)["procedure"]
    for step, title in zip(theirs["steps"], ("Pull the plug", "Open it wide"), strict=False):
        step["title"] = title
    api("PUT", at, {"base_version": 1, "procedure": theirs}, who=BOB)
    page.get_by_role("button", name="Save as the next version").press("Enter")
    expect(page.get_by_text("theirs: Pull the plug")).to_be_visible()
    expect(page.get_by_role("button", name="Take theirs")).to_have_count(1)
    expect(page.get_by_role("textbox", name="What to do").nth(1)).to_have_value("Open it wide")
    found += violations(page, repository)
    page.get_by_role("button", name="Save as the next version").press("Enter")
    expect(page.get_by_text("version 3, edited by a person")).to_be_visible()
    expect(page.get_by_text("Open it wide")).to_be_visible()
    expect(page.get_by_text("Turn the power off <b>first</b>")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as Markdown").press("Enter")
    text = download.value.path().read_text()
    assert r"Turn the power off \<b\>first\</b\>" in text
    assert "(0:01)" in text
    page.emulate_media(media="print")
    expect(page.get_by_role("heading", name="Stages")).to_be_hidden()
    expect(page.get_by_role("heading", name="Procedure")).to_be_visible()
    expect(pictures.first).to_be_visible()
    assert page.pdf().startswith(b"%PDF")
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 320, "height": 700})
    fits(page)
    picture(page, "training-narrow-dark")
    visitor.open("/trainings/monitor")
    for job_type in ("transcription", "sop_generation", "mux_upload"):
        row = page.locator(f"[data-job={job_type}]")
        expect(row).to_contain_text("Completed")
        expect(row).to_contain_text("now")
        expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "100")
    page.get_by_label("Type").select_option("mux_upload")
    expect(page).to_have_url(re.compile("type=mux_upload"))
    expect(page.locator("[data-job]")).to_have_count(1)
    page.get_by_label("State").select_option("failed")
    expect(page.get_by_text("No job matches the filter")).to_be_visible()
    page.get_by_label("State").select_option("")
    page.get_by_label("Type").select_option("")
    visitor.settle()
    found += violations(page, repository)
    fits(page)
    picture(page, "training-monitor")
    visitor.open("/trainings")
    bar = page.get_by_role("progressbar", name=re.compile("^Progress of"))
    expect(bar).to_have_attribute("aria-valuenow", "100")
    page.get_by_role("link", name=re.compile("Changing the paper")).press("Enter")
    page.get_by_role("button", name="Delete").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Delete").press("Enter")
    expect(page.get_by_text("No videos yet")).to_be_visible()
    assert found == []


def test_an_upload_continues_after_a_reload(visit: Visit, repository: Path, tmp_path: Path) -> None:
    """Paused, the page closed, the same file chosen again: what has arrived is not sent twice.

    An address that has expired is asked for again.
    """
    file = tmp_path / "film.mp4"
    with file.open("wb") as handle:
        handle.truncate(2 * PART + 5)
    other = tmp_path / "other.mp4"
    other.write_bytes(b"x")
    visitor = visit(ADA, "/trainings", allow=(r"ERR_FAILED|ERR_ABORTED|net::|403",))
    page = visitor.page
    sent: list[int] = []
    held: list[Route] = []
    lapsed: list[int] = []

    def storage(route: Route) -> None:
        number = re.search(r"[?&]partNumber=(\d+)", route.request.url)
        if number is None or route.request.method != "PUT":
            route.continue_()
        elif not holding and int(number[1]) == 3 and not lapsed:
            lapsed.append(3)
            route.fulfill(status=403, headers={"Access-Control-Allow-Origin": "*"})
        elif int(number[1]) == 1 or not holding:
            sent.append(int(number[1]))
            route.continue_()
        else:
            held.append(route)

    holding = True
    page.route(re.compile("partNumber="), storage)
    page.get_by_role("button", name="New video").press("Enter")
    page.get_by_role("dialog").get_by_label("Video").set_input_files(file)
    # the bar counts bytes that were sent, of which storage may keep nothing until it has them all
    with page.expect_response(is_first_part, timeout=PATIENCE):
        page.get_by_role("button", name="Upload", exact=True).press("Enter")
    bar = page.get_by_role("progressbar", name="Upload of film")
    expect(bar).to_have_attribute("aria-valuenow", re.compile("^(49|50)$"), timeout=PATIENCE)
    page.get_by_role("button", name="Pause").press("Enter")
    expect(page.get_by_text("Paused", exact=True)).to_be_visible()
    picture(page, "training-upload")

    visitor.open("/trainings")
    expect(page.get_by_text("Interrupted")).to_be_visible()
    visitor.settle()
    found = violations(page, repository)
    page.get_by_label(re.compile("Choose film.mp4 again")).set_input_files(other)
    expect(page.get_by_text("That is not the file")).to_be_visible()
    page.get_by_role("button", name="Dismiss message").press("Enter")
    holding = False
    page.get_by_label(re.compile("Choose film.mp4 again")).set_input_files(file)
    expect(page).to_have_url(re.compile(r"/trainings/[0-9a-f-]{36}$"), timeout=PATIENCE)
    expect(page.get_by_role("alert").first).to_contain_text(
        "The file is not a video that can be read here", timeout=PATIENCE
    )

    assert (sorted(sent), lapsed) == ([1, 2, 3], [3])
    visitor.settle()
    picture(page, "training-failed")
    assert found + violations(page, repository) == []

    holding = True
    sent.clear()
    visitor.open("/trainings")
    page.get_by_role("button", name="New video").press("Enter")
    page.get_by_role("dialog").get_by_label("Video").set_input_files(file)
    asked: list[Route] = []
    page.route(re.compile("/api/uploads/[^/]+/parts$"), lambda route: asked.append(route))
    page.get_by_role("button", name="Upload", exact=True).press("Enter")
    while not asked:
        page.wait_for_timeout(20)
    addresses = asked[0].fetch()
    page.get_by_role("button", name="Abort").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Abort").press("Enter")
    expect(page.locator("[data-upload]")).to_have_count(0)
    asked[0].fulfill(response=addresses)
    visitor.settle()
    assert sent == [], "given up while the addresses were asked for"
    visitor.open("/trainings")
    expect(page.get_by_role("row", name=re.compile("film"))).to_have_count(1)
    expect(page.locator("[data-upload]")).to_have_count(0)


def test_a_tab_closed_at_the_end_loses_nothing(
    visit: Visit, repository: Path, tmp_path: Path
) -> None:
    """All has arrived, but nobody said so: the page that returns asks the server and does.

    While the server asks to come back, nobody has to do anything.
    """
    visitor = visit(ADA, "/trainings", allow=(r"ERR_FAILED|ERR_ABORTED|net::|503|422",))
    page = visitor.page
    sample = repository / "shared/minutehand_apps/training/console/sample.mp4"
    page.route(re.compile("/complete$"), lambda route: route.abort())
    page.get_by_role("button", name="New video").press("Enter")
    page.get_by_role("dialog").get_by_label("Video").set_input_files(sample)
    page.get_by_label("Title").fill("Closed too soon")
    page.get_by_role("button", name="Upload", exact=True).press("Enter")
    expect(page.get_by_text("Completing")).to_be_visible(timeout=PATIENCE)

    asked: list[str] = []

    def busy(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) > 2:
            route.continue_()
        else:
            headers = {"Retry-After": "1"}
            route.fulfill(status=503, headers=headers, json={"error": "Away", "code": "away"})

    page.unroute(re.compile("/complete$"))
    page.route(re.compile("/complete$"), busy)
    visitor.open("/trainings")
    expect(page).to_have_url(re.compile(r"/trainings/[0-9a-f-]{36}$"), timeout=PATIENCE)
    expect(page.get_by_role("heading", level=1)).to_have_text("Closed too soon")
    assert len(asked) == 3

    # the guide's browser client, of any page: refused here, with the API's own words
    refusal = page.evaluate(
        """async () => {
          const { trainingClientOf } = await import("/apps/training/client.js");
          const kept = JSON.parse(localStorage.getItem("minutehand.session"));
          const client = trainingClientOf(location.origin, () => kept.access_token);
          const id = "7f3c1c9e-0000-4000-8000-000000000009";
          try {
            return await client.createTranscriptionJob(kept.user.id, id, "https://a.example/x", id);
          } catch (error) {
            return [error.status, error.code];
          }
        }"""
    )
    assert refusal == [422, "audio_url_refused"]
