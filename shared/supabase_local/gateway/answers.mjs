// Responses, built from the one row that a statement returns.

import { Refusal } from "./errors.mjs";
import { contentTypeOf } from "./media.mjs";
import { unaliased } from "./plan.mjs";
import { appliedPreferences } from "./preferences.mjs";
import { version } from "./versions.mjs";

// `result` is the row of the statement. `chosen` is the called function, and `table` is the table
// of a request that calls no function.
export function answerOf(request, { plan, chosen, table }, result) {
  const answer = { ...FORMS[request.kind](request, result, { plan, chosen }) };
  const headers = new Headers(answer.headers);
  const hasKey = table?.key?.length > 0 || request.query.onConflict !== null;
  const applied = appliedPreferences(request.prefers, request.kind, hasKey);
  if (applied) headers.set("preference-applied", applied);
  for (const [name, value] of Object.entries(version.headers)) headers.set(name, value);
  const names = unaliased(plan);
  const warning = names.length > 0 ? version.warningOf(names) : null;
  if (warning) headers.set("warning", warning);
  if (answer.hasBody) {
    headers.set("content-type", contentTypeOf(request.accepts));
    if (request.isAsked) headers.set("content-profile", request.schema);
  }
  const status = overridden(headers, result) ?? answer.status;
  const body = request.isHead || !answer.hasBody ? null : (answer.body ?? result.body);
  return new Response([204, 304].includes(status) ? null : body, { status, headers });
}

const total = ({ prefers: { count } }, { rows }) => (count ? rows : null);

const contentRange = (lower, upper, all) =>
  `${all !== 0 && lower <= upper ? `${lower}-${upper}` : "*"}/${all ?? "*"}`;

const isShown = ({ prefers }) => prefers.return === "representation";

function rowsOf(plan, result) {
  const lower = plan.range.offset;
  const upper = lower + result.rows - 1;
  const all = result.total;
  const headers = { "content-range": contentRange(lower, upper, all) };
  if (all !== null && lower > all) return { status: 416, headers, body: beyond(lower, all) };
  return { status: all !== null && 1 + upper - lower < all ? 206 : 200, headers };
}

const beyond = (lower, all) =>
  new Refusal(416, {
    code: "PGRST103",
    message: "Requested range not satisfiable",
    details: `An offset of ${lower} was requested, but there are only ${all} rows.`,
  }).text;

const changed = (request, headers) => ({
  status: isShown(request) ? 200 : 204,
  hasBody: isShown(request),
  headers,
});

const FORMS = {
  read: (_, result, { plan }) => ({ ...rowsOf(plan, result), hasBody: true }),
  insert(request, result) {
    const headers = { "content-range": contentRange(1, 0, total(request, result)) };
    const merges = request.prefers.resolution === "merge-duplicates";
    const isNew = !merges || result.inserted > 0;
    return { status: isNew ? 201 : 200, hasBody: isShown(request), headers };
  },
  update(request, result) {
    const range = contentRange(0, result.rows - 1, total(request, result));
    return changed(request, { "content-range": range });
  },
  delete(request, result) {
    return changed(request, { "content-range": contentRange(1, 0, total(request, result)) });
  },
  call(_, result, { plan, chosen }) {
    const answer = rowsOf(plan, result);
    if (chosen.is_void && !chosen.is_set) return { ...answer, status: 204, hasBody: false };
    return { ...answer, hasBody: true };
  },
};

// Apply the status and the headers that a function has set for the response.
// https://docs.postgrest.org/en/v14/references/transactions.html
function overridden(headers, result) {
  const made = result.headers === null ? [] : headersOf(result.headers);
  for (const [name] of made) headers.delete(name);
  for (const [name, value] of made) headers.append(name, value);
  if (result.status === null) return null;
  const status = Number(/^\d+/.exec(result.status)?.[0]);
  if (status >= 200 && status < 600) return status;
  const message = "response.status guc must be a valid status code";
  throw new Refusal(500, { code: "PGRST112", message });
}

function headersOf(text) {
  const refused = new Refusal(500, {
    code: "PGRST111",
    message:
      "response.headers guc must be a JSON array composed of objects with a single key and a " +
      "string value",
  });
  let list;
  try {
    list = JSON.parse(text);
  } catch {
    throw refused;
  }
  if (!Array.isArray(list)) throw refused;
  return list.map((one) => {
    const pairs = Object.entries(one ?? {});
    if (pairs.length !== 1 || typeof pairs[0][1] !== "string") throw refused;
    return pairs[0];
  });
}
