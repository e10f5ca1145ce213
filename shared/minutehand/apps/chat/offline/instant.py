"""Questions that need no language model: arithmetic, percentages, units, dates, greetings.

Exact or not at all: what is not understood gets no answer here.
"""

from __future__ import annotations

import ast
import operator
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal, DivisionByZero, InvalidOperation, localcontext
from typing import Any, Final

_GREETING: Final = re.compile(
    r"(?:hello|hi|hey|good (?:morning|afternoon|evening|day|night)|hallo|guten (?:morgen|tag|abend)"
    r"|gute nacht|moin|servus|bonjour|bonsoir|salut|bonne nuit|hola|buenos dias|buenas(?: tardes|"
    r" noches)?"
    r"|ola|bom dia|boa (?:tarde|noite)|oi)(?: there| you| all| everyone| together| zusammen| a"
    r" tous)?"
)
_THANKS: Final = re.compile(
    r"(?:(?:many )?thanks|thank you|thx|danke|vielen dank|merci|gracias|muchas gracias|obrigad[oa]"
    r"|muito obrigad[oa])\b.{0,40}"
)
_CLOSING: Final = re.compile(
    r"(?:ok(?:ay)?|bye|goodbye|see you|great|perfect|got it|tschuss|auf wiedersehen|alles klar|au"
    r" revoir"
    r"|d'accord|adios|vale|de acuerdo|adeus|tchau|certo)"
)
_OPERATORS: Final[dict[type[ast.AST], Callable[..., Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_WORDS: Final = [
    (r"\b(?:multiplied by|times|mal|fois|veces|vezes)\b", "*"),
    (r"(?<=\d)\s*\b(?:por)\b\s*(?=\d)", "*"),
    (r"\b(?:divided by|over|geteilt durch|divise par|dividido por|dividido entre)\b", "/"),
    (r"\b(?:plus|mas|mais|et|und|y|e)\b(?=\s*\d)", "+"),
    (r"\b(?:minus|moins|menos|less)\b", "-"),
    (r"(?<=\d)\s*[x×·]\s*(?=\d)", "*"),
    (r"÷", "/"),
    (r"\^", "**"),
    (r"(?<=\d),(?=\d{3}\b)", ""),
]
_ASKING: Final = re.compile(
    r"^(?:what(?:'s| is| are)|how much (?:is|are)|calculate|compute|solve|wie ?viel (?:ist|sind"
    r"|ergibt|macht)"
    r"|was (?:ist|sind|ergibt|macht)|berechne|rechne|combien (?:font|fait)|calcule[rz]?|que fait"
    r"|cuanto (?:es|son)|calcula|quanto (?:e|sao|da))\s+"
)
_PERCENT: Final = re.compile(
    r"(-?\d+(?:[.,]\d+)?)\s*(?:%|percent|prozent|pour ?cent|por ?ciento|por cento)\s*"
    r"(?:of|von|de|do|da)\s*(-?\d+(?:[.,]\d+)?)"
)
#: Units by name: what they measure, and their size in its base; temperatures are apart.
_UNITS: Final[dict[str, tuple[str, str, str]]] = {}
for _kind, _size, _sign, _names in [
    ("length", "1", "m", "m metre metres meter meters metern metros metro metri"),
    (
        "length",
        "1000",
        "km",
        "km kilometre kilometres kilometer kilometers kilometern kilometros kilometro",
    ),
    (
        "length",
        "0.01",
        "cm",
        "cm centimetre centimetres centimeter centimeters zentimeter centimetros",
    ),
    ("length", "0.001", "mm", "mm millimetre millimetres millimeter millimeters milimetros"),
    ("length", "1609.344", "miles", "mile miles mi meile meilen milles millas milla milhas milha"),
    ("length", "0.9144", "yards", "yard yards yd"),
    ("length", "0.3048", "feet", "foot feet ft fuss pieds pied pies pes"),
    (
        "length",
        "0.0254",
        "inches",
        "inch inches zoll pouces pouce pulgadas pulgada polegadas polegada",
    ),
    (
        "mass",
        "1",
        "kg",
        "kg kilo kilos kilogram kilograms kilogramm kilogramme kilogrammes kilogramos",
    ),
    ("mass", "0.001", "g", "g gram grams gramm gramme grammes gramos gramas"),
    ("mass", "1000", "t", "t tonne tonnes tonnen toneladas"),
    ("mass", "0.45359237", "lb", "pound pounds lb lbs pfund livres libras libra"),
    ("mass", "0.028349523125", "oz", "ounce ounces oz unzen onces onzas"),
    ("volume", "1", "l", "l litre litres liter liters litern litros litro"),
    ("volume", "0.001", "ml", "ml millilitre millilitres milliliter milliliters mililitros"),
    ("volume", "3.785411784", "US gallons", "gallon gallons gallonen galones galoes"),
    ("time", "1", "s", "s second seconds sekunden secondes segundos"),
    ("time", "60", "min", "min minute minutes minuten minutos"),
    ("time", "3600", "h", "h hour hours stunden heures horas"),
    ("time", "86400", "days", "day days tage tagen jours dias"),
]:
    for _name in _names.split():
        _UNITS[_name] = (_kind, _size, _sign)
_DEGREES: Final = {
    "c": "C", "celsius": "C", "f": "F", "fahrenheit": "F", "k": "K", "kelvin": "K",
}  # fmt: skip
_NUMBER: Final = r"(-?\d+(?:[.,]\d+)?)"
_CONVERT: Final = [
    re.compile(
        rf"(?:convert|rechne|converti[rs]|convierte|converte|converta)?\s*{_NUMBER}\s*(?:°|degrees?\s+)?"
        r"([a-z]+)\s+(?:to|in|into|as|en|em|a|para|nach)\s+(?:°|degrees?\s+)?([a-z]+)(?:\s+um)?"
    ),
    re.compile(
        rf"how (?:many|much) ([a-z]+) (?:is|are|in|make)(?: there in)? {_NUMBER}\s*(?:°"
        rf"|degrees?\s+)?([a-z]+)"
    ),
]
_TIME: Final = re.compile(
    r"(?:what time is it|what's the time|what is the time|wie spat ist es|wie viel uhr ist es"
    r"|quelle heure est[- ]il|que hora es|que horas sao)(?: now| jetzt| right now)?"
)
_TODAY: Final = re.compile(
    r"(?:what(?:'s| is) (?:today's date|the date(?: today)?|today)|what (?:day|date) is (?:it"
    r"|today)"
    r"(?: today)?|what day is (?:it )?today|welcher tag ist heute|welches datum (?:ist|haben wir)"
    r" heute"
    r"|(?:quel jour|quelle date) (?:sommes[- ]nous|est[- ]on|est[- ]ce)(?: aujourd'hui)?"
    r"|que (?:dia|fecha) es hoy|que dia e hoje|qual e a data(?: de hoje)?)"
)
_UNTIL: Final = re.compile(
    r"(?:how many days (?:is it |are (?:there|left) )?(?:until|till|to)|wie viele tage (?:sind es"
    r" (?:noch )?)?bis"
    r"|combien de jours (?:jusqu'a|avant)|cuantos dias (?:faltan )?(?:hasta|para)"
    r"|quantos dias (?:faltam )?(?:ate|para))\s+(?:zum |the |le |el |o |ao? )?(.+)"
)
_BETWEEN: Final = re.compile(
    r"how many days (?:are (?:there )?|is it )?(?:between|from) (.+?) (?:and|to|until) (.+)"
)
_WEEKDAY: Final = re.compile(
    r"(?:what|which) (?:week ?)?day (?:was|is|will be|of the week (?:was|is)) (.+)"
)
_MONTHS: Final = {
    name: number
    for number, names in enumerate(
        [
            "january januar janvier enero janeiro jan",
            "february februar fevrier febrero fevereiro feb",
            "march marz mars marzo marco mar", "april avril abril apr", "may mai mayo maio",
            "june juni juin junio junho jun", "july juli juillet julio julho jul",
            "august aout agosto aug", "september septembre septiembre setembro sep sept",
            "october oktober octobre octubre outubro oct okt",
            "november novembre noviembre novembro nov",
            "december dezember decembre diciembre dezembro dec dez",
        ],
        1,
    )
    for name in names.split()
}  # fmt: skip
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def answer(text: str, *, now: datetime | None = None) -> str | None:
    """The answer to a request that needs no model; None for any other request.

    Args:
        now: The instant to count from, UTC.
    """
    now = now or datetime.now(UTC)
    words = _plain(text)
    if not words or len(words) > 200:
        return None
    if _GREETING.fullmatch(words):
        return "Hello! What can I do for you?"
    if _THANKS.fullmatch(words) and "?" not in text:
        return "You are welcome."
    if _CLOSING.fullmatch(words):
        return "All right."
    return _date(words, now) or _units(words) or _arithmetic(words)


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text.replace("’", "'").replace("−", "-").casefold())
    bare = "".join(each for each in folded if not unicodedata.combining(each))
    return " ".join(re.sub(r"^[\s¿¡]+|[\s?!.=]+$", "", bare).split())


def _arithmetic(words: str) -> str | None:
    asked = _ASKING.sub("", words)
    percent = _PERCENT.fullmatch(asked)
    if percent is not None:
        share, whole = (Decimal(part.replace(",", ".")) for part in percent.groups())
        return f"{percent[1]} % of {percent[2]} is {_shown(share * whole / 100)}."
    expression = asked
    for pattern, symbol in _WORDS:
        expression = re.sub(pattern, symbol, expression)
    if not re.fullmatch(r"[\d\s.+\-*/%()]+", expression) or not re.search(
        r"\d\s*[+\-*/%]", expression
    ):
        return None
    if re.fullmatch(r"\s*\d{1,4}-\d{1,2}-\d{1,4}\s*", expression):
        return None  # a date
    try:
        # numbers as decimals, so that 0.1 + 0.2 is 0.3
        tree = ast.parse(expression.strip(), mode="eval")
        value = _value(tree.body, 0)
    except (SyntaxError, InvalidOperation, DivisionByZero, ZeroDivisionError, ValueError):
        return None
    shown = re.sub(r"\s*(\*\*|[+\-*/%])\s*", r" \1 ", expression.strip())
    return f"{shown.replace('**', '^').replace('*', '×')} = {_shown(value)}"


def _value(node: ast.AST, depth: int) -> Decimal:
    if depth > 50:
        raise ValueError("nested too deeply")
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Decimal(str(node.value))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        found: Decimal = _OPERATORS[type(node.op)](_value(node.operand, depth + 1))
        return found
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, depth + 1), _value(node.right, depth + 1)
        if isinstance(node.op, ast.Pow):
            if abs(right) > 1000 or abs(left) > 10**9:
                raise ValueError("too large")
            with localcontext() as context:
                context.prec = 50
                return left**right
        if type(node.op) in _OPERATORS:
            done: Decimal = _OPERATORS[type(node.op)](left, right)
            return done
    raise ValueError("no arithmetic")


def _shown(value: Decimal) -> str:
    rounded = round(value, 6) if abs(value) < Decimal(10) ** 20 else value
    text = f"{rounded:f}" if abs(rounded) < Decimal(10) ** 20 else f"{rounded:.6E}"
    return text.rstrip("0").rstrip(".") if "." in text and "E" not in text else text


def _units(words: str) -> str | None:
    asked = _ASKING.sub("", words)
    first = _CONVERT[0].fullmatch(asked) or _CONVERT[0].fullmatch(words)
    if first is not None:
        number, source, target = first.groups()
    else:
        second = _CONVERT[1].fullmatch(words)
        if second is None:
            return None
        target, number, source = second.groups()
    amount = Decimal(number.replace(",", "."))
    if source in _DEGREES and target in _DEGREES:
        return _degrees(amount, _DEGREES[source], _DEGREES[target])
    if source not in _UNITS or target not in _UNITS or _UNITS[source][0] != _UNITS[target][0]:
        return None
    converted = amount * Decimal(_UNITS[source][1]) / Decimal(_UNITS[target][1])
    return f"{_shown(amount)} {_UNITS[source][2]} = {_shown(converted)} {_UNITS[target][2]}"


def _degrees(amount: Decimal, source: str, target: str) -> str:
    zero = Decimal("273.15")
    kelvin = {"K": amount, "C": amount + zero, "F": (amount - 32) * 5 / 9 + zero}[source]
    result = {"K": kelvin, "C": kelvin - zero, "F": (kelvin - zero) * 9 / 5 + 32}[target]
    return f"{_shown(amount)} °{source} = {_shown(result)} °{target}".replace("°K", "K")


def _date(words: str, now: datetime) -> str | None:
    if _TIME.fullmatch(words):
        return f"It is {now:%H:%M} UTC."
    if _TODAY.fullmatch(words):
        return f"Today is {_named(now.date())} (UTC)."
    if match := _UNTIL.fullmatch(words):
        day = _day(match[1], now.date(), future=True)
        return f"{(day - now.date()).days} days, until {_named(day)}." if day else None
    if match := _BETWEEN.fullmatch(words):
        one, other = _day(match[1], now.date()), _day(match[2], now.date())
        return f"{abs((other - one).days)} days." if one and other else None
    if match := _WEEKDAY.fullmatch(words):
        day = _day(match[1], now.date())
        return f"{day.isoformat()} is a {_DAYS[day.weekday()]}." if day else None
    return None


def _named(day: date) -> str:
    return f"{_DAYS[day.weekday()]}, {day.isoformat()}"


def _day(text: str, today: date, *, future: bool = False) -> date | None:
    if text in {"christmas", "weihnachten", "noel", "navidad", "natal"}:
        text = "25 december"
    if match := re.fullmatch(r"(\d{4})-(\d{1,2})-(\d{1,2})", text):
        year, month, number = (int(part) for part in match.groups())
        return _made(year, month, number)
    match = re.fullmatch(
        r"(\d{1,2})(?:st|nd|rd|th|\.|er|º)?\s*(?:of |de )?([a-z]+)\.?(?: (?:de )?(\d{4}))?", text
    )
    named = match.group(2, 1, 3) if match else None
    if named is None:
        match = re.fullmatch(r"([a-z]+) (\d{1,2})(?:st|nd|rd|th)?(?:,? (\d{4}))?", text)
        named = match.group(1, 2, 3) if match else None
    if named is None or named[0] not in _MONTHS:
        return None
    day = _made(int(named[2] or today.year), _MONTHS[named[0]], int(named[1]))
    if day is not None and future and named[2] is None and day < today:
        return _made(today.year + 1, day.month, day.day)
    return day


def _made(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None
