"""Public HTML pages of apps. A page has no scripts, and may load videos from at most one origin."""

from __future__ import annotations

from html import escape
from urllib.parse import urlsplit
from uuid import UUID

from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2733;--soft:#566472;--line:#d5dce3;--back:#fff;
--card:#f5f7f9;--main:#1f55c4}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#a3b1bf;--line:#3a4653;
--back:#151b21;--card:#1d252d;--main:#82aaff}}
*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:1.5rem;background:var(--back);
color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:break-word}
h1{font-size:1.7rem;line-height:1.25}h2{font-size:1.2rem}
p,li,td,th,h1,h2,h3,dt,blockquote{unicode-bidi:plaintext}
"""


class Share(BaseModel):
    """Request to create the public link of a page (true), or to delete the link (false)."""

    shared: bool


class Shared(BaseModel):
    """The random key of a public link, or null without a link."""

    share_id: UUID | None
    url: str | None = Field(description="Path of the public link, or null without a link.")

    @classmethod
    def below(cls, path: str, share_id: str | None) -> Shared:
        """Return a link whose path consists of `path` and the link's key."""
        return cls(share_id=share_id, url=f"{path}/{share_id}" if share_id else None)


def document(title: str, body: str, *, style: str = "", media: str | None = None) -> HTMLResponse:
    """Return an HTML page with a title.

    Args:
        body: HTML of the page, in which all texts are already escaped.
        style: CSS in addition to the default styles. The default styles define the colours --ink,
            --soft, --line, --back, --card and --main.
        media: URL of a video that the page may load.
    """
    origin = urlsplit(media or "")
    source = f"; media-src {origin.scheme}://{origin.netloc}" if media else ""
    policy = f"sandbox; default-src 'none'; style-src 'unsafe-inline'{source}"
    return HTMLResponse(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head>"
        f"<body dir=auto><h1>{escape(title)}</h1>{body}</body></html>",
        headers={
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )
