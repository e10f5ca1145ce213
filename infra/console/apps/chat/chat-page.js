// One conversation: what was said, replies while they are written, and work between the messages.

import { supabase } from "../../api.js";
import { watchSession } from "../../lib/jobs.js";
import { navigate } from "../../lib/router.js";
import { useRead } from "../../lib/store.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../../lib/ui.js";
import { Freshness, Tag } from "../../parts/badge.js";
import { ActionButton, confirm, Dialog } from "../../parts/dialog.js";
import { Failed, Loading, Stale } from "../../parts/states-of-view.js";
import { tellFailure } from "../../parts/toasts.js";
import NotFound from "../../views/not-found.js";
import { Composer } from "./composer.js";
import { chat, isOver, standing, titleOf } from "./data.js";
import { joined, merged } from "./join.js";
import { ComingReply, Message } from "./message.js";
import { WorkCard } from "./work-card.js";

export const title = () => "Conversation";

const STYLES = "/apps/chat/chat.css";
if (!document.querySelector(`link[href="${STYLES}"]`)) document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: STYLES }));

/** Within this many pixels of the end a person reads the latest, and stays there. */
const NEAR_END = 160;
const distanceToEnd = () => document.documentElement.scrollHeight - innerHeight - scrollY;

/** The session's jobs by id, the texts they write, and how fresh that is; `soon` when more has to be read. */
function useLive(session, soon) {
  const [live, setLive] = useState(new Map());
  const [freshness, setFreshness] = useState("catching-up");
  const texts = useRef(new Map());
  useEffect(() => {
    if (!session) return undefined;
    let timer = null;
    let known = "";
    const later = () => (timer ??= setTimeout(() => { timer = null; soon(); }, 250));
    const watch = watchSession(supabase(), session, {
      onEvent: (event) => event.type !== "job.progress" && later(), // the text comes with the event itself
      onChange: (state) => {
        setFreshness(state.freshness);
        for (const job of state.jobs) texts.current.set(job.id, joined(texts.current.get(job.id) ?? { from: 0, text: "" }, job.progress));
        setLive(new Map(state.jobs.map((job) => [job.id, job])));
        // a job that was made just now is read with its first events, which are then not told
        const now = state.jobs.map((job) => `${job.id} ${job.status}`).join();
        if (now !== known) later();
        known = now;
      },
    });
    return () => { clearTimeout(timer); watch.close(); };
  }, [session]);
  return { live, texts: texts.current, freshness };
}

export default function ChatPage({ id, user, workspace }) {
  const found = useRead((signal) => chat.read(id, signal), [id]);
  const latest = useRead((signal) => chat.messages(id, undefined, signal), [id]);
  const [kept, setKept] = useState({ messages: [], before: undefined });
  const wasNear = useRef(true);
  useLayoutEffect(() => { setKept({ messages: [], before: undefined }); wasNear.current = true; }, [id]);
  // what slides off the latest page stays
  useEffect(() => { if (latest.value) setKept((now) => ({ before: now.before === undefined ? latest.value.before : now.before, messages: merged(now.messages, latest.value.messages) })); }, [latest.value]);
  const refresh = () => { found.refresh(); latest.refresh(); };
  const conversation = found.value;
  const { live, texts, freshness } = useLive(conversation?.session_id, refresh);
  const [isRenaming, setIsRenaming] = useState(false);
  const messages = merged(kept.messages, latest.value?.messages ?? []);
  useEffect(() => {
    const note = () => { wasNear.current = distanceToEnd() < NEAR_END; };
    addEventListener("scroll", note, { passive: true });
    return () => removeEventListener("scroll", note);
  }, []);
  useLayoutEffect(() => { if (wasNear.current) scrollTo(0, document.documentElement.scrollHeight); });
  if (found.error?.status === 404 || found.error?.status === 422) return html`<${NotFound} what="conversation" />`;
  if (!conversation) return html`<div class="page"><h1 tabindex="-1">Conversation</h1>${found.error ? html`<${Failed} error=${found.error} retry=${found.refresh} what="The conversation could not be read" />` : html`<${Loading} what="Reading the conversation" />`}</div>`;
  const act = (what, failure) => async () => {
    try {
      await what();
    } catch (error) {
      tellFailure(failure, error);
    }
    refresh();
  };
  const send = async (message) => {
    await chat.send(id, message);
    wasNear.current = true;
    refresh();
  };
  const older = async () => {
    try {
      const page = await chat.messages(id, kept.before);
      wasNear.current = false;
      setKept((now) => ({ before: page.before, messages: merged(page.messages, now.messages) }));
    } catch (error) {
      tellFailure("Older messages were not read", error);
    }
  };
  const remove = async () => {
    if (!(await confirm({ title: "Delete this conversation?", text: "What was said goes for good, and work that is under way is cancelled.", action: "Delete", danger: true }))) return;
    try {
      await chat.remove(id);
      navigate("/chat");
    } catch (error) {
      tellFailure("Not deleted", error);
    }
  };
  const items = new Map(conversation.work.map((item) => [item.work_item_id, item]));
  const card = (item) => html`<${WorkCard} key=${item.work_item_id} item=${item} live=${live.get(item.work_item_id)}
    onAnswer=${(text) => act(() => chat.answer(id, item.work_item_id, item.question_name, text), "Not answered")()}
    onCancel=${act(() => chat.cancel(id, item.work_item_id), "Not cancelled")} onRetry=${act(() => chat.retry(id, item.work_item_id), "Not tried again")} />`;
  const cards = (message) => (message.data?.work_items ?? []).map((item) => items.get(item)).filter(Boolean);
  const placed = new Set(messages.flatMap((message) => message.data?.work_items ?? []));
  const elsewhere = latest.value ? conversation.work.filter((item) => !placed.has(item.work_item_id) && !isOver(item.status)) : [];
  const written = new Set(messages.filter((message) => message.author === "assistant").map((message) => message.job_id));
  const coming = conversation.replies.filter((reply) => !written.has(reply.job_id));
  const asking = conversation.work.find((item) => item.question && (live.get(item.work_item_id)?.status ?? item.status) === "waiting");
  const mayChange = workspace.role === "manager" || conversation.created_by === user.id;
  const { word, tone } = standing(conversation);
  return html`<article class="page chat">
    <header class="page-head"><div class="grow"><p class="crumb"><a href="/chat">Chat</a></p><h1 tabindex="-1" class="wrap">${titleOf(conversation)}</h1></div></header>
    <div class="bar"><${Tag} tone=${tone}>${word}<//><${Freshness} value=${freshness} /><span class="spacer"></span>
      ${mayChange && html`<button type="button" onClick=${() => setIsRenaming(true)}>Rename</button><${ActionButton} className="danger" run=${remove}>Delete<//>`}</div>
    ${found.isStale && html`<${Stale} error=${found.error} retry=${refresh} />`}
    ${!latest.value && latest.error && html`<${Failed} error=${latest.error} retry=${latest.refresh} what="The messages could not be read" />`}
    ${!latest.value && !latest.error && html`<${Loading} what="Reading the messages" />`}
    ${kept.before && html`<div class="actions start"><${ActionButton} className="quiet" run=${older}>Older messages<//></div>`}
    ${elsewhere.length > 0 && html`<section class="chat-work" aria-label="Earlier work">${elsewhere.map(card)}</section>`}
    <div role="log" aria-label="Messages"><ol class="chat-messages">${messages.map((message) => html`<li key=${message.id}><${Message} message=${message} isMine=${message.created_by === user.id} />
      ${cards(message).length > 0 && html`<div class="chat-work" aria-live="off">${cards(message).map(card)}</div>`}</li>`)}</ol></div>
    ${coming.length > 0 && html`<ol class="chat-messages" aria-label="Replies to come">${coming.map((reply) => html`<li key=${reply.job_id}><${ComingReply} reply=${reply} live=${live.get(reply.job_id)} text=${texts.get(reply.job_id)}
      onStop=${act(() => chat.cancel(id, reply.job_id), "Not stopped")} onRetry=${act(() => chat.retry(id, reply.job_id), "Not tried again")} /></li>`)}</ol>`}
    ${latest.value && messages.length === 0 && coming.length === 0 && html`<p class="muted">Nothing was said yet.</p>`}
    <div class="chat-composer">
      <div role="status">${asking && html`<div class="chat-asks"><span class="grow">${asking.title}: ${asking.question}</span><button type="button" class="quiet" onClick=${() => { const at = document.getElementById(`work-${asking.work_item_id}`); at?.scrollIntoView({ block: "center" }); at?.focus({ preventScroll: true }); }}>Go to the question</button></div>`}</div>
      <${Composer} key=${id} onSend=${send} /></div>
    ${isRenaming && html`<${RenameDialog} of=${conversation} onClose=${() => setIsRenaming(false)} onRenamed=${() => { setIsRenaming(false); refresh(); }} />`}
  </article>`;
}

function RenameDialog({ of, onClose, onRenamed }) {
  const [text, setText] = useState(of.title ?? "");
  const [problem, setProblem] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    try {
      await chat.rename(of.id, text.trim());
      onRenamed();
    } catch (error) {
      setProblem(error.message);
    }
  };
  return html`<${Dialog} title="Rename the conversation" onClose=${onClose}><form class="stack" onSubmit=${submit}>
    <label class="field"><span>Title</span><input type="text" required maxlength="200" value=${text} onInput=${(event) => setText(event.target.value)} /></label>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <div class="actions"><button type="button" onClick=${onClose}>Close</button><button type="submit" class="primary" disabled=${!text.trim()}>Rename</button></div>
  </form><//>`;
}
