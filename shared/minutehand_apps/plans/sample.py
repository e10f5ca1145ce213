"""The sample plan, which is the result for every prompt if there is no language model.

The report of the sample plan is marked as a sample.
"""

from typing import Any

_TASKS = (
    ("T1", "Agree on the date and book the square", 5),
    ("T2", "Get the permit for a public event", 15),
    ("T3", "Find twelve stallholders", 10),
    ("T4", "Hire stage, tents and power", 4),
    ("T5", "Print and hand out posters", 3),
    ("T6", "Set up, run the day and clear the square", 2),
)
_AFTER = {"T2": ["T1"], "T3": ["T1"], "T4": ["T2"], "T5": ["T2", "T3"], "T6": ["T4", "T5"]}
_COSTS = {
    "Square and permit": 650,
    "Stage, tents and power": 2400,
    "Posters and notices": 380,
    "Insurance and first aid": 540,
    "Fees of twelve stalls": -1200,
}


#: Sample result of each stage, by the stage's name.
SAMPLES: dict[str, dict[str, Any]] = {
    "understand": {
        "title": "Sample plan: a street market for a Saturday in June",
        "goal": "A market with twelve stalls and a small stage on the town square.",
        "facts": ["Twelve stalls", "One day in June, from 10:00 to 18:00"],
    },
    "assumptions": {"points": ["The square is free", "It does not rain all day"]},
    "constraints": {"points": ["Music ends at 18:00", "Cars keep one lane"]},
    "strategy": {"text": "Permit first, then stalls and stage, posters last."},
    "work_breakdown": {
        "tasks": [{"id": key, "title": title, "days": days} for key, title, days in _TASKS]
    },
    "dependencies": {"order": [{"task": key, "after": after} for key, after in _AFTER.items()]},
    "team": {"points": ["One organizer", "Six helpers on the day"]},
    "budget": {
        "currency": "EUR",
        "costs": [{"title": title, "amount": amount} for title, amount in _COSTS.items()],
    },
    "milestones": {"milestones": [{"when": "Day 26", "title": "The market is open"}]},
    "risks": {"risks": [{"risk": "Rain all day", "answer": "Tents over half of the stalls"}]},
    "quality": {"points": ["Each stall is inspected before 10:00"]},
    "communication": {"points": ["Posters", "A letter to the neighbors"]},
    "what_if": {"points": ["Too few stalls: make the stage larger"]},
    "questions": {"points": ["Who pays for damage to the square?"]},
    "executive_summary": {"text": "Twelve stalls and a stage, 26 days from now."},
}
