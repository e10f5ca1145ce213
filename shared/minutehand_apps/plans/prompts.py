"""The prompts of the stages. A person's text is input, and never a part of the instructions."""

import json
from collections.abc import Mapping
from typing import Any

from minutehand.ai import Material, Prompt
from minutehand_apps.plans.graph import STAGES, Stage

_REQUESTS = {
    "understand": "Say what is to be planned: a title, the goal, and the facts that the prompt"
    " states, each in a line with its own words for dates, money and quantities.",
    "assumptions": "List what has to be assumed, and why.",
    "constraints": "List what limits the plan: time, money, people, rules.",
    "strategy": "Compare two or three ways to do it and recommend one.",
    "work_breakdown": "Break the work into tasks, each with a short id, a title and its days.",
    "dependencies": "For each task name the ids of those that must be done before it, as they"
    " are in the work breakdown.",
    "team": "List the roles, and which tasks each does.",
    "budget": "List the costs in one currency, and what comes in as amounts below 0; an amount"
    " that nothing states is 0, and its title says that it is unknown.",
    "milestones": "List the milestones, each with its day.",
    "risks": "List the risks, and what is done about each.",
    "quality": "List how each result is checked.",
    "communication": "List who gets which message, and when.",
    "what_if": "List what changes if a risk comes true or money or time is short.",
    "questions": "List the questions whose answers would change the plan most.",
    "executive_summary": "Summarise the plan in two paragraphs: what, by when, for how much, and"
    " what could stop it.",
}
_TITLES = {stage.name: stage.title for stage in STAGES}


def write_prompt(stage: Stage, prompt: str, results: Mapping[str, Any]) -> Prompt:
    """Return the prompt of a stage, with the user's prompt and the results that the stage needs."""
    materials = [
        Material(_TITLES[name], json.dumps(result, ensure_ascii=False))
        for name, result in results.items()
    ]
    return Prompt(
        stage.name,
        f"You work on one chapter of a project plan: {stage.title}. {_REQUESTS[stage.name]} Write"
        " in the language of the prompt, for its author.",
        [Material("The prompt", prompt), *materials],
    )
