"""A thousand requests to the tables of `library.sql`, made of the grammar that PostgREST reads.

Each says what it means where that follows from Postgres: a statement whose rows are the answer, or
the status and code that the documentation gives to its error. The same seed makes the same ones.
https://docs.postgrest.org/en/v14/references/api.html
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

#: Columns that are compared, each with values as a query and Postgres write them.
COLUMNS: Final[dict[str, dict[str, list[str]]]] = {
    "authors": {
        "id": ["1", "2", "3", "-1"],
        "name": ["Ada", "Eve", "nobody", 'ünï "q", (x)', "a.b", "NULL"],
        "born": ["1815-12-10", "2000-02-29", "1900-01-01"],
        "rating": ["4.5", "10000000000", "0.1", "NaN"],
        "big": ["9007199254740993", "-1"],
        "flag": ["true", "f"],
        "tags": ["{}", "{a}", '{"a,b"}'],
        "meta": ["{}", '{"n":1}', "[]"],
        "span": ["[1,5)", "empty", "[2,3]"],
        "seen": ["infinity", "2026-01-02T03:04:05Z"],
    },
    "books": {
        "id": ["1", "2", "3", "4"],
        "title": ["First book", "Second", "none", 'a "b", (c)'],
        "author_id": ["1", "2"],
        "price": ["10", "20.50", "0", "1e2"],
        "pages": ["100", "5"],
        "code": ["abc", "d"],
        "data": ["{}", '{"a":1}'],
    },
}
SIGNS: Final = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
OF_TYPE: Final = {
    "tags": {"cs": "@>", "cd": "<@", "ov": "&&"},
    "meta": {"cs": "@>", "cd": "<@"},
    "data": {"cs": "@>", "cd": "<@"},
    "span": {"ov": "&&", "sl": "<<", "sr": ">>", "adj": "-|-"},
}
PATHS: Final = {"meta": ["n", "k->a b", "s"], "data": ["a", "t"]}
#: SQLSTATE → status, as documented; without 40001 and 40P01, which PostgREST repeats for ever.
STATUS: Final = {
    "P0001": 400,
    "22012": 400,
    "22P02": 400,
    "23503": 409,
    "23505": 409,
    "23514": 400,
    "25006": 405,
    "28000": 403,
    "2D000": 500,
    "38000": 500,
    "3B000": 500,
    "42501": 403,
    "42883": 404,
    "42P01": 404,
    "53000": 503,
    "53400": 500,
    "54000": 500,
    "55P03": 500,
    "57014": 500,
    "57P01": 503,
    "58000": 500,
    "XX000": 500,
    "PT402": 402,
    "PT503": 503,
    "99999": 400,
    "P0002": 500,
    "0P000": 403,
    "08006": 503,
}
ACCEPTED: Final = (
    "text/csv",
    "application/vnd.pgrst.object+json",
    "*/*",
    "application/json;q=0.5, text/csv",
    "application/vnd.pgrst.array+json;nulls=stripped",
    "application/geo+json",
)
Meant = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Asked:
    """A request, and what it means."""

    method: str
    path: str
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    caller: str = "service"
    #: A statement and its parameters: the answer's body is its only value.
    means: Meant | None = None
    #: Status and code of the error.
    fails: tuple[int, str] | None = None
    #: Whether what it wrote is to be undone.
    writes: bool = False

    @property
    def name(self) -> str:
        """How differences call it."""
        return f"{self.method} {self.path} {self.body or ''} {self.headers or ''}".strip()


def requests(seed: int = 89, number: int = 1000) -> list[Asked]:
    """Make the requests of a seed."""
    chance = random.Random(seed)
    makers: list[Callable[[random.Random], Asked]] = []
    for maker, weight in ((_read, 45), (_refused, 20), (_written, 15), (_called, 12), (_form, 8)):
        makers += [maker] * weight
    return [chance.choice(makers)(chance) for _ in range(number)]


class _Where:
    """Conditions, as parameters of a query and as SQL with its own parameters."""

    def __init__(self, chance: random.Random, table: str, alias: str) -> None:
        self.chance, self.table, self.alias = chance, table, alias
        self.pairs: list[tuple[str, str]] = []
        self.sql: list[str] = []
        self.values: list[str] = []

    def add(self, prefix: str = "") -> None:
        """One condition, or a tree of some."""
        if self.chance.random() < 0.75:
            name, written, sql = self._one()
            self.pairs.append((prefix + name, written))
            self.sql.append(sql)
            return
        word = self.chance.choice(["and", "or", "not.and", "not.or"])
        written, sql = self._tree(word.removeprefix("not."), depth=2)
        self.pairs.append((prefix + word, written))
        self.sql.append(f"not {sql}" if word.startswith("not") else sql)

    def _tree(self, operator: str, depth: int) -> tuple[str, str]:
        found = []
        for _ in range(self.chance.randint(1, 3)):
            if depth > 1 and self.chance.random() < 0.2:
                inner = self.chance.choice(["and", "or"])
                written, sql = self._tree(inner, depth - 1)
                found.append((inner + written, sql))
            else:
                name, written, sql = self._one(in_tree=True)
                found.append((f"{name}.{written}", sql))
        return (
            "(" + ",".join(written for written, _ in found) + ")",
            "(" + f" {operator} ".join(sql for _, sql in found) + ")",
        )

    def _one(self, *, in_tree: bool = False) -> tuple[str, str, str]:
        column = self.chance.choice([*COLUMNS[self.table]])
        name, left = column, f"{self.alias}.{column}"
        values = COLUMNS[self.table][column]
        if column in PATHS and self.chance.random() < 0.5:
            steps = self.chance.choice(PATHS[column]).split("->")
            name = "->".join([column, *steps[:-1]]) + "->>" + steps[-1]
            left += "".join(f"->'{step}'" for step in steps[:-1]) + f"->>'{steps[-1]}'"
            values = ["1", "x", "the quick brown fox"]
            column = "name"
        negated = self.chance.random() < 0.15
        written, right = self._operation(column, values, in_tree)
        return name, f"{'not.' * negated}{written}", f"{'not ' * negated}({left} {right})"

    def _operation(self, column: str, values: list[str], in_tree: bool) -> tuple[str, str]:
        chance, value = self.chance, self.chance.choice(values)
        isnt_json = column not in ("meta", "data")
        kinds = ["compare"] * 4 + ["is", "distinct", "list"] + ["typed"] * (column in OF_TYPE)
        kinds += ["like", "match"] * (column in ("name", "title")) + ["any"] * isnt_json
        kind = chance.choice(kinds)
        quoted = _quoted(value) if in_tree else value
        if kind == "is":
            is_flag = column == "flag"
            word = chance.choice(["null", "not_null", *["true", "unknown"] * is_flag])
            return f"is.{word}", f"is {word.replace('_', ' ')}"
        if kind == "distinct":
            self.values.append(value)
            return f"isdistinct.{quoted}", "is distinct from %s"
        if kind == "list":
            chosen = chance.sample(values, min(2, len(values)))
            self.values.append(_array(chosen))
            return f"in.({','.join(map(_quoted, chosen))})", "= any (%s)"
        if kind == "like":
            self.values.append(f"{value[:1]}%")
            pattern = f"{value[:1]}*"
            word = chance.choice(["like", "ilike"])
            return f"{word}.{_quoted(pattern) if in_tree else pattern}", f"{word} %s"
        if kind == "match":
            self.values.append("^[A-Z]")
            return f"match.{_quoted('^[A-Z]') if in_tree else '^[A-Z]'}", "~ %s"
        if kind == "any":
            word, sign = chance.choice([*[*SIGNS.items()][2:], ("eq", "=")])
            every, array = chance.choice(["any", "all"]), _array(values[:2])
            self.values.append(array)
            return f"{word}({every}).{_quoted(array) if in_tree else array}", f"{sign} {every} (%s)"
        signs = OF_TYPE[column] if kind == "typed" else SIGNS
        word, sign = chance.choice([*signs.items()])
        self.values.append(value)
        return f"{word}.{quoted}", f"{sign} %s"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _array(values: list[str]) -> str:
    return "{" + ",".join(map(_quoted, values)) + "}"


def _address(place: str, pairs: list[tuple[str, str]]) -> str:
    return f"/{place}" + ("?" + urlencode(pairs, quote_via=quote) if pairs else "")


def _columns(chance: random.Random, table: str, alias: str) -> tuple[list[str], list[str]]:
    """Some columns as they are selected, and as SQL."""
    written, sql = [], []
    for column in chance.sample([*COLUMNS[table]], chance.randint(1, 4)):
        place, kind = f"{alias}.{column}", chance.random()
        if kind < 0.1:
            written.append(f"as_{column}:{column}")
            sql.append(f"{place} as as_{column}")
        elif kind < 0.2:
            written.append(f"{column}::text")
            sql.append(f"{place}::text as {column}")
        elif column in PATHS and kind < 0.7:
            *steps, last = chance.choice(PATHS[column]).split("->")
            arrow = chance.choice(["->", "->>"])
            way = "".join(f"->{step}" for step in steps)
            written.append(f"{column}{way}{arrow}{last}")
            path = "".join(f"->'{step}'" for step in steps)
            sql.append(f"{place}{path}{arrow}'{last}' as \"{last}\"")
        else:
            written.append(column)
            sql.append(place)
    return written, sql


def _embed(chance: random.Random, table: str) -> tuple[str, str, str, str]:
    """What is selected of a related table, its name, its join, and the columns of it."""
    inner = "t"
    if table == "authors":
        place, join = "scratch_books", f"e.author_id = {inner}.id"
    elif chance.random() < 0.5:
        place, join = "scratch_authors", f"e.id = {inner}.author_id"
    else:
        place = "scratch_labels"
        join = (
            "exists (select from scratch_books_labels as m"
            f" where m.book_id = {inner}.id and m.label_id = e.id)"
        )
    columns = {"scratch_books": "id,title", "scratch_authors": "id,name"}
    return place, join, columns.get(place, "id,label"), "e.id"


def _read(chance: random.Random) -> Asked:
    """Rows of a table: what is selected, embedded, filtered, ordered, and how many."""
    table = chance.choice([*COLUMNS])
    written, sql = _columns(chance, table, "t")
    where = _Where(chance, table, "t")
    embedded: list[str] = []
    if chance.random() < 0.4:
        place, join, columns, order = _embed(chance, table)
        called, is_one = chance.choice(["", "other"]), place == "scratch_authors"
        is_inner = chance.random() < 0.3
        name = called or place
        written.append(f"{called + ':' if called else ''}{place}{'!inner' * is_inner}({columns})")
        of = ", ".join(f"e.{one}" for one in columns.split(","))
        inner = f"select {of} from {place} as e where {join}"
        whole = "row_to_json(x)" if is_one else "coalesce(json_agg(x), '[]')"
        embedded.append(f'(select {whole} from ({inner} order by {order}) as x) as "{name}"')
        if not is_one:
            where.pairs.append((f"{name}.order", "id"))
        if is_inner:
            where.sql.append(f"exists ({inner})")
    for _ in range(chance.choice([0, 0, 1, 1, 2])):
        where.add()
    column = chance.choice([one for one in COLUMNS[table] if one not in ("meta", "data")])
    way, nulls = chance.choice(["", ".asc", ".desc"]), chance.choice(["", ".nullsfirst"])
    where.pairs.append(("order", f"{column}{way}{nulls},id"))
    ending = f"order by t.{column} {way[1:]} {'nulls first' if nulls else ''}, t.id"
    if chance.random() < 0.3:
        limit, offset = chance.randint(0, 3), chance.randint(0, 2)
        offset = offset if limit else 0  # `limit=0` takes no offset
        where.pairs += [("limit", str(limit))] + [("offset", str(offset))] * (offset > 0)
        ending += f" limit {limit} offset {offset}"
    condition = f" where {' and '.join(where.sql)}" if where.sql else ""
    query = f"select {', '.join(sql + embedded)} from scratch_{table} as t{condition} {ending}"
    pairs = [("select", ",".join(written)), *where.pairs]
    return Asked(
        "GET",
        _address(f"scratch_{table}", pairs),
        means=(f"select coalesce(json_agg(r), '[]') from ({query}) as r", tuple(where.values)),
    )


def _written(chance: random.Random) -> Asked:
    """A change whose rows come back."""
    kind = chance.choice(["insert", "insert", "upsert", "update", "delete"])
    shown = {"prefer": "return=representation"}
    where = _Where(chance, "books", "t")
    titles = ["New", "Newer", "Second"] if kind == "upsert" else ["New", "Newer", "Newest"]
    rows = [
        {"title": title, "price": chance.choice([1, "2.50", None]), "pages": chance.randint(1, 9)}
        for title in chance.sample(titles, chance.randint(1, 3))
    ]
    for name in chance.sample(["price", "pages"], chance.randint(0, 1)):
        rows = [{one: value for one, value in row.items() if one != name} for row in rows]
    names = ", ".join(rows[0])
    body = json.dumps(rows if kind == "upsert" or len(rows) > 1 else rows[0])
    ending = "returning t.id, t.title, t.price, t.pages"
    select = [("select", "id,title,price,pages")]
    if kind in ("insert", "upsert"):
        change = (
            f"insert into scratch_books as t ({names}) select {names} from"
            " json_populate_recordset(null::scratch_books, %s::json)"
        )
        if kind == "upsert":
            way = chance.choice(["merge", "ignore"])
            shown = {"prefer": f"resolution={way}-duplicates,return=representation"}
            select.append(("on_conflict", "title"))
            sets = ", ".join(f"{name} = excluded.{name}" for name in rows[0])
            change += f" on conflict (title) do {'nothing' if way == 'ignore' else ''}"
            change += f"update set {sets}" if way == "merge" else ""
        method, values = "POST", [json.dumps(rows)]
    else:
        where.add()
        method, values = "DELETE", where.values
        change = f"delete from scratch_books as t where {where.sql[0]}"
        if kind == "update":
            method, body = "PATCH", json.dumps({"pages": 7})
            change = f"update scratch_books as t set pages = 7 where {where.sql[0]}"
    statement = f"with x as ({change} {ending}) select coalesce(json_agg(x), '[]') from x"
    return Asked(
        method,
        _address("scratch_books", [*select, *where.pairs]),
        None if method == "DELETE" else body,
        shown,
        means=(statement, tuple(values)),
        writes=True,
    )


def _called(chance: random.Random) -> Asked:
    """A function, by GET or POST."""
    a, b = str(chance.randint(-5, 5)), str(chance.randint(0, 9))
    author = chance.choice(["1", "2", "9"])
    words = chance.sample(["a", "b,c", "d e"], 2)
    document = chance.choice(['{"a": [1, 2.50]}', "[]", '"x"', "null", "1e3"])
    rows = "select coalesce(json_agg(r), '[]') from"
    calls: list[tuple[str, dict[str, Any], str, tuple[str, ...]]] = [
        ("scratch_sum", {"a": a}, "select to_json(scratch_sum(%s::int))", (a,)),
        ("scratch_sum", {"a": a, "b": b}, "select to_json(scratch_sum(%s::int, %s::int))", (a, b)),
        (
            "scratch_books_of",
            {"author": author},
            f"{rows} scratch_books_of(%s::int) as r",
            (author,),
        ),
        ("scratch_pairs", {"n": b}, f"{rows} scratch_pairs(%s::int) as r", (b,)),
        ("scratch_first", {}, "select to_json(scratch_first())", ()),
        (
            "scratch_words",
            {"words": words},
            "select to_json(scratch_words(variadic %s::text[]))",
            (_array(words),),
        ),
    ]
    if chance.random() < 0.15:  # filtered by a column that is not selected
        pairs = [("n", b), ("x", "gt.2"), ("select", "y"), ("order", "y.desc")]
        query = "(select y from scratch_pairs(%s::int) where x > 2 order by y desc)"
        return Asked(
            "GET", _address("rpc/scratch_pairs", pairs), means=(f"{rows} {query} as r", (b,))
        )
    name, given, statement, values = chance.choice(calls)
    if chance.random() < 0.5:
        pairs = [
            (key, each)
            for key, value in given.items()
            for each in (value if isinstance(value, list) else [value])
        ]
        return Asked("GET", _address(f"rpc/{name}", pairs), means=(statement, values))
    if chance.random() < 0.2:
        body = json.dumps({"j": json.loads(document)})
        return Asked("POST", "/rpc/scratch_echo", body, means=("select %s::json", (document,)))
    if chance.random() < 0.2:
        text = chance.choice(["hello", "ünï", "a b"])
        plain = {"content-type": "text/plain"}
        upper = "select to_json(upper(%s::text))"
        return Asked("POST", "/rpc/scratch_upper", text, plain, means=(upper, (text,)))
    return Asked("POST", f"/rpc/{name}", json.dumps(given), means=(statement, values))


def _form(chance: random.Random) -> Asked:
    """Counts, ranges, media types, preferences, profiles: compared with a record alone."""
    table = f"scratch_{chance.choice([*COLUMNS])}"
    accept = chance.choice(ACCEPTED)
    count = chance.choice(["exact", "planned", "estimated"])
    zone = chance.choice(["Asia/Kolkata", "No/Where"])
    prefer = chance.choice([f"count={count}", f"timezone={zone}", "handling=strict", "tx=rollback"])
    span = chance.choice(["0-1", "1-", "2-9", "9-10", "3-2"])
    headers: list[dict[str, str]] = [
        {"accept": accept},
        {"prefer": prefer},
        {"range": span, "prefer": f"count={count}"},
        {"accept-profile": "public"},
    ]
    pairs = [("select", chance.choice(["*", "id", "id,...scratch_books_labels(book_id)"]))]
    pairs = pairs if "labels" not in pairs[0][1] or table == "scratch_books" else [("select", "*")]
    order = [("order", "id")]
    return Asked(
        chance.choice(["GET", "GET", "HEAD"]),
        _address(table, [*pairs, *order]),
        headers=chance.choice(headers),
    )


def _refused(chance: random.Random) -> Asked:
    """An error of each class."""
    return chance.choice([*_errors(chance)])


def _errors(chance: random.Random) -> Iterator[Asked]:
    table = chance.choice(["authors", "books"])
    place = f"/scratch_{table}"
    word = "".join(chance.choice("abcxyz") for _ in range(chance.randint(3, 9)))
    column = chance.choice([*COLUMNS[table]])

    def get(path: str, status: int, code: str, **headers: str) -> Asked:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return Asked("GET", path, headers=given, fails=(status, code))

    def post(path: str, body: str, status: int, code: str, **headers: str) -> Asked:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return Asked("POST", path, body, given, fails=(status, code), writes=True)

    yield get(f"/scratch_{word}", 404, "PGRST205")
    yield get(f"{place}?select=no_{word}", 400, "42703")
    yield get(f"{place}?no_{word}=eq.1", 400, "42703")
    yield get(f"{place}?order=no_{word}", 400, "42703")
    yield get(f"{place}?{column}=no{word}.1", 400, "PGRST100")
    yield get(f"{place}?{column}=is.{word}", 400, "PGRST100")
    yield get(f"{place}?or=({column}.eq.1", 400, "PGRST100")
    yield get(f"{place}?select={column},,id", 400, "PGRST100")
    yield get(f"{place}?order={column}.{word}", 400, "PGRST100")
    yield get(f"{place}?id=eq.{word}", 400, "22P02")
    yield get(f"{place}?select=id,no_{word}(id)", 400, "PGRST200")
    yield get(f"{place}?no_{word}.id=eq.1", 400, "PGRST108")
    yield get(f"{place}?select={column}.max()", 400, "PGRST123")
    yield get(f"{place}?select=id::no_{word}", 400, "42704")
    yield get(place, 406, "PGRST107", accept=f"application/{word}")
    yield get(place, 406, "PGRST106", accept_profile=word)
    yield get(place, 400, "PGRST122", prefer=f"handling=strict, {word}=1")
    yield get(f"{place}?limit=-{chance.randint(1, 9)}", 416, "PGRST103")
    yield get(f"{place}/{word}", 404, "PGRST125")
    many = "/scratch_authors?order=scratch_books(title)&select=scratch_books(title)"
    yield get(many, 400, "PGRST118")
    single = "application/vnd.pgrst.object+json"
    yield get("/scratch_authors?id=gt.0", 406, "PGRST116", accept=single)
    yield get(f"/rpc/scratch_{word}", 404, "PGRST202")
    yield get(f"/rpc/scratch_sum?{word}=1", 404, "PGRST202")
    yield get("/rpc/scratch_same?a=1", 300, "PGRST203")
    yield get("/rpc/scratch_label?id=9&label=x", 405, "25006")
    yield get("/rpc/scratch_sleep", 500, "57014")
    for code in chance.sample([*STATUS], 12):
        yield post("/rpc/scratch_raise", json.dumps({"code": code}), STATUS[code], code)
    yield post("/rpc/scratch_answer", '{"status": "x", "headers": "[]"}', 500, "PGRST112")
    yield post("/rpc/scratch_answer", f'{{"status": "200", "headers": "{word}"}}', 500, "PGRST111")
    yield post("/scratch_books", f"{{{word}", 400, "PGRST102")
    yield post("/scratch_books", f'[{{"title": "{word}"}}, {{"pages": 1}}]', 400, "PGRST102")
    yield post("/scratch_books", "x", 400, "PGRST102", content_type="text/plain")
    yield post("/scratch_books", f'{{"no_{word}": 1}}', 400, "PGRST204")
    yield post("/scratch_books", '{"title": "Second"}', 409, "23505")
    yield post("/scratch_books", f'{{"title": "{word}", "author_id": 99}}', 409, "23503")
    yield post("/scratch_books", f'{{"title": "{word}", "price": -1}}', 400, "23514")
    yield post("/scratch_books", "{}", 400, "23502")
    yield post(
        "/scratch_books?on_conflict=price",
        '{"title": "x"}',
        400,
        "42P10",
        prefer="resolution=merge-duplicates",
    )
    yield Asked(
        "PUT",
        "/scratch_labels?label=eq.red",
        '{"id": 1, "label": "red"}',
        fails=(405, "PGRST105"),
        writes=True,
    )
    yield Asked(
        "PUT",
        "/scratch_labels?id=eq.1",
        '{"id": 2, "label": "red"}',
        fails=(400, "PGRST115"),
        writes=True,
    )
    yield Asked("PATCH", "/rpc/scratch_sum", "{}", fails=(405, "PGRST101"))
    yield Asked(
        "POST",
        "/scratch_labels",
        '{"id": 5, "label": "x"}',
        caller="anon",
        fails=(401, "42501"),
        writes=True,
    )
    yield Asked(
        "PATCH",
        "/scratch_books?id=gt.0",
        '{"pages": 1}',
        fails=(400, "PGRST124"),
        headers={"prefer": "handling=strict,max-affected=1"},
        writes=True,
    )
