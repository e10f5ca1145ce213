// Responses, built from the one row that a statement returns.

import { Refusal } from "./errors.mjs";
import { contentTypeOf } from "./media.mjs";
import { appliedPreferences } from "./preferences.mjs";

// `result` is the statement's row, `chosen` the called function, `table` any other resource.
export function answerOf(request, { media, chosen, table }, result) {
  const answer = { ...FORMS[request.kind](request, result, { chosen, table }) };
  const headers = new Headers(answer.headers);
  const hasKey = table?.key?.length > 0 || request.query.onConflict !== null;
  const applied = appliedPreferences(request.prefers, request.kind, hasKey);
  if (applied) headers.set("preference-applied", applied);
  headers.set("vary", "Accept, Prefer, Range");
  if (answer.hasBody) {
    headers.set("content-type", contentTypeOf(media));
    if (request.isAsked) headers.set("content-profile", request.schema);
  }
  const status = overridden(headers, result) ?? answer.status;
  const body = request.isHead || !answer.hasBody ? null : (answer.body ?? result.body);
  return new Response([204, 304].includes(status) ? null : body, { status, headers });
}

const total = ({ prefers: { count } }, { rows }) =>
  ["exact", "estimated"].includes(count) ? rows : null;

const contentRange = (lower, upper, all) =>
  `${all !== 0 && lower <= upper ? `${lower}-${upper}` : "*"}/${all ?? "*"}`;

const isShown = ({ prefers }) => prefers.return === "representation";

function rowsOf(request, result) {
  const { lower } = request.range;
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
  read(request, result) {
    const answer = rowsOf(request, result);
    const { canonical } = request.query;
    const place = `/${request.name}${canonical && `?${canonical}`}`;
    return { ...answer, hasBody: true, headers: { ...answer.headers, "content-location": place } };
  },
  insert(request, result) {
    const headers = { "content-range": contentRange(1, 0, total(request, result)) };
    if (result.location.length > 0) headers.location = locationOf(request.name, result.location);
    const merges = request.prefers.resolution === "merge-duplicates";
    const isNew = !merges || result.inserted > 0;
    return { status: isNew ? 201 : 200, hasBody: isShown(request), headers };
  },
  update(request, result) {
    const range = contentRange(0, result.rows - 1, total(request, result));
    return changed(request, { "content-range": range });
  },
  upsert(request, result) {
    const status = isShown(request) ? (result.inserted > 0 ? 201 : 200) : 204;
    return { status, hasBody: isShown(request), headers: {} };
  },
  delete(request, result) {
    return changed(request, { "content-range": contentRange(1, 0, total(request, result)) });
  },
  call(request, result, { chosen }) {
    const answer = rowsOf(request, result);
    if (chosen.is_void && !chosen.is_set) return { ...answer, status: 204, hasBody: false };
    return { ...answer, hasBody: true };
  },
};

function locationOf(name, pairs) {
  const escaped = (text) =>
    encodeURIComponent(text).replace(/[!'()*]/g, (one) => `%${one.charCodeAt(0).toString(16)}`);
  const each = pairs.map((pair) => {
    const at = pair.indexOf("=");
    return `${escaped(pair.slice(0, at))}=${escaped(pair.slice(at + 1))}`;
  });
  return `/${name}?${each.join("&")}`;
}

// Apply status and headers that a function has set.
// https://docs.postgrest.org/en/v14/references/transactions.html
function overridden(headers, result) {
  const made = (result.headers === null ? [] : headersOf(result.headers)).map(([name]) => name);
  for (const name of made) headers.delete(name);
  for (const [name, value] of result.headers === null ? [] : headersOf(result.headers))
    headers.append(name, value);
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
