"""Self-contained pages out of data: dashboard, timeline, table, chart, report.

A page loads nothing and sends nothing: its own policy forbids the network, and its frame as well.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

from minutehand_apps.chat.classifier import plain
from minutehand_apps.chat.tables import Data, Value, quantity_of

PageType = Literal["dashboard", "timeline", "table", "chart", "report"]
POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:;"
    " form-action 'none'; base-uri 'none'"
)
DEFAULT_COLOURS: Final = "Blue and white"
COLOUR_OPTIONS: Final = ["Blue and white", "Green and white", "Dark"]
_COLOURS: Final = {
    "blue blau bleu azul": "#1d5fbf",
    "green grun vert verde": "#1c7c4a",
    "red rot rouge rojo roja vermelho": "#b3261e",
    "purple violet lila violett pourpre morado roxo": "#6b3fa0",
    "orange naranja laranja": "#b85c00",
    "teal turquoise turkis turquesa": "#0b7285",
    "pink rosa rose": "#b0306a",
    "brown braun brun marron marrom": "#7a4a21",
    "yellow gelb jaune amarillo amarelo gold": "#8a6d00",
    "grey gray grau gris cinza": "#555b66",
    "black schwarz noir negro preto": "#222222",
}
MOST_TILES: Final = 6
_DARK: Final = re.compile(r"\b(?:dark|dunkel|sombre|oscuro|escuro|night mode)\b")
_TYPES: Final[list[tuple[PageType, str]]] = [
    (
        "timeline",
        r"timeline|zeit(?:leiste|achse|strahl)|frise|chronolog|linea (?:de|del) tiempo|linha do"
        r" tempo|cronogra",
    ),
    ("dashboard", r"dashboard|tableau de bord|panel|tablero|cuadro de mando|painel|scorecard"),
    ("report", r"report|bericht|rapport|informe|relatorio|web ?page|website|webseite|page web"),
    ("chart", r"chart|graph|plot|diagram|visuali|grafi|histogram"),
    ("table", r"tabl|tabel|tabulat"),
]


@dataclass(frozen=True)
class Look:
    """A page's colours."""

    accent: str = "#1d5fbf"
    dark: bool = False
    name: str = DEFAULT_COLOURS


@dataclass(frozen=True)
class Page:
    """What a page shows."""

    type: PageType
    title: str
    data: Data
    look: Look = field(default_factory=Look)
    summary: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    chart: Literal["bar", "line", "pie"] = "bar"

    def __bool__(self) -> bool:
        """Whether there is something to see."""
        return bool(self.data) or (self.type in {"dashboard", "report"} and bool(self.summary))


def type_of(text: str) -> PageType:
    """What kind of page a request names; a dashboard when it names none."""
    words = plain(text)
    return next((kind for kind, names in _TYPES if re.search(names, words)), "dashboard")


def chart_of(text: str) -> Literal["bar", "line", "pie"]:
    """Which chart a request names; bars when it names none."""
    words = plain(text)
    if re.search(
        r"\b(?:pie|kreis\w*|torten\w*|circulaire|camembert|circular|pizza|tarta)\b", words
    ):
        return "pie"
    return (
        "line"
        if re.search(
            r"\b(?:line chart|line graph|linien\w*|courbe|lineas|linhas|over time|trend)\b", words
        )
        else "bar"
    )


def look_of(text: str | None) -> Look | None:
    """The colours that a text names in its own words; None when it names none."""
    words = plain(text or "")
    named = [
        (match.start(), value, match.group())
        for names, value in _COLOURS.items()
        for match in re.finditer(rf"\b(?:{'|'.join(names.split())})\b", words)
    ]
    dark = _DARK.search(words)
    if not named and not dark:
        return None
    accent = min(named)[1] if named else "#7fb2ff"
    light = re.findall(r"\b(?:white|weiss|blanc|blanco|branco)\b", words)
    words_said = [word for _, _, word in sorted(named)] + ([dark.group()] if dark else light[:1])
    name = " and ".join(dict.fromkeys(words_said))
    return Look(accent=accent, dark=dark is not None, name=name[:1].upper() + name[1:])


def render(page: Page) -> str:
    """The page as one HTML document."""
    parts = {
        "dashboard": [_tiles(page), _chart(page), _table(page), _timeline(page)],
        "timeline": [_timeline(page) or _table(page)],
        "table": [_table(page)],
        "chart": [_chart(page), _table(page)],
        "report": [_summary(page), _chart(page), _table(page), _timeline(page)],
    }[page.type]
    summary = _summary(page) if page.type == "dashboard" else ""
    body = "\n".join(part for part in [*parts, summary, _sources(page)] if part)
    title = html.escape(page.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy"'
        f' content="{html.escape(POLICY, quote=False)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_style(page.look)}</style>\n</head>\n"
        f'<body data-type="{page.type}" data-colours="{html.escape(page.look.name)}">\n'
        f"<header><h1>{title}</h1></header>\n<main>\n{body}\n</main>\n"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _style(look: Look) -> str:
    ground, surface, text, line = (
        ("#14171c", "#1d222a", "#eef1f5", "#39414d")
        if look.dark
        else ("#ffffff", "#f5f7fa", "#1b1f24", "#d5dae1")
    )
    return (
        f":root{{--accent:{look.accent};--ground:{ground};--surface:{surface};--text:{text};--line:{line}}}"
        "*{box-sizing:border-box}body{margin:0;font:16px/1.5"
        " system-ui,sans-serif;background:var(--ground);"
        "color:var(--text)}header{background:var(--accent);color:#fff;padding:1rem 1.25rem}"
        "h1{font-size:1.3rem;margin:0}h2{font-size:1.05rem;margin:0 0 .5rem}"
        "main{display:grid;gap:1rem;padding:1rem 1.25rem;max-width:72rem;margin:auto}"
        "section{background:var(--surface);border:1px solid"
        " var(--line);border-radius:10px;padding:1rem;overflow-x:auto}"
        ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem;background:none;"
        "border:0;padding:0}.tile{background:var(--surface);border:1px solid"
        " var(--line);border-left:4px solid "
        "var(--accent);border-radius:10px;padding:.6rem .8rem}.tile"
        " b{display:block;font-size:1.5rem;"
        "font-variant-numeric:tabular-nums}svg{width:100%;height:auto;max-height:24rem}svg"
        " text{fill:var(--text);"
        "font-size:12px}.bar,.slice,.dot{cursor:pointer}.bar:hover,.slice:hover,.dot:hover,.on{opacity:.65}"
        "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem"
        " .6rem;border-bottom:1px "
        "solid var(--line)}th button{all:unset;cursor:pointer;font-weight:600}th"
        " button:focus-visible"
        "{outline:2px solid"
        " var(--accent)}td.num{text-align:right;font-variant-numeric:tabular-nums}"
        "input{font:inherit;padding:.35rem .6rem;border:1px solid"
        " var(--line);border-radius:8px;background:"
        "var(--ground);color:var(--text);margin-bottom:.5rem;max-width:100%}ol.line{list-style:none;margin:0;"
        "padding:0 0 0 1rem;border-left:3px solid var(--accent)}ol.line li{padding:.2rem 0 .8rem"
        " .8rem}"
        "ol.line b{color:inherit}tr.on{background:var(--line)}.hint{opacity:.75;font-size:.85rem}"
    )


#: Sort by a column, filter rows, and mark what belongs together.
_SCRIPT: Final = """
document.querySelectorAll("table").forEach(function (table) {
  var body = table.tBodies[0];
  table.querySelectorAll("th button").forEach(function (button, column) {
    var up = true;
    button.addEventListener("click", function () {
      var rows = Array.from(body.rows);
      rows.sort(function (a, b) {
        var x = a.cells[column], y = b.cells[column];
        var m = x.dataset.value, n = y.dataset.value;
        var d = m && n ? m - n : x.textContent.localeCompare(y.textContent);
        return up ? d : -d;
      });
      up = !up;
      rows.forEach(function (row) { body.append(row); });
    });
  });
  var filter = table.parentElement.querySelector("input");
  if (filter) filter.addEventListener("input", function () {
    var word = filter.value.toLowerCase();
    Array.from(body.rows).forEach(function (row) {
      row.hidden = row.textContent.toLowerCase().indexOf(word) < 0;
    });
  });
});
document.querySelectorAll("[data-label]").forEach(function (mark) {
  mark.addEventListener("click", function () {
    var label = mark.dataset.label;
    document.querySelectorAll("[data-label]").forEach(function (other) {
      var named = other.dataset.label;
      var same = named === label || named.endsWith(", " + label) || label.endsWith(", " + named);
      other.classList.toggle("on", same && !other.classList.contains("on"));
    });
  });
});
"""


def _short(label: str, most: int = 24) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def shown(value: float) -> str:
    """A number for people."""
    if not math.isfinite(value):
        return "–"
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def _tiles(page: Page) -> str:
    series = page.data.series
    if not series:
        return ""
    # nothing is added up: of temperatures, shares, or rows with their total that would be wrong
    tiles = series
    if len(series) > MOST_TILES and len({unit for _, _, unit in series}) == 1:
        most, least = max(series, key=lambda each: each[1]), min(series, key=lambda each: each[1])
        tiles = [(f"Highest: {most[0]}", *most[1:]), (f"Lowest: {least[0]}", *least[1:])]
    cells = "".join(
        f'<div class="tile"><span>{html.escape(name)}</span>'
        f"<b>{html.escape(f'{shown(value)} {unit}'.strip())}</b></div>"
        for name, value, unit in tiles[:MOST_TILES]
    )
    return f'<section class="tiles" aria-label="Key figures">{cells}</section>'


def _chart(page: Page) -> str:
    heading, series = _comparable(page.data.series)
    if not series:
        return ""
    # a slice is above zero
    kind = "bar" if min(value for _, value, _ in series) < 0 and page.chart == "pie" else page.chart
    drawn = {"bar": _bars, "line": _lines, "pie": _slices}[kind](series)
    units = {each for _, _, each in series}
    others = [f"{label} {shown(value)} {unit}" for label, value, unit in page.data.series
              if unit not in units]  # fmt: skip
    if others:
        drawn += f'<p class="hint">In another unit: {html.escape("; ".join(others))}</p>'
    return (
        f'<section aria-label="Chart"><h2>{html.escape(heading or "Chart")}</h2>{drawn}'
        '<p class="hint">Choose a mark to find its row.</p></section>'
    )


def _comparable(series: list[Value]) -> tuple[str, list[Value]]:
    """What can be drawn on one scale, at least two of a unit; and what all labels begin with."""
    units = Counter(unit for _, _, unit in series)
    unit = units.most_common(1)[0][0] if units else ""
    alike = [each for each in series if each[2] == unit][:40]
    if len(alike) < 2:
        return "", alike if len(series) == 1 else []
    prefix = _common([label for label, _, _ in alike])
    cut = max(prefix.rfind(", "), prefix.rfind(": "))
    if cut <= 0:
        return "", alike
    return prefix[:cut], [(label[cut + 2 :], value, each) for label, value, each in alike]


def _svg(name: str, height: int, content: str) -> str:
    return f'<svg viewBox="0 0 680 {height}" role="img" aria-label="{name}">{content}</svg>'


def _common(labels: list[str]) -> str:
    """What all labels begin with."""
    first, last = min(labels), max(labels)
    same = next(
        (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return first[:same]


def _bars(series: list[Value]) -> str:
    top = max(0.0, *(value for _, value, _ in series)) or 1.0
    low = min(0.0, *(value for _, value, _ in series))
    span, rows = top - low or 1.0, []
    for place, (label, value, unit) in enumerate(series):
        x = 170 + (min(value, 0.0) - low) / span * 400
        width = max(1.0, abs(value) / span * 400)
        y = place * 30
        name, number = html.escape(label), html.escape(f"{shown(value)} {unit}".strip())
        rows.append(
            f'<text x="160" y="{y + 19}" text-anchor="end">{html.escape(_short(label))}</text>'
            f'<rect class="bar" data-label="{name}" x="{x:.1f}" y="{y + 4}" width="{width:.1f}"'
            ' height="20" rx="3"'
            f' fill="var(--accent)"><title>{name}: {number}</title></rect>'
            f'<text x="{x + width + 6:.1f}" y="{y + 19}">{number}</text>'
        )
    return _svg("Bar chart", len(series) * 30 + 6, "".join(rows))


def _lines(series: list[Value]) -> str:
    values = [value for _, value, _ in series]
    low, span = min(values), (max(values) - min(values)) or 1.0
    step = 600 / max(1, len(series) - 1)
    at = [
        (40 + place * step, 220 - (value - low) / span * 190) for place, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    dots = "".join(
        f'<circle class="dot" data-label="{html.escape(label)}" cx="{x:.1f}" cy="{y:.1f}" r="5"'
        ' fill="var(--accent)">'
        f"<title>{html.escape(label)}: {shown(value)}</title></circle>"
        f'<text x="{x:.1f}" y="245" text-anchor="middle">{html.escape(label)[:12]}</text>'
        for (label, value, _), (x, y) in zip(series, at, strict=True)
    )
    drawn = f'<polyline fill="none" stroke="var(--accent)" stroke-width="2.5" points="{line}"/>'
    return _svg("Line chart", 256, drawn + dots)


def _slices(series: list[Value]) -> str:
    total = sum(max(0.0, value) for _, value, _ in series) or 1.0
    angle, parts = -math.pi / 2, []
    for place, (label, value, _) in enumerate(series):
        share = max(0.0, value) / total
        end = angle + share * 2 * math.pi - 1e-6
        x, y = 130 + 110 * math.cos(angle), 130 + 110 * math.sin(angle)
        u, v = 130 + 110 * math.cos(end), 130 + 110 * math.sin(end)
        name = html.escape(label)
        shade = f"color-mix(in srgb, var(--accent) {max(25, 100 - place * 12)}%, var(--ground))"
        parts.append(
            f'<path class="slice" data-label="{name}"'
            f' d="M130,130 L{x:.2f},{y:.2f} A110,110 0 {int(share > 0.5)} 1'
            f' {u:.2f},{v:.2f} Z" style="fill:{shade}"><title>{name}: {shown(value)}</title></path>'
            f'<rect x="270" y="{24 + place * 22}" width="12" height="12" style="fill:{shade}"/>'
            f'<text x="290" y="{35 + place * 22}">{name}: {shown(value)} ({share:.0%})</text>'
        )
        angle = end
    return _svg("Pie chart", max(260, 40 + len(series) * 22), "".join(parts))


def _table(page: Page) -> str:
    columns, rows = page.data.columns, page.data.rows
    if not rows and page.data.series:
        columns = ["Label", "Value", "Unit"]
        rows = [[label, shown(value), unit] for label, value, unit in page.data.series]
        if not any(unit for _, _, unit in page.data.series):
            columns, rows = columns[:2], [row[:2] for row in rows]
    elif not rows and page.data.events:
        columns, rows = ["Date", "Event"], [list(each) for each in page.data.events]
    if not rows:
        return ""
    head = "".join(
        f'<th scope="col"><button type="button">{html.escape(name)}</button></th>'
        for name in columns
    )
    lines = []
    for row in rows:
        cells = []
        for cell in row:
            quantity = quantity_of(cell)
            mark = f' class="num" data-value="{quantity[0]}"' if quantity else ""
            cells.append(f"<td{mark}>{html.escape(cell)}</td>")
        lines.append(f'<tr data-label="{html.escape(row[0])}">{"".join(cells)}</tr>')
    search = (
        '<input type="search" placeholder="Filter rows" aria-label="Filter rows"><br>'
        if len(rows) > 3
        else ""
    )
    return (
        f'<section aria-label="Table"><h2>Data</h2>{search}<table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></section>"
    )


def _timeline(page: Page) -> str:
    if not page.data.events:
        return ""
    items = "".join(
        f"<li><b>{html.escape(date)}</b><br>{html.escape(what)}</li>"
        for date, what in page.data.events
    )
    return (
        f'<section aria-label="Timeline"><h2>Timeline</h2><ol class="line">{items}</ol></section>'
    )


def _summary(page: Page) -> str:
    said = "".join(f"<p>{html.escape(each)}</p>" for each in page.summary)
    return f'<section aria-label="Summary"><h2>Summary</h2>{said}</section>' if said else ""


def _sources(page: Page) -> str:
    said = "".join(f"<li>{html.escape(each)}</li>" for each in page.sources)
    return (
        f'<section aria-label="Sources"><h2>Sources</h2><ol>{said}</ol></section>' if said else ""
    )
