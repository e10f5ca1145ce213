// A workspace's Apollo key: it goes in, is tested and removed, and never comes out again.

import { number } from "../../lib/format.js";
import { useRead } from "../../lib/store.js";
import { html, useState } from "../../lib/ui.js";
import { Tag } from "../../parts/badge.js";
import { ActionButton } from "../../parts/dialog.js";
import { actionsOn, notify } from "../../parts/toasts.js";
import { When } from "../../parts/when.js";
import { Unread } from "../../parts/states-of-view.js";
import { apiSettings, SOURCES } from "./data.js";

export const title = () => "API settings";

export default function Settings({ workspace }) {
  const found = useRead((signal) => apiSettings.get(workspace.id, signal), [workspace.id]);
  return html`<div class="page narrow">
    <header class="page-head"><h1 tabindex="-1">API settings</h1></header>
    ${
      found.value
        ? html`<${Loaded}
          settings=${found.value}
          workspace=${workspace}
          refresh=${found.refresh} />`
        : html`<${Unread} of=${found} what="the settings" />`
    }
  </div>`;
}

function Loaded({ settings, workspace, refresh }) {
  const [key, setKey] = useState("");
  const [tested, setTested] = useState(null);
  const [problem, setProblem] = useState(null);
  const { apollo_api_key: state, can_manage: mayManage } = settings;
  const save = async (changes, done) => {
    setProblem(null);
    try {
      await apiSettings.put(workspace.id, changes);
      setKey("");
      setTested(null);
      notify(done);
      refresh();
    } catch (error) {
      setProblem(error.message);
    }
  };
  const test = async () => {
    setTested(null);
    setProblem(null);
    try {
      setTested(await apiSettings.test(workspace.id, key.trim() || null));
    } catch (error) {
      setProblem(error.message);
    }
  };
  const gone = () => apiSettings.removeKey(workspace.id);
  const remove = () =>
    actionsOn(refresh)("Could not remove", gone, "The key is removed", {
      title: "Remove the Apollo key?",
      text: `Enrichment of ${workspace.name} fails until a new key is saved.`,
      action: "Remove the key",
      danger: true,
    });
  const toggle = ({ target: { checked } }) =>
    save(
      { apollo_auto_enrich: checked },
      checked ? "New accounts are enriched by themselves" : "New accounts wait for the button",
    );
  return html`
    <section class="card stack" aria-labelledby="h-apollo">
      <div class="bar">
        <h2 id="h-apollo">Apollo</h2>
        ${
          state.configured
            ? html`
              <${Tag} tone="completed">Configured<//>
              <span class="muted">ends in <span class="mono">${state.last4 ?? "····"}</span></span>
            `
            : html`<${Tag} tone="waiting">
              Not configured
            <//>`
        }
        <span class="spacer"></span>
        ${
          settings.updated_at &&
          html`<span class="muted small">
            changed <${When} at=${settings.updated_at} />
          </span>`
        }
      </div>
      ${
        mayManage
          ? html`<form
            class="stack"
            onSubmit=${(event) => {
              event.preventDefault();
              save({ apollo_api_key: key.trim() }, "The key is saved");
            }}>
            <label class="field">
              <span>${state.configured ? "New API key" : "API key"}</span>
              <input
                type="password"
                autocomplete="off"
                spellcheck="false"
                value=${key}
                onInput=${(event) => setKey(event.target.value)}
                placeholder=${state.configured ? "Leave empty to keep the present one" : ""} />
              <span class="hint">
                It is sealed before it is stored, and no one can read it back.
              </span>
            </label>
            ${problem && html`<p class="problem" role="alert">${problem}</p>`}
            ${tested && html`<${TestResult} result=${tested} />`}
            <div class="actions start">
              <button type="submit" class="primary" disabled=${!key.trim()}>Save</button>
              <${ActionButton} run=${test} disabled=${!state.configured && !key.trim()}>
                Test connection
              <//>
              ${
                state.configured &&
                html`<button type="button" class="danger" onClick=${remove}>
                  Remove key
                </button>`
              }
            </div>
          </form>`
          : html`<p class="muted">A manager of the workspace keeps the key.</p>`
      }
    </section>
    <section class="card stack" aria-labelledby="h-auto">
      <h2 id="h-auto">Enrichment</h2>
      <label class="check">
        <input
          type="checkbox"
          checked=${settings.apollo_auto_enrich}
          disabled=${!mayManage}
          onChange=${toggle} /> Enrich new accounts as they arrive
      </label>
      <dl class="facts">
        <div>
          <dt>Credits used</dt>
          <dd class="num">${number(settings.enrichment_credits_used)}</dd>
        </div>
        <div>
          <dt>Calls without an answer</dt>
          <dd class="num" title="Each may have cost a credit, or not">
            ${number(settings.enrichment_calls_unanswered)}
          </dd>
        </div>
        <div>
          <dt>Answers come from</dt>
          <dd>${SOURCES[settings.apollo_client] ?? "the server's default"}</dd>
        </div>
      </dl>
    </section>
  `;
}

function TestResult({ result }) {
  const credits = result.credits_remaining;
  const balance =
    credits === null ? "The key may not read its balance." : `${number(credits)} credits remaining`;
  if (result.ok)
    return html`<p role="status">
      <${Tag} tone="completed">Connected<//> ${balance}
      ${result.source === "offline" && html` <span class="muted">(sample data)</span>`}
    </p>`;
  return html`<p role="alert">
    <${Tag} tone="failed">Failed<//> ${result.message ?? result.reason}
  </p>`;
}
