"""The prompts of the chat. A person's text is input, and never a part of the instructions."""

import json
from collections.abc import Sequence

from minutehand.ai import Material, Prompt
from minutehand_apps.chat.models import Decision, Message


def decide(
    text: str, history: Sequence[Message], *, may_work: bool, said: str | None = None
) -> Prompt:
    """Return the prompt for a reply, the rest of a reply that starts with `said`, or for work."""
    reply = json.dumps({"tier": "standard", "reply": said}, ensure_ascii=False)
    work = (
        "Use tier async when the request needs research, a page, a long text or several steps: then"
        " leave reply empty, and give the type (research, build or write), a title, whether the"
        " result is a page, and a question only if its answer would change the result, with a few"
        " options."
        if may_work
        else "Never use tier async."
    )
    return Prompt(
        "decide",
        "You are the assistant of a chat. Use tier instant for greetings and thanks, standard for"
        f" what one answer settles: then reply holds your whole answer. {work} Write in the"
        " language of the request.",
        [Material("The request", text), *_before(history)],
        begun=reply.removesuffix('"}') if said else "",
    )


def research(text: str, decision: Decision, answer: str | None) -> Prompt:
    """Return the prompt that asks for points about a topic."""
    return Prompt(
        "research",
        f"Collect what you know for this work: {decision.title}. One point a line, with years and"
        " figures where you are sure of them; leave out what you would have to guess.",
        _request(text, decision, answer),
    )


def page(text: str, decision: Decision, answer: str | None, points: Sequence[str]) -> Prompt:
    """Return the prompt that asks for the content of a page."""
    return Prompt(
        "page",
        f"Fill the page for this work: {decision.title}. Give sections with texts, figures that"
        " can be drawn as bars, and steps or dates in order where they fit. Use the colours that"
        " were asked for.",
        [*_request(text, decision, answer), *_known(points)],
    )


def write(text: str, decision: Decision, answer: str | None, points: Sequence[str]) -> Prompt:
    """Return the prompt that asks for a result as text."""
    return Prompt(
        "write",
        f"Write the result of this work in plain text: {decision.title}.",
        [*_request(text, decision, answer), *_known(points)],
    )


def _request(text: str, decision: Decision, answer: str | None) -> list[Material]:
    answers = [Material(decision.question, answer)] if answer else []
    return [Material("The request", text), *answers]


def _known(points: Sequence[str]) -> list[Material]:
    listed = "\n".join(points)
    return [Material("What is known", listed)] if listed else []


def _before(history: Sequence[Message]) -> list[Material]:
    lines = [
        f"{'Person' if message.type in {'message', 'answer'} else 'Assistant'}: {message.content}"
        for message in history
    ]
    return [Material("Earlier in this chat", "\n".join(lines))] if lines else []
