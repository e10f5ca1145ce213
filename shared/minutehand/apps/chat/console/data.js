// What the pages of chat read and do, all by the app's own routes.

import { request } from "../../api.js";

const HOME = "/api/chat/conversations";
const at = (id, more = "") => `${HOME}/${encodeURIComponent(id)}${more}`;

/** The app's routes as the signed-in member calls them, or the holder of a guest session. */
export function routesOf(guestSession) {
  const call = (method, path, options) => request(method, path, { ...options, guestSession });
  return {
    list: (workspaceId, after, signal) =>
      call("GET", HOME, { query: { workspace_id: workspaceId, limit: 25, after }, signal }),
    begin: (workspaceId, key) =>
      call("POST", HOME, {
        body: { workspace_id: workspaceId },
        headers: { "Idempotency-Key": key },
      }),
    read: (id, signal) => call("GET", at(id), { signal }),
    rename: (id, title) => call("PATCH", at(id), { body: { title } }),
    remove: (id) => call("DELETE", at(id)),
    share: (id, seconds) => call("POST", at(id, "/share"), { body: { ttl_seconds: seconds } }),
    unshare: (id) => call("DELETE", at(id, "/share")),
    messages: (id, before, signal) =>
      call("GET", at(id, "/messages"), { query: { before, limit: 50 }, signal }),
    send: (id, message) => call("POST", at(id, "/messages"), { body: message }),
    answer: (id, item, name, answer) =>
      call("POST", at(id, `/work/${item}/answer`), { body: { name, answer } }),
    cancel: (id, item) => call("POST", at(id, `/work/${item}/cancel`)),
    retry: (id, item) => call("POST", at(id, `/work/${item}/retry`)),
  };
}

export const chat = routesOf();

export const newKey = () => crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
export const titleOf = (conversation) => conversation.title ?? "New conversation";
export const isOver = (status) =>
  status === "completed" || status === "failed" || status === "cancelled";

/** The address by which a guest comes in: no browser sends what is behind the #, so no log has it. */
export const linkOf = ({ id, session_id: guestSession }) =>
  `${location.origin}/guest/chat#${guestSession}/${id}`;

/** What such an address names: `{guestSession, id}`, either null where it is missing or not valid. */
export function namedBy(hash) {
  const [, guestSession = null, id = null] =
    /^#(guest_[0-9a-f]{64})(?:\/([0-9a-f-]{36}))?$/.exec(hash) ?? [];
  return { guestSession, id };
}

/** A conversation's state as a word and a tone; the most urgent first. */
export function standing(conversation) {
  if (conversation.answer_wanted) return { word: "Asks you", tone: "waiting" };
  if (conversation.replying) return { word: "Being answered", tone: "processing" };
  if (conversation.live > 0) return { word: "Works", tone: "processing" };
  if (conversation.failed > 0) return { word: "Work failed", tone: "failed" };
  return { word: "Quiet", tone: "pending" };
}
