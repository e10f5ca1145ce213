// Responses, built from the one row that a statement returns.

import { Refusal } from "./errors.mjs";
import { contentTypeOf } from "./media.mjs";
import { appliedPreferences } from "./preferences.mjs";

// `found` is the statement's row, `chosen` the called function, `table` any other resource.
export function answerOf(asked, { media, chosen, table }, found) {
  const answer = { ...FORMS[asked.kind](asked, found, { chosen, table }) };
  const headers = new Headers(answer.headers);
  const hasKey = table?.key?.length > 0 || asked.query.onConflict !== null;
  const applied = appliedPreferences(asked.prefers, asked.kind, hasKey);
  if (applied) headers.set("preference-applied", applied);
  if (answer.hasBody) {
    headers.set("content-type", contentTypeOf(media));
    if (asked.isAsked) headers.set("content-profile", asked.schema);
  }
  const status = overridden(headers, found) ?? answer.status;
  const body = asked.isHead || !answer.hasBody ? null : (answer.body ?? found.body);
  return new Response([204, 304].includes(status) ? null : body, { status, headers });
}

const total = ({ prefers: { count } }, { rows }) =>
  ["exact", "estimated"].includes(count) ? rows : null;

const contentRange = (lower, upper, all) =>
  `${all !== 0 && lower <= upper ? `${lower}-${upper}` : "*"}/${all ?? "*"}`;

const isShown = ({ prefers }) => prefers.return === "representation";

function rowsOf(asked, found) {
  const { lower } = asked.range;
  const upper = lower + found.rows - 1;
  const all = found.total;
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

const changed = (asked, headers) => ({
  status: isShown(asked) ? 200 : 204,
  hasBody: isShown(asked),
  headers,
});

const FORMS = {
  read(asked, found) {
    const answer = rowsOf(asked, found);
    const { canonical } = asked.query;
    const place = `/${asked.name}${canonical && `?${canonical}`}`;
    return { ...answer, hasBody: true, headers: { ...answer.headers, "content-location": place } };
  },
  insert(asked, found) {
    const headers = { "content-range": contentRange(1, 0, total(asked, found)) };
    if (found.location.length > 0) headers.location = locationOf(asked.name, found.location);
    const merges = asked.prefers.resolution === "merge-duplicates";
    const isNew = !merges || found.inserted > 0;
    return { status: isNew ? 201 : 200, hasBody: isShown(asked), headers };
  },
  update(asked, found) {
    const range = contentRange(0, found.rows - 1, total(asked, found));
    return changed(asked, { "content-range": range });
  },
  upsert(asked, found) {
    const status = isShown(asked) ? (found.inserted > 0 ? 201 : 200) : 204;
    return { status, hasBody: isShown(asked), headers: {} };
  },
  delete(asked, found) {
    return changed(asked, { "content-range": contentRange(1, 0, total(asked, found)) });
  },
  call(asked, found, { chosen }) {
    const answer = rowsOf(asked, found);
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
function overridden(headers, found) {
  const made = (found.headers === null ? [] : headersOf(found.headers)).map(([name]) => name);
  for (const name of made) headers.delete(name);
  for (const [name, value] of found.headers === null ? [] : headersOf(found.headers))
    headers.append(name, value);
  if (found.status === null) return null;
  const status = Number(/^\d+/.exec(found.status)?.[0]);
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
