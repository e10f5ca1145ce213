// A conversation as members and guests have it: what was said, replies while they are written,
// and work between the messages. What else may be done with it is given by the page.

import { supabase } from "../../api.js";
import { watchSession } from "../../lib/jobs.js";
import { usePolling, useRead } from "../../lib/store.js";
import { needStyles } from "../../lib/styles.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { Stale } from "../../parts/states-of-view.js";
import { actionsOn, notifyFailure } from "../../parts/toasts.js";
import { Unread } from "../../parts/unread.js";
import { Composer } from "./composer.js";
import { isOver, standing } from "./data.js";
import { joined, merged } from "./join.js";
import { ComingReply, Message } from "./message.js";
import { WorkCard } from "./work-card.js";

/** @import { ComponentChildren, VNode } from "preact" */
/** @import { SessionJob } from "../../lib/jobs/types.js" */
/** @import { ChatSession, NewMessage, Said, Talk, Work } from "./data.js" */
/** @import { Written } from "./join.js" */

needStyles("/apps/chat/chat.css");

/** The conversation is read again from time to time, whatever events arrived. */
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
 * @param {{session: ChatSession, isMember: boolean, crumb?: VNode, gone: VNode,
 *   tools: (talk: Talk) => ComponentChildren}} props `gone` is shown instead of what is missing,
 *   closed or another's.
 */
export function Conversation({ session, isMember, crumb, tools, gone }) {
  const latest = useRead((signal) => session.said(undefined, signal), [session]);
  const found = useRead(session.state, [session]);
  const [kept, setKept] = useState(/** @type {Said[]} */ ([]));
  const wasNear = useRef(true);
  const refresh = () => {
    found.refresh();
    latest.refresh();
  };
  const talk = latest.value;
  // what slides off the latest page stays
  useEffect(() => {
    if (talk) setKept((now) => merged(now, talk.messages));
  }, [talk]);
  const { live, texts, freshness, missing } = useLive(talk?.sessionId, refresh);
  const pollMs = missing ? POLL_UNHEARD_MS : POLL_MS;
  usePolling(found, pollMs);
  usePolling(latest, pollMs);
  const messages = merged(kept, talk?.messages ?? []);
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
  if ([401, 404, 422].includes(latest.error?.status)) return gone;
  const state = found.value;
  if (!talk || !state)
    return html`<div class="page">
      <h1 tabindex="-1">Conversation</h1>
      <${Unread} of=${{ error: latest.error ?? found.error, refresh }} what="the conversation" />
    </div>`;
  const act = actionsOn(refresh);
  const send = async (/** @type {NewMessage} */ message) => {
    try {
      await session.send(message);
      wasNear.current = true;
    } finally {
      refresh(); // what refuses it may be the end of the conversation
    }
  };
  const older = async () => {
    try {
      const page = await session.said(messages[0].seq);
      wasNear.current = false;
      setKept((now) => merged(page.messages, now));
    } catch (error) {
      notifyFailure("Older messages were not read", error);
    }
  };
  const items = new Map([...state.activeWork, ...state.endedWork].map((item) => [item.id, item]));
  const questions = new Map(state.pendingQuestions.map((question) => [question.workId, question]));
  const jobOf = (/** @type {string} */ work) => work.slice("work_".length);
  const card = (/** @type {Work} */ item) => {
    const question = questions.get(item.id);
    return html`<${WorkCard}
      key=${item.id}
      item=${item}
      question=${question}
      href=${isMember ? `/jobs/${jobOf(item.id)}` : null}
      live=${live.get(jobOf(item.id))}
      onAnswer=${(/** @type {string} */ text) => act("Could not answer", () => session.answer(question?.id ?? "", text))}
      onCancel=${() => act("Could not cancel", () => session.cancel(item.id))} />`;
  };
  const cards = (/** @type {Said} */ message) =>
    (message.work ?? []).flatMap((work) => items.get(work) ?? []);
  const placed = new Set(messages.flatMap((message) => message.work ?? []));
  const elsewhere = state.activeWork.filter((item) => !placed.has(item.id));
  const coming = state.replies.filter((reply) => reply.status !== "completed");
  const asking = state.pendingQuestions.find(
    ({ workId }) => (live.get(jobOf(workId))?.status ?? "waiting") === "waiting",
  );
  const { word, tone } = standing({
    answer_wanted: Boolean(asking),
    replying: coming.some((reply) => !isOver(reply.status)),
    live: state.activeWork.length,
    failed: state.endedWork.filter((item) => item.status === "failed").length,
  });
  return html`<article class="page chat">
    <header class="page-head">
      <div class="grow">
        ${crumb && html`<p class="crumb">${crumb}</p>`}
        <h1 tabindex="-1" class="wrap">${talk.title ?? "New conversation"}</h1>
      </div>
    </header>
    <div class="bar">
      <${Tag} tone=${tone}>${word}<//>
      ${talk.sessionId && html`<${Freshness} value=${freshness} />`}
      <span class="spacer"></span>
      ${tools(talk)}
    </div>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${refresh} />`}
    ${
      messages[0]?.seq > 1 &&
      html`<div class="actions start">
        <${ActionButton} className="quiet" run=${older}>Older messages<//>
      </div>`
    }
    ${
      elsewhere.length > 0 &&
      html`<section class="chat-work" aria-label="Earlier work">
        ${elsewhere.map(card)}
      </section>`
    }
    <div role="log" aria-label="Messages">
      <ol class="chat-messages">
        ${messages.map(
          (message) => html`<li key=${message.id}>
            <${Message} message=${message} />
            ${
              cards(message).length > 0 &&
              html`<div class="chat-work" aria-live="off">
                ${cards(message).map(card)}
              </div>`
            }
          </li>`,
        )}
      </ol>
    </div>
    ${
      coming.length > 0 &&
      html`<ol class="chat-messages" aria-label="Replies to come">
        ${coming.map(
          (reply) => html`<li key=${reply.jobId}>
            <${ComingReply}
              reply=${reply}
              live=${live.get(reply.jobId)}
              text=${texts.get(reply.jobId)}
              onStop=${() => act("Could not stop", () => session.cancel(reply.messageId))} />
          </li>`,
        )}
      </ol>`
    }
    ${
      messages.length === 0 &&
      coming.length === 0 &&
      html`<p class="muted">
        Nothing was said yet.
      </p>`
    }
    <div class="chat-composer">
      <div role="status">
        ${
          asking &&
          html`<div class="chat-asks">
            <span class="grow">${items.get(asking.workId)?.title}: ${asking.content}</span>
            <button
              type="button"
              class="quiet"
              onClick=${() => {
                const at = document.getElementById(asking.workId);
                at?.scrollIntoView({ block: "center" });
                at?.focus({ preventScroll: true });
              }}>
              Go to the question
            </button>
          </div>`
        }
      </div>
      <${Composer} onSend=${send} />
    </div>
  </article>`;
}
