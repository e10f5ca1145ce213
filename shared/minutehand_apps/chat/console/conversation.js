// A session: what was said, work as a card with its progress and question, and a box to write in.

import { callRoute } from "../../api.js";
import { stateOf } from "../../lib/states.js";
import { useRead } from "../../lib/store.js";
import { needStyles } from "../../lib/styles.js";
import { html, useEffect, useRef, useState } from "../../lib/ui.js";
import { JobProgress, StateBadge, Tag } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { Answering } from "../../parts/question.js";
import { useFollowed } from "../../parts/live.js";
import { Stale } from "../../parts/states-of-view.js";
import { actionsOn } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import NotFound, { unreadPage } from "../../parts/not-found.js";

needStyles("/apps/chat/chat.css");

export const title = () => "Conversation";

const FOUND_MS = 250;
/** A piece of work's status as a job's. */
const STATUS = {
  accepted: "pending",
  in_progress: "processing",
  cancelling: "processing",
  waiting_for_user: "waiting",
};
const namedBy = (hash) => /^#([A-Za-z0-9._~:-]{1,200})$/.exec(hash)?.[1];

/** What a session holds; one that is still to begin holds nothing. */
async function readSession(id, signal) {
  const as = { headers: { "X-Session-Id": id }, signal };
  const [talk, state] = await Promise.all([
    callRoute("GET /api/chat", as),
    callRoute("GET /api/async-status", as),
  ]);
  return { ...talk, work: [...state.activeWork, ...state.endedWork], asks: state.pendingQuestions };
}

/** Show the end of the page as more is said, unless the person has scrolled up to read. */
function useEndInSight(count) {
  const end = useRef(null);
  const isAtEnd = useRef(true);
  useEffect(() => {
    const seen = new IntersectionObserver(([one]) => (isAtEnd.current = one.isIntersecting), {
      rootMargin: "0px 0px 200px 0px",
    });
    if (end.current) seen.observe(end.current);
    return () => seen.disconnect();
  }, [Boolean(count)]);
  useEffect(() => {
    if (isAtEnd.current) end.current?.scrollIntoView({ block: "end" });
  }, [count]);
  return { end, goThere: () => (isAtEnd.current = true) };
}

export default function ConversationPage({ workspace }) {
  const [id, setId] = useState(namedBy(location.hash));
  useEffect(() => {
    const look = () => setId(namedBy(location.hash));
    addEventListener("hashchange", look);
    return () => removeEventListener("hashchange", look);
  }, []);
  if (!id) return html`<${NotFound} what="conversation" />`;
  return html`<${Conversation} key=${id} id=${id} workspaceId=${workspace.id} />`;
}

function Conversation({ id, workspaceId }) {
  const found = useRead((signal) => readSession(id, signal), [id]);
  const session = found.value;
  const [isSending, setIsSending] = useState(false);
  const hasBegun = Boolean(session?.title);
  const isLive = session?.messages.some((one) =>
    ["pending", "processing", "waiting"].includes(one.status ?? ""),
  );
  useFollowed(found, [hasBegun && `session:${id}`], isLive ?? false);
  useEffect(() => {
    if (!isSending || hasBegun || found.isLoading) return undefined;
    const timer = setTimeout(found.refresh, FOUND_MS); // until there is something to follow
    return () => clearTimeout(timer);
  }, [isSending, hasBegun, found.isLoading]);
  const { end, goThere } = useEndInSight(
    session && `${session.messages.length} ${session.asks.length} ${session.work.length}`,
  );
  const unread = unreadPage("Conversation", found, "conversation");
  if (unread) return unread;
  const act = actionsOn(found.refresh);
  const headers = { "X-Session-Id": id };
  const send = (content, key) => {
    goThere();
    setIsSending(true);
    return callRoute("POST /api/chat", {
      headers: { ...headers, "Idempotency-Key": key },
      body: { messages: [{ role: "user", content }], workspace_id: workspaceId },
    }).finally(() => {
      setIsSending(false);
      found.refresh();
    });
  };
  const work = new Map(session.work.map((one) => [one.id, one]));
  const card = (workId) => {
    const item = work.get(workId);
    if (!item) return null;
    const question = session.asks.find((one) => one.workId === workId);
    return html`<${WorkCard}
      item=${item}
      question=${question}
      onAnswer=${(content) =>
        act("Could not answer", () =>
          callRoute("POST /api/async-messages", {
            headers,
            body: { messageId: question.id, content },
          }),
        )}
      onCancel=${() =>
        act("Could not cancel", () =>
          callRoute("POST /api/async-cancel", { headers, body: { workId } }),
        )} />`;
  };
  // what a card says is not said twice: an open question is in it, and that its work has begun
  const isShown = (one) =>
    !session.asks.some((ask) => ask.id === one.id) && !(one.type === "reply" && one.work);
  return html`<article class="page chat">
    <header class="page-head">
      <div class="grow">
        <p class="crumb"><a href="/chat">Chat</a></p>
        <h1 tabindex="-1" class="wrap">${session.title ?? "New conversation"}</h1>
      </div>
    </header>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${found.refresh} />`}
    <div role="log" aria-label="Messages">
      <ol class="chat-messages">
        ${session.messages.filter(isShown).map(
          (one) => html`<li key=${one.id}>
            <${Message} message=${one} />
            ${one.type === "message" && one.work && card(one.work)}
          </li>`,
        )}
      </ol>
    </div>
    ${session.messages.length === 0 && html`<p class="muted">Nothing was said yet.</p>`}
    <div class="chat-end" ref=${end}></div>
    <div class="chat-composer"><${Composer} onSend=${send} /></div>
  </article>`;
}

function Message({ message }) {
  const { page } = message.result ?? {};
  const isWaiting = !message.work && ["pending", "processing"].includes(message.status ?? "");
  const waitsFor = message.waits_for ?? "is being answered…";
  return html`<article
    class=${message.role === "user" ? "chat-bubble mine" : "chat-bubble"}
    data-type=${message.type}>
    <p>${message.content}</p>
    ${page && html`<${Page} title=${page.title} address=${page.url} />`}
    ${isWaiting && html`<p class="hint">${waitsFor}</p>`}
    ${!message.work && message.status === "failed" && html`<p class="problem">${message.error}</p>`}
    <p class="hint"><${When} at=${new Date(message.timestamp).toISOString()} /></p>
  </article>`;
}

const Page = ({ title: name, address }) =>
  html`<figure class="chat-page">
    <figcaption>
      <a href=${address} target="_blank" rel="noopener noreferrer">${name}</a>
    </figcaption>
    <iframe sandbox="" src=${address} title=${name} loading="lazy" referrerpolicy="no-referrer">
    </iframe>
  </figure>`;

function WorkCard({ item, question, onAnswer, onCancel }) {
  const status = STATUS[item.status] ?? item.status;
  const isLive = item.status in STATUS;
  const isCancelling = item.status === "cancelling";
  return html`<section
    class=${question ? "card question" : "card"}
    data-work=${item.id}
    data-status=${status}
    aria-label=${`${item.title}: ${stateOf(status).word}`}>
    <div class="bar">
      <span class="strong wrap grow">${item.title}</span>
      ${
        question
          ? html`<${Tag} tone="waiting">Waits for your answer<//>`
          : html`<${StateBadge} status=${status} cancelling=${isCancelling} />`
      }
      <a href=${`/jobs/${item.id.slice("work_".length)}`}>Job</a>
    </div>
    ${isLive && html`<${JobProgress} job=${{ status, progress: item.progress }} />`}
    ${
      question &&
      html`
        <${Answering}
          key=${question.id}
          question=${question.content}
          options=${question.options ?? []}
          isFree
          most=${2000}
          send=${onAnswer} />
        <p class="muted small">
          If no one answers, it takes “${question.default}” <${When}
            at=${new Date(question.expiresAt).toISOString()} />.
        </p>
      `
    }
    ${item.status === "failed" && html`<p class="problem">${item.error}</p>`}
    ${
      isLive &&
      html`<${ActionButton} className="danger" disabled=${isCancelling} run=${onCancel}>
        ${isCancelling ? "Cancelling…" : "Cancel"}
      <//>`
    }
  </section>`;
}

function Composer({ onSend }) {
  const [text, setText] = useState("");
  // the same key for the same words: sent twice, they are one message
  const [key, setKey] = useState(() => crypto.randomUUID());
  const [problem, setProblem] = useState("");
  const change = (words) => {
    setText(words);
    setKey(crypto.randomUUID());
  };
  const submit = async (event) => {
    event.preventDefault();
    const words = text.trim();
    if (!words) return;
    change("");
    setProblem("");
    try {
      await onSend(words, key);
    } catch (error) {
      setProblem(error.message);
      setText((now) => now || words);
    }
  };
  return html`<form onSubmit=${submit} aria-label="New message">
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <label>
      <span class="hidden">Message</span>
      <textarea
        rows="2"
        maxlength="8000"
        placeholder="Say something; Enter sends it"
        value=${text}
        onInput=${(event) => change(event.target.value)}
        onKeyDown=${(event) =>
          event.key === "Enter" &&
          !event.shiftKey &&
          !event.isComposing &&
          submit(event)}></textarea>
    </label>
    <button type="submit" class="primary" disabled=${!text.trim()}>Send</button>
  </form>`;
}
