"""Files that jobs made, as answers: what a browser may do with one, and many in a zip.

Where they lie and who may read them is left to the routes.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from typing import Final

from fastapi import Response

#: What a page may do, wherever it is opened: run what it brings, and reach nothing else.
PAGE_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:;"
    " font-src data:; media-src data:; form-action 'none'; base-uri 'none'"
)
_HEADERS: Final = {
    # in a sandbox of its own: no cookie, no storage and no page of this origin
    "Content-Security-Policy": f"{PAGE_POLICY}; sandbox allow-scripts; frame-ancestors *",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-cache",
}


def file_answer(name: str, content: bytes, media_type: str) -> Response:
    """A file to look at, where browsers show its type harmlessly; else one to save."""
    shown = media_type.startswith(("text/", "image/", "audio/", "video/", "application/json"))
    disposition = f'{"inline" if shown else "attachment"}; filename="{name}"'
    return Response(
        content, media_type=media_type, headers={**_HEADERS, "Content-Disposition": disposition}
    )


def zip_answer(name: str, files: Mapping[str, str | bytes]) -> Response:
    """Files in a zip, in the order of their names; the same files give the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(files):
            archive.writestr(zipfile.ZipInfo(each), files[each], zipfile.ZIP_DEFLATED)
    return file_answer(name, packed.getvalue(), "application/zip")
