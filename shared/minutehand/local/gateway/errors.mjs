// Answers errors as PostgREST does: its status for each SQLSTATE, and the error's own code,
// message, details and hint, which lite keeps for PTnnn only.

const SQLSTATE = /^[0-9A-Z]{5}$/;

// https://docs.postgrest.org/en/stable/references/errors.html#status-codes; longest prefix wins
const CODES = {
  400: "P0001",
  403: "0L 0P 28 42501",
  404: "42883 42P01",
  405: "25006",
  409: "23503 23505",
  500: "09 21000 25 2D 38 39 3B 40 42P17 53400 54 55 57 58 F0 HV P0 XX",
  503: "08 53 57P01",
};
const STATUS = Object.fromEntries(
  Object.entries(CODES).flatMap(([status, codes]) =>
    codes.split(" ").map((code) => [code, Number(status)]),
  ),
);

// What PostgREST refuses, before the database or in its words.
export class Refusal extends Error {
  constructor(status, { code, message, details = null, hint = null }, headers = {}) {
    super(message);
    this.status = status;
    this.body = { code, message, details, hint };
    this.headers = headers;
  }

  response() {
    const { status, body, headers } = this;
    return Response.json(body, {
      status,
      headers: {
        "content-type": "application/json; charset=utf-8",
        "proxy-status": `PostgREST; error=${body.code}`,
        ...headers,
      },
    });
  }
}

// A database's error as PostgREST answers it to `role`; null for what is none of the database.
export function refusalOf(error, role) {
  const source = SQLSTATE.test(error?.code) ? error : error?.cause;
  const { code, message, detail = null, hint = null } = source ?? {};
  if (!SQLSTATE.test(code)) return null;
  const status = statusOf(code, message, role);
  const headers = status === 401 ? { "www-authenticate": "Bearer" } : {};
  return new Refusal(status, { code, message, details: detail, hint }, headers);
}

function statusOf(code, message, role) {
  if (code.startsWith("PT")) {
    const status = Number(code.slice(2));
    return status >= 200 && status < 600 ? status : 500;
  }
  if (code === "42501" && role === "anon") return 401;
  if (code === "22023" && /^role .* does not exist$/s.test(message)) return 401;
  return STATUS[code] ?? STATUS[code.slice(0, 2)] ?? 400;
}

// What lite makes of an error: it is handed our answer through the one function by which it lets an
// error choose status and body. A missing column it names with its table, as PostgREST does.
export function errorForLite(error, role) {
  const refusal = error?.code === "42703" ? null : refusalOf(error, role);
  // lite recognises some errors by their class, so these stay the same objects
  if (!refusal) return quiet(error, error?.message);
  const { status, body, headers } = refusal;
  const hidden = (value) => ({ value, enumerable: false });
  return Object.defineProperties(new Error(JSON.stringify(body)), {
    code: hidden("PGRST"),
    detail: hidden(JSON.stringify({ status, headers })),
    stack: hidden(`${body.code} ${body.message}${body.hint ? ` (${body.hint})` : ""}`),
  });
}

// lite prints every error: one line each, without the stack of its driver
function quiet(error, words) {
  if (error instanceof Error) Object.defineProperty(error, "stack", { value: words });
  return error;
}
