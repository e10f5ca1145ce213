// What the pages of chat read and do, all by the app's own routes.

import { callRoute } from "../../api.js";

/** @import { Call } from "../../api.js" */
/** @import { Routes } from "./routes.js" */
/** @typedef {ReturnType<typeof sessionOf>} ChatSession */
/** @typedef {{text: string, mode: "auto" | "reply" | "work", client_id: string, documents: {title: string, text: string}[]}} NewMessage */
/** @typedef {{url: string, title: string, type: string}} Page What work has built. */
/**
 * @typedef {object} Said A message.
 * @property {string} id
 * @property {number} seq 1, 2, 3 … without gaps.
 * @property {"user" | "assistant"} role
 * @property {"message" | "answer" | "reply" | "plan" | "result"} kind
 * @property {string} content
 * @property {number} timestamp Unix ms.
 * @property {string} [model] @property {boolean} [mine] @property {boolean} [byGuest]
 * @property {string} [title] Of a result.
 * @property {string} [tier] @property {string} [question] @property {string[]} [work]
 * @property {{title: string, characters: number}[]} [documents]
 * @property {{text: string, artefact?: Page, sources: string[]}} [result]
 */
/** @typedef {{sessionId: string, title: string | null, mayDelete: boolean, messages: Said[]}} Talk */
/** @typedef {{percentage: number, message: string}} Progress */
/** @typedef {{id: string, type: string, title: string, status: string, progress?: Progress, error?: string}} Work */
/** @typedef {{messageId: string, jobId: string, status: string, error?: string}} Reply */
/**
 * @typedef {{id: string, workId: string, content: string, options?: string[], default: string, expiresAt: number}} Question
 */
/** @typedef {{activeWork: Work[], endedWork: Work[], replies: Reply[], pendingQuestions: Question[]}} State */
/** @typedef {{answer_wanted: boolean, replying: boolean, live: number, failed: number}} Standing */

/** @type {Call<Routes>} */
const call = callRoute;
/** @type {Talk} */
const NOTHING = { sessionId: "", title: null, mayDelete: false, messages: [] };

/**
 * A page of a workspace's sessions.
 *
 * @param {string} workspaceId
 * @param {string | null} [after]
 * @param {AbortSignal} [signal]
 */
export const listSessions = (workspaceId, after, signal) =>
  call("GET /api/chat/sessions", {
    query: { workspace_id: workspaceId, limit: 25, after },
    signal,
  });

/**
 * A session by its id, as the signed-in member has it, or with the id alone.
 *
 * @param {string} id
 * @param {string | undefined} workspaceId Null for a guest.
 */
export function sessionOf(id, workspaceId) {
  const as = workspaceId ? { headers: { "X-Session-Id": id } } : { guestSession: id };
  return {
    id,
    /**
     * The messages before one, or the latest; a member's session begins with its first message.
     *
     * @param {number} [before]
     * @param {AbortSignal} [signal]
     * @returns {Promise<Talk>}
     */
    async said(before, signal) {
      if (toCome.has(id)) return NOTHING;
      try {
        const query = { before, limit: 50 };
        return /** @type {Talk} */ (await call("GET /api/chat", { ...as, query, signal }));
      } catch (error) {
        if (workspaceId && error.status === 404) return NOTHING;
        throw error;
      }
    },
    state: (/** @type {AbortSignal} */ signal) =>
      /** @type {Promise<State>} */ (call("GET /api/async-status", { ...as, signal })),
    async send(/** @type {NewMessage} */ { text, client_id: key, ...message }) {
      await call("POST /api/chat", {
        ...as,
        headers: { ...as.headers, "Idempotency-Key": key },
        body: {
          ...message,
          messages: [{ role: "user", content: text }],
          workspace_id: workspaceId,
          wait_seconds: 0,
        },
      });
      toCome.delete(id);
    },
    answer: (/** @type {string} */ messageId, /** @type {string} */ content) =>
      call("POST /api/async-messages", { ...as, body: { messageId, sessionId: id, content } }),
    /** Cancel work, or the reply to a message, by its id. */
    cancel: (/** @type {string} */ workId) =>
      call("POST /api/async-cancel", { ...as, body: { workId } }),
    remove: () => call("DELETE /api/chat", as),
  };
}

export const newKey = () => crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
export const isOver = (/** @type {string} */ status) =>
  status === "completed" || status === "failed" || status === "cancelled";

/** Addresses name a session behind the #: no browser sends that, so no log has the key. */
export const addressOf = (/** @type {string} */ id) => `/chat/session#${id}`;
/** Sessions that begin with the first message sent from here: until then there is nothing to read. */
const toCome = new Set();
/** The address of a session to come. */
export function newAddress() {
  const bytes = [...crypto.getRandomValues(new Uint8Array(32))];
  const id = `guest_${bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
  toCome.add(id);
  return addressOf(id);
}
/** The session that such an address names; null where it is missing or not valid. */
export const namedBy = (/** @type {string} */ hash) =>
  /^#(guest_[0-9a-f]{64})$/.exec(hash)?.[1] ?? null;

/** A session's state as a word and a tone; the most urgent first. */
export function standing(/** @type {Standing} */ session) {
  if (session.answer_wanted) return { word: "Asks you", tone: "waiting" };
  if (session.replying) return { word: "Being answered", tone: "processing" };
  if (session.live > 0) return { word: "Works", tone: "processing" };
  if (session.failed > 0) return { word: "Work failed", tone: "failed" };
  return { word: "Quiet", tone: "pending" };
}
