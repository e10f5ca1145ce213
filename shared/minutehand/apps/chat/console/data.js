// What the pages of chat read and do, all by the app's own routes.

import { callRoute } from "../../api.js";

/** @import { Call } from "../../api.js" */
/** @import { ConversationLine, Routes } from "./routes.js" */
/** @typedef {ReturnType<typeof routesOf>} ChatFunctions */
/** @typedef {Routes["POST /api/chat/conversations/{conversation_id}/messages"]["body"]} NewMessage */

/** The app's routes as the signed-in member calls them, or the holder of a guest session. */
export function routesOf(/** @type {string | undefined} */ guestSession) {
  /** @type {Call<Routes>} */
  const call = (route, options) => callRoute(route, { ...options, guestSession });
  return {
    /**
     * @param {string | undefined} workspaceId
     * @param {string | null} [after]
     * @param {AbortSignal} [signal]
     */
    list: (workspaceId, after, signal) =>
      call("GET /api/chat/conversations", {
        query: { workspace_id: workspaceId, limit: 25, after },
        signal,
      }),
    begin: (/** @type {string | null} */ workspaceId, /** @type {string} */ key) =>
      call("POST /api/chat/conversations", {
        body: { workspace_id: workspaceId },
        headers: { "Idempotency-Key": key },
      }),
    read: (/** @type {string} */ id, /** @type {AbortSignal | undefined} */ signal) =>
      call("GET /api/chat/conversations/{conversation_id}", { places: at(id), signal }),
    rename: (/** @type {string} */ id, /** @type {string} */ title) =>
      call("PATCH /api/chat/conversations/{conversation_id}", { places: at(id), body: { title } }),
    remove: (/** @type {string} */ id) =>
      call("DELETE /api/chat/conversations/{conversation_id}", { places: at(id) }),
    share: (/** @type {string} */ id, /** @type {number} */ seconds) =>
      call("POST /api/chat/conversations/{conversation_id}/share", {
        places: at(id),
        body: { ttl_seconds: seconds },
      }),
    unshare: (/** @type {string} */ id) =>
      call("DELETE /api/chat/conversations/{conversation_id}/share", { places: at(id) }),
    /**
     * @param {string} id
     * @param {number | null} [before]
     * @param {AbortSignal} [signal]
     */
    messages: (id, before, signal) =>
      call("GET /api/chat/conversations/{conversation_id}/messages", {
        places: at(id),
        query: { before, limit: 50 },
        signal,
      }),
    /**
     * @param {string} id
     * @param {NewMessage} message
     */
    send: (id, message) =>
      call("POST /api/chat/conversations/{conversation_id}/messages", {
        places: at(id),
        body: message,
      }),
    /**
     * @param {string} id
     * @param {string} item
     * @param {string | null} name The question's, so that another one is not answered.
     * @param {string} answer
     */
    answer: (id, item, name, answer) =>
      call("POST /api/chat/conversations/{conversation_id}/work/{work_item_id}/answer", {
        places: { ...at(id), work_item_id: item },
        body: { name, answer },
      }),
    cancel: (/** @type {string} */ id, /** @type {string} */ item) =>
      call("POST /api/chat/conversations/{conversation_id}/work/{work_item_id}/cancel", {
        places: { ...at(id), work_item_id: item },
      }),
    retry: (/** @type {string} */ id, /** @type {string} */ item) =>
      call("POST /api/chat/conversations/{conversation_id}/work/{work_item_id}/retry", {
        places: { ...at(id), work_item_id: item },
      }),
  };
}

const at = (/** @type {string} */ id) => ({ conversation_id: id });

export const chat = routesOf(undefined);

export const newKey = () => crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
export const titleOf = (/** @type {ConversationLine} */ conversation) =>
  conversation.title ?? "New conversation";
export const isOver = (/** @type {string} */ status) =>
  status === "completed" || status === "failed" || status === "cancelled";

/** The address by which a guest comes in: no browser sends what is behind the #, so no log has it. */
export const linkOf = (
  /** @type {{id: string, session_id: string}} */ { id, session_id: guestSession },
) => `${location.origin}/guest/chat#${guestSession}/${id}`;

/** What such an address names: `{guestSession, id}`, either null where it is missing or not valid. */
export function namedBy(/** @type {string} */ hash) {
  const [, guestSession = null, id = null] =
    /^#(guest_[0-9a-f]{64})(?:\/([0-9a-f-]{36}))?$/.exec(hash) ?? [];
  return { guestSession, id };
}

/** A conversation's state as a word and a tone; the most urgent first. */
export function standing(/** @type {ConversationLine} */ conversation) {
  if (conversation.answer_wanted) return { word: "Asks you", tone: "waiting" };
  if (conversation.replying) return { word: "Being answered", tone: "processing" };
  if (conversation.live > 0) return { word: "Works", tone: "processing" };
  if (conversation.failed > 0) return { word: "Work failed", tone: "failed" };
  return { word: "Quiet", tone: "pending" };
}
