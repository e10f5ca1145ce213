"""Files that jobs made: what a browser may do with one, and many in a zip."""

from __future__ import annotations

import io
import zipfile

import pytest

from minutehand.web.files import file_answer, zip_answer


@pytest.mark.parametrize(
    ("media_type", "disposition"),
    [
        ("text/html", "inline"),
        ("image/png", "inline"),
        ("audio/mpeg", "inline"),
        ("video/mp4", "inline"),
        ("application/json", "inline"),
        ("application/zip", "attachment"),
        ("application/x-sh", "attachment"),
    ],
)
def test_a_file_is_shown_in_a_sandbox_or_saved(media_type: str, disposition: str) -> None:
    """A page that a model wrote may run, without this origin's cookies or any network."""
    answer = file_answer("a.b", b"x", media_type)

    assert answer.headers["content-disposition"] == f'{disposition}; filename="a.b"'
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "sandbox allow-scripts", "form-action 'none'"} <= set(policy)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "private, no-cache"
    assert (answer.body, answer.headers["content-type"].split(";")[0]) == (b"x", media_type)


def test_the_same_files_give_the_same_zip() -> None:
    """In the order of their names, whatever order they came in."""
    files = {"b": b"2", "a": b"1" * 999}
    one, other = zip_answer("z.zip", files), zip_answer("z.zip", dict(sorted(files.items())))

    assert one.body == other.body
    assert one.headers["content-type"] == "application/zip"
    assert one.headers["content-disposition"].startswith("attachment")
    with zipfile.ZipFile(io.BytesIO(bytes(one.body))) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files
        assert {each.date_time[0] for each in archive.infolist()} == {1980}, "and at any time"
    assert len(one.body) < 999
