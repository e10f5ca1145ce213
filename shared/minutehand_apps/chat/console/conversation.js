// Page of a chat session, with messages, streamed replies, a card for each work item, and a text
// input.

import {
  ActionButton,
  AnswerForm,
  callRoute,
  classes,
  copy,
  createAction,
  createHooks,
  Empty,
  Guarded,
  hooks,
  html,
  Icon,
  JobProgress,
  jobs as api,
  loadStyles,
  Markdown,
  NotFound,
  placeholderPage,
  Sentence,
  stale,
  StateBadge,
  stateOf,
  supabase,
  Tag,
  useEffect,
  useFetch,
  useLayoutEffect,
  useRef,
  useState,
  useTopicRefresh,
  When,
} from "../../app.js";
import { SessionList } from "./sessions.js";

loadStyles("/apps/chat/chat.css");

export const title = () => "Conversation";

const { useJob } = createHooks(hooks, supabase);

const FOLLOWED = { silence: Infinity };
const LATE_MS = 9000;
const LATE = "Nothing new yet. You can wait, or stop it and ask again.";
/** Job status for each status of a work item. */
const STATUS = {
  accepted: "pending",
  in_progress: "processing",
  cancelling: "processing",
  waiting_for_user: "waiting",
};
const LIVE = ["pending", "processing", "waiting"];
const namedBy = (hash) => /^#([A-Za-z0-9._~:-]{1,200})$/.exec(hash)?.[1];

/** Read a session. A session without messages is shown as an empty conversation. */
async function readSession(id, signal) {
  const as = { headers: { "X-Session-Id": id }, signal };
  const [talk, state] = await Promise.all([
    callRoute("GET /api/chat", as),
    callRoute("GET /api/async-status", as),
  ]);
  return { ...talk, work: [...state.activeWork, ...state.endedWork], asks: state.pendingQuestions };
}

/**
 * Scroll to the end of the page when text is added. If the person has scrolled up, do not scroll.
 */
function useEndInSight(isThere) {
  const [log, end] = [useRef(null), useRef(null)];
  const isAtEnd = useRef(true);
  const [isAway, setIsAway] = useState(false);
  const show = (behavior) => end.current?.scrollIntoView({ block: "end", behavior });
  useEffect(() => {
    if (!isThere) return undefined;
    const look = ([one]) => {
      isAtEnd.current = one.isIntersecting;
      setIsAway(!one.isIntersecting);
    };
    const seen = new IntersectionObserver(look, { rootMargin: "0px 0px 200px 0px" });
    const grown = new ResizeObserver(() => isAtEnd.current && show("instant"));
    seen.observe(end.current);
    grown.observe(log.current);
    return () => {
      seen.disconnect();
      grown.disconnect();
    };
  }, [isThere]);
  const goThere = () => {
    isAtEnd.current = true;
    show("smooth");
  };
  return { log, end, isAway, goThere };
}

export default function ConversationPage({ workspace }) {
  const id = namedBy(location.hash);
  if (!id) return html`<${NotFound} what="conversation" />`;
  return html`<div class="chat-columns">
    <${Conversation} key=${id} id=${id} workspaceId=${workspace.id} />
  </div>`;
}

function Conversation({ id, workspaceId }) {
  const found = useFetch((signal) => readSession(id, signal), [id]);
  const session = found.value;
  const [stopped, setStopped] = useState([]);
  const [text, setText] = useState("");
  const [edited, setEdited] = useState(null); // id of the message that the person edits
  const [sent, setSent] = useState(""); // text that is shown until the session contains it
  const box = useRef(null);
  const hasBegun = Boolean(session?.title);
  const messages = session?.messages ?? [];
  useLayoutEffect(() => setSent(""), [messages.length]);
  useTopicRefresh(
    found,
    [hasBegun && `session:${id}`],
    messages.some((one) => LIVE.includes(one.status)),
  );
  const isNew = Boolean(session) && !hasBegun;
  useEffect(() => {
    if (isNew) box.current?.focus();
  }, [isNew]);
  const { log, end, isAway, goThere } = useEndInSight(Boolean(session));
  const unread = placeholderPage("Conversation", found, "conversation");
  if (unread) return unread;
  const act = createAction(found.refresh);
  const headers = { "X-Session-Id": id };
  const send = async (content, key = crypto.randomUUID(), from = null) => {
    goThere();
    setSent(content);
    const target = from ? `chat_${key}` : id; // the same session if the call is repeated
    await callRoute("POST /api/chat", {
      // request a response before the reply exists, because the page reads the reply from the job
      headers: { "X-Session-Id": target, "Idempotency-Key": key, Prefer: "respond-async" },
      body: { messages: [{ role: "user", content }], workspace_id: workspaceId, branch_from: from },
    }).catch((error) => {
      setSent("");
      throw error;
    });
    if (from) location.hash = target;
    else found.refresh();
  };
  const edit = (message) => {
    setEdited(message.id);
    setText(message.content);
    box.current?.focus();
  };
  const again = (words) => act("Could not send again", () => send(words));
  const replied = new Set(messages.filter((one) => one.type === "reply").map((one) => one.job));
  const requests = new Map(
    messages.filter((one) => one.type === "message").map((one) => [one.job, one.content]),
  );
  // messages that have no reply yet and have not started a work item
  const open = messages.filter(
    (one) =>
      one.type === "message" && !one.work && !replied.has(one.job) && one.status !== "completed",
  );
  const stoppable = open
    .filter((one) => LIVE.includes(one.status) && !stopped.includes(one.job))
    .map((one) => one.job);
  const stop = () =>
    act("Could not stop", async () => {
      await Promise.all(stoppable.map((job) => api.cancel(job)));
      setStopped([...stopped, ...stoppable]);
    });
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
  // Do not show a question as a message if a card shows the question. Do not show the message that
  // announces a work item.
  const isShown = (one) =>
    !session.asks.some((ask) => ask.id === one.id) && !(one.type === "reply" && one.work);
  const retry = (one) => {
    setStopped(stopped.filter((job) => job !== one.job));
    return act("Could not retry", () => api.retry(one.job));
  };
  return html`<${SessionList} id=${id} workspaceId=${workspaceId} hasBegun=${hasBegun} />
  <article class="page chat">
    <header class="page-head chat-head">
      <div class="grow">
        <p class="crumb"><a href="/chat">Chat</a></p>
        <h1 tabindex="-1" class="wrap">${session.title ?? "New conversation"}</h1>
      </div>
    </header>
    ${stale(found)}
    <div role="log" aria-label="Messages" ref=${log}>
      <ol class="chat-messages">
        ${messages.filter(isShown).map(
          (one) => html`<li key=${one.id}><${Guarded} what="This message">
            ${
              one.role === "user"
                ? html`<${Mine} message=${one} onEdit=${() => edit(one)} />`
                : html`<${Theirs} message=${one} question=${one.type === "question" ? null : requests.get(one.job)} onRetry=${again} />`
            }
            ${open.includes(one) && html`<${Answer} of=${one} onRetry=${() => retry(one)} />`}
            ${one.type === "message" && one.work && card(one.work)}
          <//></li>`,
        )}
        ${sent && html`<li><article class="chat-mine"><p dir="auto">${sent}</p></article></li>`}
      </ol>
    </div>
    ${messages.length === 0 && !sent && html`<${Beginning} />`}
    <div class="chat-end" ref=${end}></div>
    <div class="chat-composer">
      ${
        isAway &&
        html`<button type="button" class="round chat-latest" aria-label="Latest message" title="Latest message"
          onClick=${goThere}><${Icon} name="down" /></button>`
      }
      ${
        edited &&
        html`<p class="bar muted small">
          The edited message starts a new conversation.
          <${ActionButton} className="quiet" run=${async () => setEdited(null)}>Cancel edit<//>
        </p>`
      }
      <${Composer}
        box=${box}
        text=${text}
        setText=${setText}
        onSend=${(words, key) => send(words, key, edited)}
        stop=${stoppable.length > 0 ? stop : null} />
    </div>
  </article>`;
}

/** Text that is shown in an empty conversation. */
const Beginning = () =>
  html`<${Empty} title="What would you like to know or create?">
    <p>Longer work is done in the background. You are asked if a decision is needed.</p>
  <//>`;

/**
 * Small button of a message, with an icon. The label is shown as a tooltip and read by screen
 * readers.
 */
const tool = (icon, word, run) =>
  html`<${ActionButton} className="tool" run=${run} title=${word} aria-label=${word}>
    <${Icon} name=${icon} />
  <//>`;

/** Buttons for the actions of a message, in one line below the message. */
const Below = ({ at, children }) =>
  html`<div class="chat-below">
    ${children} <span class="hint"><${When} at=${new Date(at).toISOString()} /></span>
  </div>`;

const copying = (text) => tool("copy", "Copy", async () => copy(text, "Copied"));

function Mine({ message: { type, content, timestamp }, onEdit }) {
  return html`<article class="chat-mine" data-type=${type}>
    <p dir="auto">${content}</p>
    <${Below} at=${timestamp}>
      ${copying(content)} ${type === "message" && tool("pen", "Edit", async () => onEdit())}
    <//>
  </article>`;
}

function Theirs({ message: { type, content, result, used, timestamp }, question, onRetry }) {
  const { page } = result ?? {};
  return html`<article class="chat-theirs" data-type=${type}>
    <${Markdown} text=${content} />
    ${used && html`<p class="muted small">No one answered, so “${used}” was used.</p>`}
    ${page && html`<${Page} title=${page.title} address=${page.url} />`}
    <${Below} at=${timestamp}>
      ${copying(content)} ${question && tool("again", "Retry", () => onRetry(question))}
    <//>
  </article>`;
}

/**
 * Return whether a person has waited so long for more of a reply's text that the page should explain
 * the delay.
 */
function useLate(isAwaited, text) {
  const [isLate, setIsLate] = useState(false);
  useEffect(() => {
    const timer = isAwaited && setTimeout(() => setIsLate(true), LATE_MS);
    return () => {
      clearTimeout(timer);
      setIsLate(false);
    };
  }, [isAwaited, text]);
  return isLate;
}

/**
 * Shows the unfinished text of a reply, or the reason why there is no text.
 */
function Answer({ of: message, onRetry }) {
  const isLive = LIVE.includes(message.status);
  const { output, progress, isCancelling } = useJob(isLive ? message.job : null, FOLLOWED);
  const text = (isLive ? output.reply : message.said) || "";
  const isLate = useLate(isLive, text);
  const waits = message.waits_for ?? progress?.message ?? (isLate ? LATE : "Thinking…");
  const again = html`<${ActionButton} run=${onRetry}><${Icon} name="again" /> Retry<//>`;
  return html`<article
    class=${classes("chat-theirs", isLive && "writing")}
    data-type="answer"
    data-status=${message.status}
    aria-busy=${isLive}>
    ${text && html`<${Markdown} text=${text} isPartial=${isLive} />`}
    ${isCancelling && html`<p class="muted">Stopping…</p>`}
    ${isLive && !isCancelling && (isLate || !text) && html`<p class="chat-thinking"><${Sentence} text=${waits} /></p>`}
    ${
      message.status === "failed" &&
      html`<div class="notice failed">
        <p class="wrap" role="alert">${message.error}</p>
        ${again}
      </div>`
    }
    ${message.status === "cancelled" && html`<div class="bar"><p class="muted">Stopped.</p>${again}</div>`}
    ${!isLive && html`<${Below} at=${message.timestamp}>${text && copying(text)}<//>`}
  </article>`;
}

const Page = ({ title: name, address }) =>
  html`<figure class="chat-page">
    <figcaption>
      <a href=${address} target="_blank" rel="noopener noreferrer">Open the full page</a>
    </figcaption>
    <iframe sandbox="" src=${address} title=${name} loading="lazy" referrerpolicy="no-referrer">
    </iframe>
  </figure>`;

function WorkCard({ item, question, onAnswer, onCancel }) {
  const status = STATUS[item.status] ?? item.status;
  const isLive = item.status in STATUS;
  const isCancelling = item.status === "cancelling";
  const { output } = useJob(
    status === "processing" ? item.id.slice("work_".length) : null,
    FOLLOWED,
  );
  return html`<section
    class=${question ? "card question" : "card stack"}
    data-work=${item.id}
    data-status=${status}
    aria-label=${`${item.title}: ${stateOf(status).word}`}>
    <div class="bar">
      <span class="strong wrap grow">${item.title}</span>
      ${
        question
          ? html`<${Tag} tone="waiting">Waiting for your answer<//>`
          : item.result?.text?.startsWith("Sample: no language model is connected")
            ? html`<${Tag}>Sample<//>`
            : html`<${StateBadge} status=${status} cancelling=${isCancelling} />`
      }
      ${
        isLive &&
        html`<${ActionButton} className="danger" disabled=${isCancelling} run=${onCancel}>
          ${isCancelling ? "Cancelling…" : "Cancel"}
        <//>`
      }
    </div>
    ${isLive && !question && html`<${JobProgress} job=${{ status, progress: item.progress }} />`}
    ${output.result && html`<${Markdown} text=${output.result} isPartial />`}
    ${
      question &&
      html`
        <${AnswerForm}
          key=${question.id}
          question=${question.content}
          options=${question.options ?? []}
          isFree
          maxLength=${2000}
          send=${onAnswer} />
        <p class="muted small">
          If no one answers, “${question.default}” is used <${When}
            at=${new Date(question.expiresAt).toISOString()} />.
        </p>
      `
    }
    ${item.status === "failed" && html`<p class="problem">${item.error}</p>`}
  </section>`;
}

function Composer({ box, text, setText, onSend, stop }) {
  // use the same idempotency key for the same text, so that a text that is sent twice creates one
  // message
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
      if (box.current.value) return; // the person has typed another text in the meantime
      setText(words);
      setKey(key);
    }
  };
  return html`<form onSubmit=${submit} aria-label="New message">
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <div class="chat-box">
      <label class="grow">
        <span class="hidden">Message</span>
        <textarea
          ref=${box}
          dir="auto"
          rows="1"
          maxlength="8000"
          placeholder="Write a message"
          value=${text}
          onInput=${(event) => change(event.target.value)}
          onKeyDown=${(event) =>
            event.key === "Enter" &&
            !event.shiftKey &&
            !event.isComposing &&
            submit(event)}></textarea>
      </label>
      ${
        stop && !text.trim()
          ? html`<${ActionButton} className="round" run=${stop} aria-label="Stop" title="Stop">
            <${Icon} name="stop" />
          <//>`
          : html`<button type="submit" class="primary round" aria-label="Send" title="Send"
            disabled=${!text.trim()}><${Icon} name="up" /></button>`
      }
    </div>
  </form>`;
}
