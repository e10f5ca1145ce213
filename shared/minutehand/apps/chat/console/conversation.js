// A conversation as members and guests have it: what was said, replies while they are written,
// and work between the messages. What else may be done with it is given by the page.

import { supabase } from "../../api.js";
import { watchSession } from "../../lib/jobs.js";
import { usePolling, useRead } from "../../lib/store.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { notifyFailure } from "../../parts/toasts.js";
import { Composer } from "./composer.js";
import { isOver, standing, titleOf } from "./data.js";
import { joined, merged } from "./join.js";
import { ComingReply, Message } from "./message.js";
import { WorkCard } from "./work-card.js";

/** @import { ComponentChildren, VNode } from "preact" */
/** @import { SessionJob } from "../../lib/jobs/types.js" */
/** @import { ChatFunctions, NewMessage } from "./data.js" */
/** @import { Written } from "./join.js" */
/** @import { Reader } from "./message.js" */
/** @import { Conversation as Found, MessagePage, ShownMessage, WorkItem } from "./routes.js" */

const STYLES = "/apps/chat/chat.css";
if (!document.querySelector(`link[href="${STYLES}"]`))
  document.head.append(
    Object.assign(document.createElement("link"), { rel: "stylesheet", href: STYLES }),
  );

/** Now and then the conversation is read as it is: it may have been shared, which changes its session. */
const POLL_MS = 30_000;
const POLL_UNHEARD_MS = 5000; // its guest session has ended: nothing is sent any more

/** Within this many pixels of the end a person reads the latest, and stays there. */
const NEAR_END = 160;
const distanceToEnd = () => document.documentElement.scrollHeight - innerHeight - scrollY;

/**
 * The session's jobs by id, the texts they write, and how fresh that is; `soon` when more has to be read.
 *
 * @param {string | undefined} session
 * @param {() => void} soon
 */
function useLive(session, soon) {
  const [live, setLive] = useState(/** @type {Map<string, SessionJob>} */ (new Map()));
  const [{ freshness, missing }, setState] = useState({ freshness: "catching-up", missing: false });
  const texts = useRef(/** @type {Map<string, Written>} */ (new Map()));
  useEffect(() => {
    if (!session) return undefined;
    /** @type {number | null} */
    let timer = null;
    let known = "";
    let wasMissing = false;
    setState((before) => ({ ...before, missing: false }));
    const later = () =>
      (timer ??= setTimeout(() => {
        timer = null;
        soon();
      }, 250));
    const watch = watchSession(supabase(), session, {
      onEvent: (event) => event.type !== "job.progress" && later(), // the text comes with the event itself
      onChange: (state) => {
        setState({ freshness: state.freshness, missing: state.missing });
        if (state.missing && !wasMissing) later();
        wasMissing = state.missing;
        for (const job of state.jobs)
          texts.current.set(
            job.id,
            joined(texts.current.get(job.id) ?? { from: 0, text: "" }, job.progress),
          );
        setLive(new Map(state.jobs.map((job) => [job.id, job])));
        // a job that was made just now is read with its first events, which are then not told
        const now = state.jobs.map((job) => `${job.id} ${job.status}`).join();
        if (now !== known) later();
        known = now;
      },
    });
    return () => {
      clearTimeout(/** @type {number | undefined} */ (timer));
      watch.close();
    };
  }, [session]);
  return { live, texts: texts.current, freshness, missing };
}

/**
 * @param {{id: string, functions: ChatFunctions, user?: Reader, crumb?: VNode, tools?: (conversation: Found,
 *   refresh: () => void) => ComponentChildren, gone: VNode}} props Without `user` a guest reads; `gone` is
 *   shown instead of what is missing, closed or another's.
 */
export function Conversation({ id, functions, user, crumb, tools, gone }) {
  const found = useRead((signal) => functions.read(id, signal), [id]);
  const latest = useRead((signal) => functions.messages(id, undefined, signal), [id]);
  const [kept, setKept] = useState({
    messages: /** @type {ShownMessage[]} */ ([]),
    before: /** @type {MessagePage["before"] | undefined} */ (undefined),
  });
  const wasNear = useRef(true);
  useLayoutEffect(() => {
    setKept({ messages: [], before: undefined });
    wasNear.current = true;
  }, [id]);
  // what slides off the latest page stays
  useEffect(() => {
    if (latest.value)
      setKept((now) => ({
        before:
          now.before === undefined ? /** @type {MessagePage} */ (latest.value).before : now.before,
        messages: merged(now.messages, /** @type {MessagePage} */ (latest.value).messages),
      }));
  }, [latest.value]);
  const refresh = () => {
    found.refresh();
    latest.refresh();
  };
  const conversation = found.value;
  const { live, texts, freshness, missing } = useLive(conversation?.session_id, refresh);
  const pollMs = missing ? POLL_UNHEARD_MS : POLL_MS;
  usePolling(found, pollMs);
  usePolling(latest, pollMs);
  const messages = merged(kept.messages, latest.value?.messages ?? []);
  useEffect(() => {
    const note = () => {
      wasNear.current = distanceToEnd() < NEAR_END;
    };
    addEventListener("scroll", note, { passive: true });
    return () => removeEventListener("scroll", note);
  }, []);
  useLayoutEffect(() => {
    if (wasNear.current) scrollTo(0, document.documentElement.scrollHeight);
  });
  if ([401, 404, 422].includes(found.error?.status)) return gone;
  if (!conversation)
    return html`<div class="page"><h1 tabindex="-1">Conversation</h1>${found.error ? html`<${Failed} error=${found.error} retry=${found.refresh} what="The conversation could not be read" />` : html`<${Loading} what="Reading the conversation" />`}</div>`;
  /** @type {(what: () => Promise<unknown>, failure: string) => () => Promise<void>} */
  const act = (what, failure) => async () => {
    try {
      await what();
    } catch (error) {
      notifyFailure(failure, error);
    }
    refresh();
  };
  const send = async (/** @type {NewMessage} */ message) => {
    try {
      await functions.send(id, message);
      wasNear.current = true;
    } finally {
      refresh(); // what refuses it may be the end of the conversation
    }
  };
  const older = async () => {
    try {
      const page = await functions.messages(id, kept.before);
      wasNear.current = false;
      setKept((now) => ({ before: page.before, messages: merged(page.messages, now.messages) }));
    } catch (error) {
      notifyFailure("Older messages were not read", error);
    }
  };
  const items = new Map(conversation.work.map((item) => [item.work_item_id, item]));
  const card = (
    /** @type {WorkItem} */ item,
  ) => html`<${WorkCard} key=${item.work_item_id} item=${item} href=${user ? `/jobs/${item.work_item_id}` : null} live=${live.get(item.work_item_id)}
    onAnswer=${(/** @type {string} */ text) => act(() => functions.answer(id, item.work_item_id, item.question_name, text), "Not answered")()}
    onCancel=${act(() => functions.cancel(id, item.work_item_id), "Not cancelled")} onRetry=${act(() => functions.retry(id, item.work_item_id), "Not tried again")} />`;
  /** @type {(message: ShownMessage) => WorkItem[]} */
  const cards = (message) =>
    (message.data?.work_items ?? [])
      .map((/** @type {string} */ item) => items.get(item))
      .filter(Boolean);
  const placed = new Set(messages.flatMap((message) => message.data?.work_items ?? []));
  const elsewhere = latest.value
    ? conversation.work.filter((item) => !placed.has(item.work_item_id) && !isOver(item.status))
    : [];
  const written = new Set(
    messages.filter((message) => message.author === "assistant").map((message) => message.job_id),
  );
  const coming = conversation.replies.filter((reply) => !written.has(reply.job_id));
  const asking = conversation.work.find(
    (item) => item.question && (live.get(item.work_item_id)?.status ?? item.status) === "waiting",
  );
  const { word, tone } = standing(conversation);
  return html`<article class="page chat">
    <header class="page-head"><div class="grow">${crumb && html`<p class="crumb">${crumb}</p>`}<h1 tabindex="-1" class="wrap">${titleOf(conversation)}</h1></div></header>
    <div class="bar"><${Tag} tone=${tone}>${word}<//><${Freshness} value=${freshness} /><span class="spacer"></span>${tools?.(conversation, refresh)}</div>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${refresh} />`}
    ${!latest.value && latest.error && html`<${Failed} error=${latest.error} retry=${latest.refresh} what="The messages could not be read" />`}
    ${!latest.value && !latest.error && html`<${Loading} what="Reading the messages" />`}
    ${kept.before && html`<div class="actions start"><${ActionButton} className="quiet" run=${older}>Older messages<//></div>`}
    ${elsewhere.length > 0 && html`<section class="chat-work" aria-label="Earlier work">${elsewhere.map(card)}</section>`}
    <div role="log" aria-label="Messages"><ol class="chat-messages">${messages.map(
      (message) => html`<li key=${message.id}><${Message} message=${message} reader=${user} />
      ${cards(message).length > 0 && html`<div class="chat-work" aria-live="off">${cards(message).map(card)}</div>`}</li>`,
    )}</ol></div>
    ${
      coming.length > 0 &&
      html`<ol class="chat-messages" aria-label="Replies to come">${coming.map(
        (
          reply,
        ) => html`<li key=${reply.job_id}><${ComingReply} reply=${reply} live=${live.get(reply.job_id)} text=${texts.get(reply.job_id)}
      onStop=${act(() => functions.cancel(id, reply.job_id), "Not stopped")} onRetry=${act(() => functions.retry(id, reply.job_id), "Not tried again")} /></li>`,
      )}</ol>`
    }
    ${latest.value && messages.length === 0 && coming.length === 0 && html`<p class="muted">Nothing was said yet.</p>`}
    <div class="chat-composer">
      <div role="status">${
        asking &&
        html`<div class="chat-asks"><span class="grow">${asking.title}: ${asking.question}</span><button type="button" class="quiet" onClick=${() => {
          const at = document.getElementById(`work-${asking.work_item_id}`);
          at?.scrollIntoView({ block: "center" });
          at?.focus({ preventScroll: true });
        }}>Go to the question</button></div>`
      }</div>
      <${Composer} key=${id} onSend=${send} /></div>
  </article>`;
}
