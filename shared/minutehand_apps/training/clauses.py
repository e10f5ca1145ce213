"""What was said, cut into clauses and sorted: steps, warnings, and what is neither.

Works on recognised words with their times: a machine mishears some, so that each rule is one of
several and none decides alone. A condition stays with its command: a step too long is read again,
a command without its condition is carried out. English only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from minutehand_apps.training.models import SpokenSegment, TimedSegment

Kind = Literal["step", "detail", "warning", "greeting"]
#: No one speaks on over a gap of this length.
PAUSE_SECONDS: Final = 0.2
#: Someone who makes a pause about as often as this puts one between any two steps.
PAUSED_SECONDS: Final = 6.0
#: People part within the last seconds of what they say.
PARTING_SECONDS: Final = 2.8
#: Shorter clauses are not steps of their own.
LEAST_WORDS: Final = 2
#: A step, as people say it, has at least so many.
STEP_WORDS: Final = 4


def words_set(words: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(words.split())


_CUES: Final = words_set(
    "first firstly second secondly third thirdly next then now afterwards finally lastly"
)
_VERBS: Final = words_set(
    "add adjust align apply arrange assemble attach begin block boil bolt brace bring brush"
    " bury call carry change charge check choose clean click climb clip close collect compare"
    " confirm connect continue copy count cover crush cut deliver dial dip disconnect dispose"
    " download drag drain draw drill drive drop dry edit empty enter erase examine extend"
    " fasten fetch fill find fit fix flip flush fold follow get give glue go grab guide hang"
    " heat hide hold hook identify ignore inform insert inspect install isolate join keep"
    " kneel lay leave let lift listen load lock look loosen lower lubricate make mark measure"
    " melt mix mop mount move nail note observe obtain open pack paint park paste peel pick"
    " pinch place plug polish position pour prepare press prevent print protect pull pump"
    " push put raise read release remove repeat replace reset rest restart return reverse"
    " rinse roll rotate rub run sand save scan scoop scrape screw scrub seal secure select"
    " send separate set shake sharpen shift show shut sign skip slice slide soak sort spin"
    " split spray spread squeeze stack start stick stir stop store straighten stretch strip"
    " support swap sweep swing switch take tap tape tear tell test throw tie tighten tilt"
    " touch transfer trim tune turn twist type unlock unplug unscrew untie update upload use"
    " ask bake blow cook cross fry label log mind serve activate allow approve bend blot calibrate"
    " cancel chop come configure consult create dab deactivate defrost detach dig disable discard"
    " disengage disinfect dismantle dissolve dilute enable engage ensure evacuate flatten gather go"
    " grate grasp grind hoist immobilise inflate deflate inject knead mow notify preheat prune"
    " reassemble reattach refresh reboot recheck reconnect recycle refill refit refrigerate"
    " reinsert reinstall reject retighten review sanitize scatter scroll sift sit skim slacken"
    " sprinkle stand sterilise sterilize submit swipe taste thaw trace try unbolt unclip unfasten"
    " unfold unhook uninstall unlatch unload unpack unroll unwind unwrap unzip warn whisk wiggle"
    " vacuum verify wait walk wash watch wear weigh weld wipe wrap write zip"
)
#: Words before which a verb is not a command, e.g. "to open", "you can turn", "the print".
_BEFORE: Final = words_set(
    "the a an to this that these those your my our his her their its you i we they he she it"
    " who can could may might must shall should will would do does did not never no is are was"
    " were be been of in on for with from by at into very if when until because as than or more"
    " new old any each every some all same next last large small under over please don't back"
)
_ADVERBS: Final = words_set("over under back please in on")
#: Words that follow a command.
_AFTER: Final = words_set(
    "the a an your this that these those all both it them on off up out some until for to in"
    " into every no more down away back over under new old any each together everybody"
    " everything one two three four five six seven eight nine ten twenty at with my our water"
    " air along another around again him her here there everyone through after before about"
)
_NAMED: Final = words_set("the a an this your")
_WHO: Final = words_set("i you we they he she it nothing")
#: Prepositions and the like, which precede an article as verbs do.
_LINKS: Final = words_set(
    "of in on to into onto with from at for under over off out up down and but or until than as"
    " by is are was were back between behind through against near around after before along"
    " across inside outside both all only about that which what when where while if because"
    " without upon toward towards this not said have had see hear"
)
#: A clause cannot begin a step with one of these: it continues with the one before.
_GOING_ON: Final = words_set("of with into from because until when so which for to or")
#: Words that begin a condition; what they begin with is done only then.
_CONDITIONS: Final = words_set("if when whenever unless once while given")
#: At the beginning of a sentence these belong to its command: "with your left hand hold the pipe".
_GIVEN: Final = words_set("after at before by during for from in on to using with without")
#: Those of them that, said in the middle, rather belong to the command before them.
_TRAILING: Final = words_set("when whenever once while unless")
#: "Tighten it if needed": said in the middle, these are of the command before them too.
_NEEDED: Final = words_set("necessary needed required possible applicable available")
#: Phrases that are conditions as well, by the word that says the same.
_SAME: Final = {
    ("as", "soon", "as"): "when", ("as", "long", "as"): "while", ("so", "long", "as"): "while",
    ("each", "time"): "whenever", ("every", "time"): "whenever", ("in", "case"): "if",
    ("in", "the", "event"): "if", ("provided", "that"): "if", ("provided", "the"): "if",
    ("assuming",): "if", ("should", "the"): "if", ("should", "there"): "if",
    ("should", "it"): "if", ("should", "any"): "if", ("only", "if"): "unless",
    ("only", "when"): "unless", ("except", "if"): "unless", ("except", "when"): "unless",
    ("even", "if"): "that",
}  # fmt: skip
#: A condition, up to its command, has at most so many words.
MOST_CONDITION: Final = 25
#: Who speaks tells what is to be done: "I take the filter out", "you now need to press it".
_ASKING: Final = words_set(
    "i we you i'll we'll you'll i'm we're you're please let's let go remember"
)
#: Words between these and the command.
_MEANT: Final = words_set(
    "will need have want should must can to now then just simply also first am are going us ahead"
    " and"
)
MOST_MEANT: Final = 5
#: What is going to be shown is not yet done.
_SHOWN: Final = words_set("show explain teach demonstrate talk look learn see tell cover be do")
#: After these, who speaks tells of something else: "the one that you open", "what I take".
_TOLD: Final = words_set(
    "that what how where which before after as so sure who than the because behind of to for with"
    " from by between around against toward towards near"
)
_WARNINGS: Final = (
    ("be", "careful"), ("be", "very", "careful"), ("careful",), ("caution",), ("warning",),
    ("danger",), ("never",), ("do", "not"), ("don't",), ("avoid",), ("beware",),
    ("make", "sure"), ("watch", "out"), ("you", "must", "not"),
)  # fmt: skip
_GREETINGS: Final = (
    ("hello",), ("hi",), ("welcome",), ("good", "morning"), ("good", "afternoon"),
    ("good", "evening"), ("my", "name", "is"), ("in", "this", "video"), ("this", "video"),
    ("this", "training"), ("today", "i"), ("today", "we"), ("today", "you"), ("i", "will", "show"),
    ("here", "is"),
)  # fmt: skip
_THANKS: Final = (
    ("thank",), ("thanks",), ("goodbye",), ("good", "bye"), ("bye",), ("see", "you"),
    ("that", "is", "all"), ("that's", "it"), ("that's", "all"), ("for", "watching"),
    ("your", "attention"), ("very", "much"), ("please", "subscribe"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word and when it was said."""

    text: str
    start: float
    end: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Clause:
    """A few words that belong together, and what they are."""

    kind: Kind
    words: tuple[SpokenWord, ...]

    @property
    def start(self) -> float:
        """When it begins, in seconds."""
        return self.words[0].start

    @property
    def end(self) -> float:
        """When it ends, in seconds."""
        return self.words[-1].end

    @property
    def commands(self) -> bool:
        """Whether it begins, behind its cues, with a command or the condition of one."""
        texts = _plains(self.words)
        at = _lead(texts)
        return at < len(texts) and (
            _is_verb(texts[at])
            or _is_adverb(texts, at)
            or _is_conditional(texts, at)
            or _asking(texts, at) > 0
        )

    @property
    def text(self) -> str:
        """What it says, without the cue that it begins with."""
        texts = [word.text for word in self.words]
        bare = texts[_lead(texts) :] if self.kind in {"step", "warning"} else texts
        return " ".join(bare[_asking([_plain(each) for each in bare], 0) :] or texts)


def words_of(segments: Sequence[SpokenSegment]) -> list[SpokenWord]:
    """The words of a transcript; where an engine did not time them, evenly over their segment."""
    found: list[SpokenWord] = []
    for segment in segments:
        timed = segment.words if isinstance(segment, TimedSegment) else []
        texts = segment.text.split()
        if timed:
            # some engines write full stops into the text alone
            same = [_plain(text) for text in texts] == [_plain(each[0]) for each in timed]
            found += [
                SpokenWord(text, *each[1:])
                for text, each in zip(texts if same else [e[0] for e in timed], timed, strict=True)
            ]
            continue
        each = (segment.end - segment.start) / max(1, len(texts))
        found += [
            SpokenWord(text, segment.start + n * each, segment.start + (n + 1) * each)
            for n, text in enumerate(texts)
        ]
    return found


def clauses(segments: Sequence[SpokenSegment]) -> list[Clause]:
    """Cut a transcript into clauses, in order, each with its kind."""
    words = words_of(segments)
    if not words:
        return []
    cut = list(_cut(words))
    pauses = 1 + sum(
        1 for one, two in itertools.pairwise(words)
        if two.start - one.end >= PAUSE_SECONDS
    )  # fmt: skip
    is_paused = (words[-1].end - words[0].start) / pauses <= PAUSED_SECONDS
    found: list[Clause] = []
    for number, part in enumerate(cut):
        before = cut[number - 1][-1].end if number else None
        after_pause = before is None or part[0].start - before >= PAUSE_SECONDS
        steps = any(one.kind == "step" for one in found)
        kind = _kind(part, is_paused=is_paused and after_pause, is_first=not number, steps=steps)
        is_late = words[-1].end - part[0].start <= PARTING_SECONDS
        clause = Clause(kind, tuple(part))
        if kind == "step" and is_late and not clause.commands and not _has_cue(part):
            clause = Clause("greeting", clause.words)  # however it was recognised
        found.append(clause)
    return found


def _cut(words: Sequence[SpokenWord]) -> Iterator[list[SpokenWord]]:
    texts = _plains(words)
    ended = [False, *(word.text.endswith((".", "!", "?")) for word in words[:-1])]
    breaks = [
        False,
        *(two.start - one.end >= PAUSE_SECONDS for one, two in itertools.pairwise(words)),
    ]
    stops = [*(at for at in range(len(words)) if ended[at] or breaks[at]), len(words)]
    part: list[SpokenWord] = []
    begin = 0
    for at, word in enumerate(words):
        if stops[0] == at:
            stops.pop(0)
            ends = not _goes_on(texts, at, begin, is_new=ended[at])
        else:
            ends = _begins(texts, at, begin, stops[0])
        if part and ends:
            yield part
            part, begin = [], at
        part.append(word)
    yield part


def _begins(texts: Sequence[str], at: int, begin: int, stop: int) -> bool:
    """Whether a clause begins at a word although no one pauses before it, nor until `stop`."""
    last = texts[at - 1] if at else ""
    start = begin + _lead(texts[begin : min(at, begin + MOST_CONDITION)])
    since = max(start + 1, at - MOST_CONDITION)
    trailing = [n for n in range(since, at) if texts[n] in _TRAILING]
    is_shared = bool(trailing) or _is_conditional(texts, start)
    if last in {"and", "but"} and (at - 1 == begin or is_shared):
        return False  # it began with that word, or what it does is one thing
    if start == at and not _said(texts, at, _WARNINGS):
        return False  # so far there are only cues
    if texts[at] == "otherwise":
        return True
    if start < at <= start + _asking(texts, start):
        return False  # it says who does it
    if _is_open(texts, start, at):
        return False
    if _cue(texts, at):
        return True
    is_warning = _said(texts, start, _WARNINGS)
    if at - start < STEP_WORDS and is_warning and not _asked(texts, at):
        return False  # it says of what it warns
    if texts[at] in {"and", "but"}:
        if _cue(texts, at + 1):
            return True
        is_said = _said(texts, at + 1, _WARNINGS)
        if is_said and texts[at] == "but":
            return True
        return (is_said or _commands(texts, at + 1)) and not is_shared
    if _said(texts, at, _WARNINGS):
        return last not in {"and", "but", "be", "very"}
    if _said(texts, at, _GREETINGS) or texts[at] in {"thank", "thanks"}:
        return True
    if _said(texts, at, _THANKS):  # "thank you for watching" is often recognised by half
        return at - begin >= STEP_WORDS
    # of a second condition it is more likely that it belongs to what follows
    is_second = texts[at] in _TRAILING - {"while"} and _is_conditional(texts, start)
    if texts[at] in {"if", "unless"} or is_second:
        main = _main(texts, at)
        if main is None or not (is_warning or _commands(texts, start)):
            return main is not None
        is_for_it = texts[at] == "unless" or texts[at + 1] in _NEEDED
        return main < stop and (is_warning or not is_for_it)
    is_short = at - start < LEAST_WORDS and not _said(texts, start, _GREETINGS)
    if is_short or _is_told(texts, at) or not _commands(texts, at):
        return False
    is_known = texts[at] in _VERBS or _is_adverb(texts, at) or _asked(texts, at)
    if not is_known and any(text in _CONDITIONS for text in texts[since:at]):
        return False  # "… if someone left the key inside"
    # "press it when it is green open the door": which of both is done when is not known
    return not any(_main(texts, n) == at for n in trailing)


def _is_told(texts: Sequence[str], at: int) -> bool:
    """Whether the word before makes a verb something else than a command."""
    if texts[at - 1] == "it":  # "let it cool" is one command, "unscrew it lift the lid" two
        return at < 2 or texts[at - 2] in {"let", "make", "help", "watch", "if"}
    return texts[at - 1] in _BEFORE - _ADVERBS and tuple(texts[at - 2 : at]) != ("if", "not")


def _is_conditional(texts: Sequence[str], start: int) -> bool:
    return texts[start] in _CONDITIONS or texts[start] == "otherwise"


def _goes_on(texts: Sequence[str], at: int, begin: int, *, is_new: bool) -> bool:
    """Whether a clause continues behind a pause: between a condition and its command.

    Of a condition that follows a command at once, only the end of its sentence tells that it is
    not for the next one as well.
    """
    start = begin + _lead(texts[begin : min(at, begin + MOST_CONDITION)])
    if _is_open(texts, start, at):
        return not is_new or texts[start] != "given"
    if start >= at or not _commands(texts, start):
        return False
    if texts[at] in _CONDITIONS | {"until", "till"}:
        return texts[at] not in _CONDITIONS or _main(texts, at) is None
    trailing = (
        n for n in range(max(start + 1, at - MOST_CONDITION), at) if texts[n] in _CONDITIONS
    )
    return not is_new and any(_main(texts, n) == at for n in trailing)


def _is_open(texts: Sequence[str], start: int, at: int) -> bool:
    """Whether from `start` to a word there is a condition, and not yet the command it is for."""
    if start >= at or texts[start] not in _CONDITIONS or at - start > MOST_CONDITION:
        return False
    main = _main(texts, start)
    return main is not None and main >= at


def _main(texts: Sequence[str], start: int) -> int | None:
    """Where the command, or warning, of a condition begins; None where there is none."""
    for at in range(start + 2, min(len(texts), start + MOST_CONDITION)):
        last = texts[at - 1]
        if texts[at] in _CONDITIONS or (_cue(texts, at) and texts[at] not in {"then", "now"}):
            return None
        # "the screws turn in the hole" says what is, "stop the pump" what is to be done
        is_plural = last.endswith("s") and (
            at - 2 == start or (texts[at - 2] in _NAMED and texts[at - 3] in _CONDITIONS | {"that"})
        )
        if _said(texts, at, _WARNINGS) and not is_plural and last not in _WHO:
            return at
        is_said = is_plural or _is_told(texts, at)
        if not is_said and (texts[at] in _VERBS or _asked(texts, at)) and _commands(texts, at):
            return at
    return None


def _asking(texts: Sequence[str], at: int) -> int:
    """How many words say who is to do what the verb behind them names; 0 where they do not."""
    if at >= len(texts) or texts[at] not in _ASKING:
        return 0
    behind = at + 1
    while behind < min(len(texts), at + MOST_MEANT) and texts[behind] in _MEANT:
        behind += 1
    if behind >= len(texts) or (texts[at] in {"go", "remember", "let"} and behind == at + 1):
        return 0
    is_command = texts[behind] in _VERBS and {*texts[behind + 1 : behind + 2]} <= _AFTER
    return behind - at if is_command or _is_adverb(texts, behind) else 0


def _is_adverb(texts: Sequence[str], at: int) -> bool:
    """Whether a word says how the command behind it is done: "gently lift the lid"."""
    is_one = texts[at] == "always" or (texts[at].endswith("ly") and len(texts[at]) > len("only"))
    is_last = at + 1 >= len(texts)
    return (
        is_one and not is_last and texts[at + 1] in _VERBS and {*texts[at + 2 : at + 3]} <= _AFTER
    )


def _asked(texts: Sequence[str], at: int) -> bool:
    """Whether someone tells from a word on what is done, e.g. "I take the filter out"."""
    if at and texts[at - 1] in _TOLD | _CONDITIONS | {"until", "till"}:
        return False
    told = ("i'm", "am", "we're", "are")
    going = 2 if tuple(texts[at : at + 2]) in {("i", "am"), ("we", "are")} else 1
    if at + going < len(texts) and texts[at + going - 1] in told and _is_going(texts[at + going]):
        return True
    return _asking(texts, at) > 0


def _is_going(text: str) -> bool:
    stem = text.removesuffix("ing")
    return stem != text and any(each in _VERBS for each in (stem, f"{stem}e", stem[:-1]))


def _cue(texts: Sequence[str], at: int) -> bool:
    if at >= len(texts):
        return False
    if tuple(texts[at : at + 2]) == ("after", "that"):
        return True
    if tuple(texts[at : at + 2]) == ("next", "time"):
        return False
    if tuple(texts[at : at + 2]) == ("next", "to") and {*texts[at + 2 : at + 3]} & _NAMED:
        return False
    last = texts[at - 1] if at else ""
    return texts[at] in _CUES and last not in _NAMED | {"by", "until", "since", "right", "very"}


def _commands(texts: Sequence[str], at: int) -> bool:
    """Whether a word is a command: a verb with something behind it that a command has.

    Before an article comes a preposition or a verb, even if it was recognised as something else.
    """
    if at >= len(texts):
        return False
    if _asked(texts, at):
        return True
    if _is_adverb(texts, at):
        return True
    if not _is_verb(texts[at]):
        # "the belt has a crack", "it makes a noise": what is, not what is to be done
        is_linked = texts[at] in _LINKS | _BEFORE | _CUES or texts[at].endswith("s")
        return not is_linked and at + 1 < len(texts) and texts[at + 1] in {"the", "a", "an"}
    if at + 1 >= len(texts):
        return not at or not _is_verb(texts[at - 1])  # "call support" is one command
    return texts[at + 1] in _AFTER


def _is_verb(text: str) -> bool:
    # "open the" is often recognised as "opened the"
    return text in _VERBS or any(
        text.endswith(ending) and text[: -len(ending)] in _VERBS for ending in ("ed", "d")
    )


def _said(texts: Sequence[str], at: int, phrases: Sequence[tuple[str, ...]]) -> bool:
    return any(tuple(texts[at : at + len(phrase)]) == phrase for phrase in phrases)


def _lead(texts: Sequence[str]) -> int:
    """How many words a clause begins with before it says anything."""
    plain = [_plain(text) for text in texts]
    at = 0
    while at < len(plain):
        if tuple(plain[at : at + 2]) == ("after", "that"):
            at += 2
        elif plain[at] in _CUES or plain[at] in {"and", "but", "so"}:
            at += 1
        elif at and tuple(plain[at - 1 : at + 2]) == ("first", "of", "all"):
            at += 2
        else:
            break
    return at


def _kind(part: Sequence[SpokenWord], *, is_paused: bool, is_first: bool, steps: bool) -> Kind:
    texts = _plains(part)
    lead = _lead(texts)
    rest = texts[lead:]
    has_cue = any(text not in {"and", "but", "so"} for text in texts[:lead])
    commands = bool(rest) and (_is_verb(rest[0]) or _commands(rest, 0))
    if rest and (rest[0] in _CONDITIONS or rest[0] == "otherwise"):
        main = _main(rest, 0) if rest[0] in _CONDITIONS else 1 if len(rest) > LEAST_WORDS else None
        if main is not None:
            return "warning" if _said(rest, main, _WARNINGS) else "step"
        return "detail"
    if _said(rest, 0, _WARNINGS):
        return "warning"
    thanks = any(_said(texts, at, _THANKS) for at in range(len(texts)))
    if thanks and (not has_cue or len(rest) <= STEP_WORDS):
        return "greeting"
    shown = [
        at + 1 for at in range(len(texts)) if texts[max(0, at - 1) : at + 1] == ["going", "to"]
    ]
    if any({*texts[at : at + 1]} <= _SHOWN for at in shown):
        return "greeting"
    if any(_said(texts, at, _GREETINGS) for at in range(min(3, len(texts)))):
        return "greeting"
    if has_cue or commands:
        return "step" if rest else "detail"
    if is_first or (not steps and not is_paused):
        return "greeting"
    if is_paused and len(texts) >= LEAST_WORDS and texts[0] not in _GOING_ON:
        return "step"
    return "detail"


def _has_cue(part: Sequence[SpokenWord]) -> bool:
    texts = _plains(part)
    return not {"and", "but"} >= {*texts[: _lead(texts)]}


def _plains(words: Sequence[SpokenWord]) -> list[str]:
    texts = [_plain(word.text) for word in words]
    for at, text in enumerate(texts):
        if text == "once" and texts[max(0, at - 1)] == "at":  # "stop at once" has no condition
            texts[at] = "immediately"
        for phrase, same in _SAME.items():
            if tuple(texts[at : at + len(phrase)]) == phrase:
                texts[at : at + len(phrase)] = [same, *["that"] * (len(phrase) - 1)]
        is_first = not at or words[at - 1].text.endswith((".", "!", "?"))
        if is_first and texts[at] in _GIVEN and not {*texts[at + 1 : at + 2]} <= {"this", "that"}:
            texts[at] = "given"
    return texts


def _plain(text: str) -> str:
    return text.lower().strip(".,;:!?\"'()")
