// What the pages of chat read and do, all by the app's own routes.

import { request } from "../../api.js";

const HOME = "/api/chat/conversations";
const at = (id, more = "") => `${HOME}/${encodeURIComponent(id)}${more}`;

export const chat = {
  list: (workspaceId, after, signal) => request("GET", HOME, { query: { workspace_id: workspaceId, limit: 25, after }, signal }),
  begin: (workspaceId, key) => request("POST", HOME, { body: { workspace_id: workspaceId }, headers: { "Idempotency-Key": key } }),
  read: (id, signal) => request("GET", at(id), { signal }),
  rename: (id, title) => request("PATCH", at(id), { body: { title } }),
  remove: (id) => request("DELETE", at(id)),
  messages: (id, before, signal) => request("GET", at(id, "/messages"), { query: { before, limit: 50 }, signal }),
  send: (id, message) => request("POST", at(id, "/messages"), { body: message }),
  answer: (id, item, name, answer) => request("POST", at(id, `/work/${item}/answer`), { body: { name, answer } }),
  cancel: (id, item) => request("POST", at(id, `/work/${item}/cancel`)),
  retry: (id, item) => request("POST", at(id, `/work/${item}/retry`)),
};

export const newKey = () => crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
export const titleOf = (conversation) => conversation.title ?? "New conversation";
export const isOver = (status) => status === "completed" || status === "failed" || status === "cancelled";

/** How a conversation stands, in a word and a tone; the most pressing first. */
export function standing(conversation) {
  if (conversation.answer_wanted) return { word: "Asks you", tone: "waiting" };
  if (conversation.replying) return { word: "Being answered", tone: "processing" };
  if (conversation.live > 0) return { word: "Works", tone: "processing" };
  if (conversation.failed > 0) return { word: "Work failed", tone: "failed" };
  return { word: "Quiet", tone: "pending" };
}
