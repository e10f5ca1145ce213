"""What is shown without a language model: data read whole or not at all, pages, quotations."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand_apps.chat import offline, page
from minutehand_apps.chat.classifier import classify
from minutehand_apps.chat.models import Found, Item, PastMessage
from minutehand_apps.chat.sources import Passage, corpus, listed
from minutehand_apps.chat.tables import Data, Value, find_data

PAIRS = [("Jan", 10, ""), ("Feb", 14, "")]


def item(text: str) -> Item:
    """The first piece of work that a request asks for."""
    return classify(text).items[0]


def built(text: str, *said: str, found: list[Found] | None = None) -> offline.Product:
    """What a request for a page comes to."""
    data, origin, sources = offline.data_for(item(text), [], said, found or [], [])
    return offline.build(item(text), data, origin, sources, said)


def test_the_corpus_is_whole() -> None:
    """Each article has passages to cite under a licence; some list figures and dates."""
    assert len(corpus()) >= 25
    for article in corpus().values():
        assert article.passages, article.title
        assert all("CC BY 4.0" in (each.licence or "") for each in article.passages)
    assert len(corpus()["Lighthouses"].data.events) == 4
    assert ("Share of world electricity 2023, wind", 8, "%") in corpus()[
        "Renewable energy"
    ].data.series


def test_research_quotes_and_cites() -> None:
    """Every passage with the number of a source that is listed; without one a plain sentence."""
    passages = [
        Passage("Tides", "Causes", "The moon pulls.", licence="L"),
        Passage("Wiki", "", "Water rises.", url="https://wiki.test/w"),
    ]

    product = offline.research(item("Research tides"), passages)

    assert (
        product.sources == listed(passages) == ["[1] Tides (L)", "[2] Wiki (https://wiki.test/w)"]
    )
    assert [part.text for part in product.parts] == ["The moon pulls. [1]", "Water rises. [2]"]
    nothing = offline.research(item("Research quantum knitting"), []).text
    assert "no article that your message names" in nothing
    assert "LANGUAGE_MODEL_URL" in nothing


@pytest.mark.parametrize(
    ("text", "series"),
    [
        ("Build a dashboard with these sales: Jan 10, Feb 14", PAIRS),
        ("dashboard of Jan 10, Feb 14", PAIRS),
        ("Draw a pie of the budget: rent 800, food 300", [("rent", 800, ""), ("food", 300, "")]),
        ("Make a bar chart of 3, 5 and 8", [("1", 3, ""), ("2", 5, ""), ("3", 8, "")]),
        ("Visualise these figures: 2020 5, 2021 8", [("2020", 5, ""), ("2021", 8, "")]),
        ("month,sales\nJan,10\nFeb,14", PAIRS),
        ("As a table:\nname, age\nAda, 36\nBob, 40", [("Ada", 36, ""), ("Bob", 40, "")]),
        ("| a | b |\n|---|---|\n| x | 1,234.5 |", [("x", 1234.5, "")]),
        ('[{"at": "Turin", "m": 3}, {"at": "Rome", "m": 4}]', [("Turin", 3, ""), ("Rome", 4, "")]),
        ("Chart: Berlin 3.7M, Hamburg 1.9M", [("Berlin", 3.7, "M"), ("Hamburg", 1.9, "M")]),
        ("Chart: wind 5.5TWh, sun 4 TWh", [("wind", 5.5, "TWh"), ("sun", 4, "TWh")]),
        ("Budget: rent 1.200, food 400,50", [("rent", 1200, ""), ("food", 400.5, "")]),
        ("Sales: Q1 2024 10, Q2 2024 12", [("Q1 2024", 10, ""), ("Q2 2024", 12, "")]),
        ("Chart: rent – $5M; food – $2M", [("rent", 5, "$M"), ("food", 2, "$M")]),
        ("Chart: Week 1: 30, Week 2: 40", [("Week 1", 30, ""), ("Week 2", 40, "")]),
        ("Chart: Jan. 2024 5, Feb. 2024 6", [("Jan. 2024", 5, ""), ("Feb. 2024", 6, "")]),
        ("Draw a pie of my budget\nrent: 800\nfood: 300", [("rent", 800, ""), ("food", 300, "")]),
        ('who,year,sum\nA,2020,"1,200"\nB,2021,900', [("A", 1200, ""), ("B", 900, "")]),
        # what is not plainly data is none
        ("Chart: tea 2.50 to 3.50, coffee 3", []),
        ("Chart: Ann 3 of 10, Bob 5 of 10", []),
        ("Chart: Ann 5 - 10, Bob 6 - 12", []),
        ("Chart: A 12:30, B 13:00", []),
        ("Chart: A 5 h 30 min, B 6 h", []),
        ("Chart: +49 30 1234, +49 40 1234", []),
        ("Build me an interactive dashboard", []),
        ("Graph y = x^2 from -5 to 5", []),
        ("Build a page: Jan 10, some words here, Feb 12", []),
        ("Chart: a 1.2.34, b 5", []),
        ("Compare 3 firms by 2 criteria", []),
    ],
)  # fmt: skip
def test_data_is_read_whole_or_not_at_all(text: str, series: list[Value]) -> None:
    """With its units; one line that is no data makes none of it data."""
    assert find_data([text]).series == series


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["rent", "Berlin", "Q1 2024", "solar power"]),
            st.tuples(
                st.integers(0, 999_999), st.sampled_from(["", ".5", ",25", ".125", ",1"])
            ).map(lambda parts: f"{parts[0]}{parts[1]}"),
            st.sampled_from(["", " %", "M", "bn", " kWh", " €", " widgets"]),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_every_number_drawn_is_in_the_text_in_full(items: list[tuple[str, str, str]]) -> None:
    """No digit is cut off, and no unit lost."""
    text = "Chart: " + "; ".join(f"{label} {number}{unit}" for label, number, unit in items)

    for label, value, unit in find_data([text]).series:
        fitting = [(n, u) for name, n, u in items if name == label and u.strip() == unit]
        digits = re.sub(r"\D", "", f"{value:.4f}").strip("0")
        assert any(re.sub(r"\D", "", n).strip("0") == digits for n, _ in fitting), (label, value)


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ("Build a dashboard with sales: Jan 10, Feb 14, Mar 9", "dashboard"),
        ("Make me a timeline: 1969: Apollo 11; 1972: Apollo 17", "timeline"),
        ("I'd like a table: Mars 4, Venus 0", "table"),
        ("Draw a pie chart: rent 800, food 300", "chart"),
        ("Generate a report page from this: a 1, b 2", "report"),
    ],
)
def test_a_page_needs_no_other_file(request_: str, kind: str) -> None:
    """It loads nothing, sends nothing, and shows the data."""
    made = built(request_).page
    assert made is not None
    written = page.render(made)

    assert made.type == kind
    assert "default-src 'none'" in written
    for outside in ("http:", "https:", "//", "src=", "@import", "fetch(", "url("):
        assert outside not in written.replace(page.POLICY, ""), outside
    shown = made.data.events if kind == "timeline" else made.data.series
    assert shown[0][0] in written


def test_a_date_is_read_whole() -> None:
    """Years from and to are one; what is no date is none."""
    text = "Timeline: 1914-1918: first war; 1939–1945: second war"
    assert find_data([text]).events == [("1914-1918", "first war"), ("1939–1945", "second war")]
    assert find_data(["Timeline: 2024-13-45: x\n2024-02-30: y"]).events == []


def test_a_dashboard_adds_nothing_up() -> None:
    """A sum of temperatures, or of rows with their total, is wrong; and a loss is no slice."""
    for data in ("Oslo -5 °C, Rome 12 °C", ", ".join(f"Month{n} {n}" for n in range(1, 9))):
        made = built(f"Build a dashboard as a pie chart: {data}").page
        assert made is not None
        written = page.render(made)
        assert not re.search("Total|Average", written)
        assert ("Highest: Month8" in written) == ("Month8" in data)
        assert ('class="slice"' in written) == ("Month8" in data)


def test_a_chart_names_what_it_leaves_out() -> None:
    """What has another unit is not drawn on the same scale, and not lost."""
    made = built("Draw a chart: Berlin 3.7M, Hamburg 1.9M, Munich 1.5 million").page
    assert made is not None
    assert "In another unit: Munich 1.5 million</p>" in page.render(made)


def test_a_page_shows_markup_as_text() -> None:
    """Whatever a label holds is no script."""
    bad = "<script>alert(1)</script>"
    data = Data(series=[(bad, 1, bad)], events=[(bad, bad)], columns=[bad, "b"], rows=[[bad, "1"]])
    for kind in ("dashboard", "timeline", "table", "chart", "report"):
        for chart in ("bar", "line", "pie"):
            made = page.Page(kind, bad, data, page.Look(name=bad), [bad], [bad], chart)
            assert "<script>alert" not in page.render(made)


def test_without_data_there_is_no_page() -> None:
    """Neither of the chat's own messages, nor of a table where dates are wanted."""
    for asked in ("Build me an interactive dashboard", "Make a timeline: Jan 10, Feb 14"):
        product = built(asked)
        assert product.page is None
        assert product.text.startswith("No page was made: I was given no")


def test_colours_are_named_by_themselves() -> None:
    """In any words; the request around them is not their name."""
    plain, answered = (
        built("Build a dashboard: Jan 10, Feb 14", *said).page
        for said in ((), ("Use a red and white color scheme",))
    )
    assert plain is not None
    assert answered is not None
    assert "--accent:#1d5fbf" in page.render(plain)
    assert (answered.look.name, "--accent:#b3261e" in page.render(answered)) == (
        "Red and white", True,
    )  # fmt: skip


def test_a_page_is_fed_by_the_research_before_it() -> None:
    """By its articles' figures, with its sources."""
    passages = corpus()["Renewable energy"].passages
    research = offline.research(item("Research renewable energy"), passages)
    found = Found(title="Research", text=research.text, data={"sources": research.sources})
    made = built("Build me a dashboard", found=[found]).page
    assert made is not None
    assert ("Share of world electricity 2023, wind", 8, "%") in made.data.series
    assert made.sources == research.sources


def test_an_earlier_message_may_hold_the_data() -> None:
    """A person's, not the chat's own."""
    history = [
        PastMessage(author="user", kind="message", text="Sales: Jan 10, Feb 14"),
        PastMessage(author="assistant", kind="reply", text="Costs: Jan 1, Feb 2"),
    ]
    data, origin, _ = offline.data_for(item("Chart it, build a chart"), [], [], [], history)
    assert (data.series, origin) == (PAIRS, "an earlier message")
