"""The sample plan, used for all prompts without a language model.

Its report is marked as a sample.
"""

from __future__ import annotations

from typing import Any, Final

_TASKS: Final = (
    ("T1", "Agree on the date and book the square", 5),
    ("T2", "Get the permit for a public event", 15),
    ("T3", "Find twelve stallholders", 10),
    ("T4", "Hire stage, tents and power", 4),
    ("T5", "Print and hand out posters", 3),
    ("T6", "Set up, run the day and clear the square", 2),
)
_AFTER: Final = {"T2": ["T1"], "T3": ["T1"], "T4": ["T2"], "T5": ["T2", "T3"], "T6": ["T4", "T5"]}
_COSTS: Final = {
    "Square and permit": 650,
    "Stage, tents and power": 2400,
    "Posters and notices": 380,
    "Insurance and first aid": 540,
    "Fees of twelve stalls": -1200,
}

#: Result of each stage.
SAMPLES: Final[dict[str, dict[str, Any]]] = {
    "understand": {
        "title": "Sample plan: a street market for a Saturday in June",
        "goal": "A market with twelve stalls and a small stage on the town square, open from ten to"
        " six, which pays for itself within two years.",
        "facts": ["Twelve stalls", "One day in June, ten to six", "About 800 visitors"],
    },
    "assumptions": {
        "points": [
            "The town lends its square, since it has for the spring fair.",
            "Half of the stallholders of the weekly market take part.",
        ]
    },
    "constraints": {
        "points": [
            "The permit takes three weeks and is asked for once.",
            "Music ends at five, as the neighbours were promised.",
            "Four volunteers are free on the days before.",
        ]
    },
    "strategy": {
        "text": "Two ways were compared. An agency would do all of it for about 6,000, and the"
        " stallholders would not know each other afterwards.\n\nThe volunteers do it themselves and"
        " hire only what they cannot lift. This costs half, and is recommended."
    },
    "work_breakdown": {
        "tasks": [{"id": key, "title": title, "days": days} for key, title, days in _TASKS]
    },
    "dependencies": {"order": [{"task": key, "after": after} for key, after in _AFTER.items()]},
    "team": {"points": ["Lead: T1, T2", "Stalls: T3", "Site: T4, T6", "Posters and press: T5"]},
    "budget": {
        "currency": "EUR",
        "costs": [{"title": title, "amount": amount} for title, amount in _COSTS.items()],
    },
    "milestones": {
        "milestones": [
            {"when": "Day 5", "title": "The square is booked"},
            {"when": "Day 20", "title": "The permit is there"},
            {"when": "Day 26", "title": "The market is open"},
        ]
    },
    "risks": {
        "risks": [
            {"risk": "Rain all day", "answer": "Tents over the stage and half of the stalls"},
            {"risk": "The permit is late", "answer": "A second date in September is reserved"},
            {"risk": "Fewer than eight stalls", "answer": "Local clubs get the free ones"},
        ]
    },
    "quality": {
        "points": ["The fire brigade walks the plan of the square", "Power is tested a day before"]
    },
    "communication": {
        "points": ["Neighbours: a letter two weeks before", "Stallholders: a call each Friday"]
    },
    "what_if": {
        "points": [
            "It rains: open four hours, half of the fees are paid back.",
            "Money is short: no stage, which saves 1,100.",
        ]
    },
    "questions": {"points": ["Who pays if the market ends early?", "May food be cooked on site?"]},
    "executive_summary": {
        "text": "In 26 days four volunteers prepare a market of twelve stalls on the town square."
        "\n\nIt costs EUR 2,770 after the stalls' fees. What could stop it is the permit, which"
        " therefore comes first, and the weather, for which there are tents."
    },
}
