// Answers database errors as PostgREST does: its status for each SQLSTATE, and the error's own
// code, message, details and hint, which lite keeps for PTnnn only.

const SQLSTATE = /^[0-9A-Z]{5}$/;

// https://docs.postgrest.org/en/stable/references/errors.html#status-codes; longest prefix wins
const STATUS = {
  "08": 503,
  "09": 500,
  "0L": 403,
  "0P": 403,
  25006: 405,
  25: 500,
  28: 403,
  "2D": 500,
  38: 500,
  39: 500,
  "3B": 500,
  40: 500,
  23503: 409,
  23505: 409,
  42883: 404,
  "42P01": 404,
  "42P17": 500,
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

// lite answers these right, by the caller's role or by its own rules
const LEFT_TO_LITE = /^(PT\d{3}|PGRST|42501|42703)$/;

export function asPostgrestError(error) {
  const source = SQLSTATE.test(error?.code) ? error : error?.cause;
  const code = source?.code;
  if (!SQLSTATE.test(code)) return withoutStack(error);
  if (LEFT_TO_LITE.test(code)) return quiet(source.message, code, source.detail, source.hint);
  const body = {
    code,
    message: source.message,
    details: source.detail ?? null,
    hint: source.hint ?? null,
  };
  const status = STATUS[code] ?? STATUS[code.slice(0, 2)] ?? 400;
  // the one function through which lite lets an error choose its status and body
  return quiet(JSON.stringify(body), "PGRST", JSON.stringify({ status, headers: {} }));
}

// lite recognises some errors by their class, so these stay the same objects
function withoutStack(error) {
  if (error instanceof Error) Object.defineProperty(error, "stack", { value: error.message });
  return error;
}

// lite prints every error: one line each, without the stack of its driver
function quiet(message, code, detail, hint) {
  const error = new Error(message);
  const hidden = (value) => ({ value, enumerable: false });
  return Object.defineProperties(error, {
    code: hidden(code),
    detail: hidden(detail),
    hint: hidden(hint),
    stack: hidden(`${code} ${message}${hint ? ` (${hint})` : ""}`),
  });
}
