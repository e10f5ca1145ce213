"""Pages of the training app: from a video to its transcript, on wide and narrow screens."""

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Route, expect
from psycopg.types.json import Jsonb

from minutehand_apps.training.parts import MIN_PART_BYTES
from tests.contract.guide import first_sentence
from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import check_page, fits
from tests.e2e.console.people import ADA, click, open_link, press
from tests.support.stacks import RunningStack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

TITLE = "Changing the paper <img src=x onerror=alert(1)>"
#: The timeout for a real speech recognition on a busy machine.
PATIENCE = 300_000


PROCEDURE = {
    "procedure": {
        "title": "Change the paper <b>",
        "purpose": "So that it prints.",
        "steps": [
            {"title": "Open the front door", "detail": "It sticks.", "at_seconds": 1.5},
            {"title": "Take the roll out", "at_seconds": 2},
        ],
    },
    "author": "model-1",
    "offline": False,
}
HAS_PICTURES = (
    """() => [...document.querySelectorAll('video')].every((one) => one.readyState > 0)"""
)


def test_a_video_becomes_a_transcript_live(
    visit: Visit, stack: RunningStack, tmp_path: Path
) -> None:
    """A user uploads a video, plays it from a transcript's line, retries and deletes it.

    No page is reloaded.
    """
    visitor = visit(ADA, "/trainings")
    page = visitor.page
    page.route("**/sample.mp4", lambda route: route.fulfill(body=first_sentence(tmp_path)))
    expect(page.get_by_text("No videos yet")).to_be_visible()
    press(page, "New video")
    press(page, "Take a sample")
    expect(page.locator("[type=file]")).to_have_value(re.compile("changing-the-paper.mp4"))
    page.get_by_label("Title").fill(TITLE)
    press(page, "Upload", exact=True)

    expect(page).to_have_url(re.compile(r"/trainings/[0-9a-f-]{36}$"), timeout=PATIENCE)
    expect(page.get_by_role("heading", level=1)).to_have_text(TITLE)
    expect(page.get_by_text("Transcript only", exact=True)).to_be_visible(timeout=PATIENCE)
    expect(page.locator("[data-job=transcription]")).to_be_hidden()
    page.get_by_text("Details", exact=True).press("Enter")
    expect(page.locator("[data-job=transcription]")).to_contain_text("Completed")
    procedure = page.get_by_role("region", name="Procedure")
    expect(procedure).to_contain_text("no language model is connected")
    transcript = page.get_by_role("list", name="Transcript")
    expect(transcript).to_contain_text("turn off the power")
    transcript.get_by_role("button").last.click()
    page.wait_for_function("() => document.querySelector('video').currentTime > 0")
    check_page(visitor)

    update = "update trainings set procedure = %s where id = %s"
    stack.run(update, Jsonb(PROCEDURE), page.url.rpartition("/")[2])
    page.reload()
    expect(procedure.locator(".picture")).to_have_count(2)
    page.wait_for_function(HAS_PICTURES)
    click(procedure, "Play: Take the roll out")
    page.wait_for_function("() => document.querySelector('video[controls]').currentTime >= 2")
    press(page, "Edit: Take the roll out")
    page.get_by_label("Detail").fill("Pull it upwards.")
    press(page, "Save")
    expect(procedure.get_by_text("Pull it upwards.")).to_be_visible()
    page.evaluate("window.print = () => undefined")
    press(page, "Print")
    page.emulate_media(media="print")
    for frame in procedure.locator("canvas").all():
        expect(frame).to_be_visible()
        assert frame.evaluate("canvas => canvas.width") > 0
    expect(page.locator(".rail, .player, video").filter(visible=True)).to_have_count(0)
    page.emulate_media(media="screen")
    check_page(visitor)
    with open_link(page) as shared:
        expect(shared.get_by_role("heading", level=1)).to_have_text("Change the paper <b>")
        expect(shared.locator("video")).to_have_count(2)
        expect(shared.locator("video").first).to_have_attribute("src", re.compile("#t="))
        shared.wait_for_function(HAS_PICTURES)
        fits(shared)
        press(page, "End the link")
        expect(page.get_by_role("button", name="Make a link")).to_be_visible()
        answer = shared.reload()
        assert answer is not None
        assert answer.status == 404
    press(page, "Close")

    click(page, "Delete")
    click(page.get_by_role("dialog"), "Delete")
    expect(page).to_have_url(re.compile(r"/trainings$"))
    expect(page.get_by_text("No videos yet")).to_be_visible()


def test_an_upload_is_resumed_aborted_and_its_failure_is_retried(
    visit: Visit, tmp_path: Path
) -> None:
    """After an outage and a reload, an upload sends only its missing part.

    An aborted upload leaves no file. A file that is no video shows its error, and the monitor lists
    and retries the failed jobs.
    """
    picture, empty, file = (tmp_path / name for name in ("roof.png", "none.mp4", "long.mp4"))
    picture.write_bytes(b"no matter")
    empty.touch()
    file.write_bytes(bytes(MIN_PART_BYTES + 5))
    visitor = visit(ADA, "/trainings", allow=("net::ERR_FAILED", "415", "422"))
    page = visitor.page
    video = page.get_by_role("dialog").get_by_label("Video")
    upload = page.get_by_role("button", name="Upload", exact=True)
    parts: list[str] = []

    def storage(route: Route) -> None:
        parts.append(parse_qs(urlsplit(route.request.url).query)["partNumber"][0])
        if parts.count("1") == 1 and parts[-1] == "1":
            route.abort()
        elif parts[-1] == "1":
            route.continue_()  # the other part gets no response

    page.route(lambda url: "partNumber=" in url, storage)
    click(page, "New video")
    for wrong, words in ((picture, "image/png are not accepted"), (empty, "file is empty")):
        video.set_input_files(wrong)
        upload.click()
        expect(page.get_by_role("alert")).to_contain_text(words)
    video.set_input_files(file)
    upload.click()
    with page.expect_response(lambda response: "partNumber=1" in response.url):
        pass
    page.reload()
    page.unroute_all()
    sent: list[str] = []
    page.on("request", lambda one: sent.append(one.url) if one.method == "PUT" else None)
    expect(page.locator("[data-upload=interrupted]")).to_be_visible()
    page.get_by_label("Choose long.mp4 again").set_input_files(file)
    expect(page).to_have_url(re.compile(r"/trainings/[0-9a-f-]{36}$"), timeout=PATIENCE)
    assert parts.count("1") == 2
    assert [url for url in sent if "partNumber=1&" in url] == []
    expect(page.get_by_role("alert")).to_contain_text("not a video", timeout=PATIENCE)

    page.go_back()
    page.route(lambda url: "partNumber=" in url, lambda _: None)
    click(page, "New video")
    video.set_input_files(file)
    upload.click()
    with page.expect_response(lambda one: one.request.method == "DELETE") as deleted:
        click(page, "Abort")
    assert deleted.value.status == 204
    expect(page.locator("[data-upload]")).to_have_count(0)

    visitor.go("/trainings/monitor")
    page.get_by_role("link", name="Failed 2").click(timeout=PATIENCE)
    jobs = page.locator("[data-state=failed]")
    expect(jobs).to_have_count(2, timeout=PATIENCE)
    expect(jobs.first).to_contain_text("not a video")
    check_page(visitor)
    click(page, "Retry Transcript")
    expect(jobs).to_have_count(2, timeout=PATIENCE)
