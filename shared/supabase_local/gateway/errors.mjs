// Error responses in the form of PostgREST, with the status for the SQLSTATE, and with code,
// message, details and hint.

const SQLSTATE = /^[0-9A-Z]{5}$/;

// https://docs.postgrest.org/en/v14/references/errors.html#status-codes. The longest prefix
// of an SQLSTATE in this table determines the status.
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

// An error that PostgREST returns before it uses the database.
export class Refusal extends Error {
  constructor(status, { code, message, details = null, hint = null }, headers = {}) {
    super(message);
    Object.assign(this, { status, headers, body: { code, details, hint, message } });
  }

  get text() {
    return JSON.stringify(this.body);
  }

  response() {
    const { status, body, headers } = this;
    const isBare = [204, 205, 304].includes(status);
    return new Response(isBare ? null : this.text, {
      status,
      headers: {
        "content-type": "application/json; charset=utf-8",
        "proxy-status": `PostgREST; error=${body.code}`,
        // add `retry-after` to every 503, also if a function raised PT503
        ...(status === 503 ? { "retry-after": "0" } : {}),
        ...headers,
      },
    });
  }
}

// Create the error for a feature of PostgREST that this server does not support.
export const leftOut = (name) =>
  new Refusal(501, {
    code: "PGRST000",
    message: `the local Data API does not support ${name}`,
    hint: "Use `supabase start`, which runs PostgREST.",
  });

// Convert a database error to the response that PostgREST sends to `role`.
// If the error does not come from Postgres, the connection is broken.
export function refusalOf(error, role) {
  const { code, message, detail = null, hint = null } = error;
  if (!SQLSTATE.test(code)) {
    const words = "Database client error. Retrying the connection.";
    return new Refusal(503, { code: "PGRST001", message: words, details: message });
  }
  if (code === "PGRST") return raised(message, detail);
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
  if (code === "21000" && message.endsWith("requires a WHERE clause")) return 400;
  return STATUS[code] ?? STATUS[code.slice(0, 2)] ?? 400;
}

// Read a complete response that a function raised as an error. The message of the error is a JSON
// object, and its detail is a second JSON object.
// https://docs.postgrest.org/en/v14/references/errors.html#raise-errors-with-http-status-codes
function raised(message, detail) {
  const body = objectOf(message, ({ code, message: words }) => code && words);
  const answer = objectOf(detail, ({ status, headers }) => status && headers);
  if (body && answer) {
    const { code, message: words, details = null, hint = null } = body;
    return new Refusal(answer.status, { code, message: words, details, hint }, answer.headers);
  }
  return new Refusal(500, {
    code: "PGRST121",
    message: `Could not parse JSON in the "RAISE SQLSTATE 'PGRST'" error`,
    details: body
      ? `Invalid JSON value for DETAIL: '${detail}'`
      : `Invalid JSON value for MESSAGE: '${message}'`,
    hint:
      "MESSAGE must be a JSON object with the keys 'code' and 'message', DETAIL one with " +
      "'status' and 'headers'.",
  });
}

function objectOf(text, isWhole) {
  try {
    const value = JSON.parse(text);
    return value && isWhole(value) ? value : null;
  } catch {
    return null;
  }
}
