// Responses, built from the one row that a statement returns.

import { leftOut, Refusal } from "./errors.mjs";
import { contentTypeOf } from "./media.mjs";
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
  if (answer.hasBody) {
    headers.set("content-type", contentTypeOf(request.accepts));
    if (request.isAsked) headers.set("content-profile", request.schema);
  }
  if (result.overrides !== null) throw leftOut("response.status and response.headers");
  const { status } = answer;
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
  const answer = { hasBody: true, headers: { "content-range": contentRange(lower, upper, all) } };
  if (all !== null && lower > all) return { ...answer, status: 416, body: beyond(lower, all) };
  return { ...answer, status: all !== null && result.rows < all ? 206 : 200 };
}

const beyond = (lower, all) =>
  new Refusal(416, {
    code: "PGRST103",
    message: "Requested range not satisfiable",
    details: `An offset of ${lower} was requested, but there are only ${all} rows.`,
  }).text;

// Only the range of an update contains the changed rows.
const changed = (request, result, rows = 0) => ({
  status: isShown(request) ? 200 : 204,
  hasBody: isShown(request),
  headers: { "content-range": contentRange(0, rows - 1, total(request, result)) },
});

const FORMS = {
  read: (_, result, { plan }) => rowsOf(plan, result),
  insert(request, result) {
    const merges = request.prefers.resolution === "merge-duplicates";
    const isNew = !merges || result.inserted > 0;
    return { ...changed(request, result), status: isNew ? 201 : 200 };
  },
  update: (request, result) => changed(request, result, result.rows),
  delete: (request, result) => changed(request, result),
  call(_, result, { plan, chosen }) {
    const answer = rowsOf(plan, result);
    return chosen.is_void && !chosen.is_set ? { ...answer, status: 204, hasBody: false } : answer;
  },
};
