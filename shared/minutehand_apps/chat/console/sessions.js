// Page with the chat sessions of a workspace, newest first.

import {
  ActionButton,
  column,
  data,
  Empty,
  heading,
  html,
  liveList,
  navigate,
  pageHead,
  SearchBox,
  unwrap,
  useFetch,
  useLatest,
  useState,
  When,
} from "../../app.js";

export const title = () => "Chat";

/**
 * Return the address of a session. The session's id is in the fragment of the URL, because browsers
 * do not send the fragment to servers, and the id grants access to guest sessions.
 */
const addressOf = (id) => `/chat/session#${id}`;

/** Button that opens an empty conversation. */
const Begin = () =>
  html`<${ActionButton} className="primary"
    run=${async () => navigate(addressOf(`chat_${crypto.randomUUID()}`))}>
    New conversation
  <//>`;

export default function Sessions({ workspace }) {
  const found = useLatest("async_session_state", workspace.id, "last_message_at");
  return html`<div class="page">
    ${pageHead("Chat", null, html`<${Begin} />`)}
    ${liveList(
      {
        of: found,
        label: "Conversations",
        rows: found.value,
        key: (one) => one.session_id,
        empty: html`<${Empty} title="No conversations yet">
          <p>Longer work is done in the background. Its result appears in the conversation.</p>
        <//>`,
      },
      [
        heading(
          "Conversation",
          "wrap",
          (one) => html`<a href=${addressOf(one.session_id)}>${one.title}</a>`,
        ),
        column("Latest message", "bare", (one) => html`<${When} at=${one.last_message_at} />`),
      ],
    )}
  </div>`;
}

/**
 * List of the latest conversations, with a search in their titles. When a new conversation gets its
 * first message (`hasBegun`), the list is read again.
 */
export function SessionList({ id, workspaceId, hasBegun }) {
  const [words, setWords] = useState("");
  const sessions = () =>
    data().from("async_session_state").select("session_id,title,last_message_at");
  const latest = () =>
    sessions()
      .eq("workspace_id", workspaceId)
      .order("last_message_at", { ascending: false })
      .limit(500);
  const found = useFetch((signal) => unwrap(latest(), signal), [workspaceId, hasBegun]);
  const isFound = ({ title: text }) => text.toLowerCase().includes(words.trim().toLowerCase());
  return html`<nav class="chat-list" aria-label="Conversations">
    <${Begin} />
    <${SearchBox} value=${words} placeholder="Search conversations" onChange=${setWords} />
    <ul>
      ${(found.value ?? []).filter(isFound).map(
        (one) => html`<li key=${one.session_id}>
          <a
            dir="auto"
            href=${addressOf(one.session_id)}
            aria-current=${one.session_id === id ? "page" : undefined}>
            ${one.title}
            <br /><span class="hint"><${When} at=${one.last_message_at} /></span>
          </a>
        </li>`,
      )}
    </ul>
  </nav>`;
}
