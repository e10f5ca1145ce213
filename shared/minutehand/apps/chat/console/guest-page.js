// A conversation for anyone who holds its link: /guest/chat#guest_…, and behind a slash which one.
// The key stays in the fragment, which no browser sends, and travels in a header.

import { useRead } from "../../lib/store.js";
import { html, useLayoutEffect, useMemo, useRef, useState } from "../../lib/ui.js";
import { Failed, Loading } from "../../parts/states-of-view.js";
import { When } from "../../parts/when.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { routesOf, namedBy, newKey, titleOf } from "./data.js";

/** @import { ChatFunctions, NewMessage } from "./data.js" */
/** @import { Conversation as Found } from "./routes.js" */

export const title = () => "Conversation";

/** One sentence for what is missing, closed, over or mistyped: they must look alike. */
const Closed =
  () => html`<article class="page chat"><header class="page-head"><h1 tabindex="-1">No open conversation</h1></header>
  <p role="alert">This link leads to no open conversation: it has ended, was closed, or is not complete. Ask the sender for a new one.</p></article>`;

export default function GuestPage() {
  const [named, setNamed] = useState(namedBy(location.hash));
  useLayoutEffect(() => {
    const look = () => setNamed(namedBy(location.hash));
    addEventListener("hashchange", look);
    return () => removeEventListener("hashchange", look);
  }, []);
  return named.guestSession
    ? html`<${GuestSession} key=${named.guestSession} guestSession=${named.guestSession} id=${named.id} />`
    : html`<${Closed} />`;
}

/** @param {{guestSession: string, id: string | null}} props */
function GuestSession({ guestSession, id }) {
  const functions = useMemo(() => routesOf(guestSession), [guestSession]);
  const found = useRead((signal) => functions.list(undefined, null, signal), [guestSession, id]);
  const [begun, setBegun] = useState(/** @type {string | null} */ (null));
  if (found.error && !found.value) {
    if ([401, 404, 422].includes(found.error.status)) return html`<${Closed} />`;
    return html`<article class="page chat"><h1 tabindex="-1">Conversation</h1><${Failed} error=${found.error} retry=${found.refresh} what="The conversation could not be read" /></article>`;
  }
  if (!found.value)
    return html`<article class="page chat"><h1 tabindex="-1">Conversation</h1><${Loading} what="Reading the conversation" /></article>`;
  const all = found.value.conversations;
  const shown = id ?? begun ?? all[0]?.id;
  if (!shown) return html`<${Beginning} functions=${functions} onBegun=${setBegun} />`;
  const others = all.filter((one) => one.id !== shown);
  return html`${
    others.length > 0 &&
    html`<nav class="chat-others" aria-label="Other conversations"><span class="muted">Other conversations:</span>
      ${others.map((one) => html`<a key=${one.id} class="wrap" href=${`#${guestSession}/${one.id}`}>${titleOf(one)}</a>`)}</nav>`
  }
    <${Conversation} key=${shown} id=${shown} functions=${functions} gone=${html`<${Closed} />`}
      tools=${(/** @type {Found} */ conversation) => conversation.shared_until && html`<span class="muted small">This link ends <${When} at=${conversation.shared_until} /></span>`} />`;
}

/**
 * A guest session in which nothing was said yet: the first message begins its conversation.
 *
 * @param {{functions: ChatFunctions, onBegun: (id: string) => void}} props
 */
function Beginning({ functions, onBegun }) {
  const key = useRef(newKey());
  const [isClosed, setIsClosed] = useState(false);
  const send = async (/** @type {NewMessage} */ message) => {
    try {
      const { id } = await functions.begin(null, key.current);
      await functions.send(id, message);
      onBegun(id);
    } catch (error) {
      if (error.status === 404) setIsClosed(true);
      throw error;
    }
  };
  if (isClosed) return html`<${Closed} />`;
  return html`<article class="page chat"><header class="page-head"><h1 tabindex="-1">New conversation</h1></header>
    <p class="muted">Say what you need. What takes longer is done in the background, and asks you when it has to.</p>
    <div class="chat-composer"><${Composer} onSend=${send} /></div></article>`;
}
