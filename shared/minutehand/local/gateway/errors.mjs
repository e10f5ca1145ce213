// Answers errors as PostgREST does: its status for each SQLSTATE, and the error's own code, message,
// details and hint, which lite keeps for PTnnn only.

const SQLSTATE = /^[0-9A-Z]{5}$/;

// https://docs.postgrest.org/en/stable/references/errors.html#status-codes; longest prefix wins
const STATUS = {
  "08": 503,
  "09": 500,
  "0L": 403,
  "0P": 403,
  21000: 500,
  23503: 409,
  23505: 409,
  25006: 405,
  25: 500,
  28: 403,
  "2D": 500,
  38: 500,
  39: 500,
  "3B": 500,
  40: 500,
  42883: 404,
  "42P01": 404,
  "42P17": 500,
  42501: 403,
  53: 503,
  53400: 500,
  54: 500,
  55: 500,
  57: 500,
  "57P01": 503,
  58: 500,
  F0: 500,
  HV: 500,
  P0: 500,
  P0001: 400,
  XX: 500,
};

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

// The name most like `name`; the hints "Perhaps you meant …" are of one at least as like as `least`.
export function closest(name, names, least = 0.75) {
  const scored = [...names].map((other) => [likeness(name, other), other]);
  const [best] = scored.sort(([a], [b]) => b - a);
  return best && best[0] >= least && best[1] !== name ? best[1] : null;
}

function likeness(one, other) {
  let row = Array.from({ length: other.length + 1 }, (_, index) => index);
  for (let i = 1; i <= one.length; i++) {
    const next = [i];
    for (let j = 1; j <= other.length; j++) {
      const replaced = row[j - 1] + (one[i - 1] === other[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j] + 1, next[j - 1] + 1));
    }
    row = next;
  }
  return 1 - row.at(-1) / Math.max(one.length, other.length, 1);
}
