// Page for the Apollo key of a workspace. A person can save, test and remove the key, but cannot
// read the key.

import {
  ActionButton,
  createAction,
  figure,
  html,
  Icon,
  loadStyles,
  notify,
  number,
  pageHead,
  Placeholder,
  Tag,
  useFetch,
  useState,
  When,
} from "../../app.js";
import { apiSettings } from "./data.js";

loadStyles("/apps/enrichment/enrichment.css");

export const title = () => "API settings";

export default function Settings({ workspace }) {
  const found = useFetch((signal) => apiSettings.get(workspace.id, signal), [workspace.id]);
  return html`<div class="page narrow">
    ${pageHead("API settings")}
    ${
      found.value
        ? html`<${Loaded}
          settings=${found.value}
          workspace=${workspace}
          refresh=${found.refresh} />`
        : html`<${Placeholder} of=${found} what="the settings" />`
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
  const removeKey = () => apiSettings.removeKey(workspace.id);
  const remove = () =>
    createAction(refresh)("Could not remove", removeKey, "The key is removed", {
      title: "Remove the Apollo key?",
      text: `Enrichment of ${workspace.name} fails until a new key is saved.`,
      action: "Remove the key",
      danger: true,
    });
  const toggle = ({ target: { checked } }) =>
    save(
      { apollo_auto_enrich: checked },
      checked ? "New accounts are enriched automatically" : "New accounts are enriched on request",
    );
  return html`
    <section class="card stack" aria-labelledby="h-apollo">
      <div>
        <div class="bar">
          <h2 id="h-apollo">Apollo key</h2>
          <${Tag} tone=${state.configured ? "completed" : "waiting"}>
            ${state.configured ? "Configured" : "Not configured"}
          <//>
        </div>
        <p class="muted">
          Apollo completes accounts and contacts, and charges this key.
        </p>
      </div>
      ${
        state.configured &&
        html`<div class="bar kept">
          <${Icon} name="key" />
          <span>ends in <span class="mono">${state.last4 ?? "····"}</span></span>
          ${
            settings.updated_at &&
            html`<span class="muted small">changed <${When} at=${settings.updated_at} /></span>`
          }
          <span class="spacer"></span>
          ${
            mayManage &&
            html`<button type="button" class="danger" onClick=${remove}>Remove key</button>`
          }
        </div>`
      }
      ${
        mayManage
          ? html`<form
            class="stack"
            onSubmit=${(event) => {
              event.preventDefault();
              save({ apollo_api_key: key.trim() }, "API key saved successfully");
            }}>
            <label class="field">
              <span>${state.configured ? "New API key" : "API key"}</span>
              <input
                type="password"
                autocomplete="off"
                spellcheck="false"
                value=${key}
                onInput=${(event) => setKey(event.target.value)}
                placeholder=${state.configured ? "Replaces the current key" : ""} />
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
            </div>
          </form>`
          : html`<p class="muted">Only managers of the workspace may change the key.</p>`
      }
    </section>
    <section class="card" aria-labelledby="h-auto">
      <h2 id="h-auto">Automatic enrichment</h2>
      <label class="check">
        <input
          type="checkbox"
          checked=${settings.apollo_auto_enrich}
          disabled=${!mayManage}
          onChange=${toggle} />
        <span>
          Enrich new accounts as they arrive
          <span class="under">At most one credit per account. If off, enrich each account with its button.</span>
        </span>
      </label>
    </section>
    <section aria-labelledby="h-usage" class="stack">
      <h2 id="h-usage">Usage</h2>
      <div class="grid-cards">
        ${figure("Credits used", number(settings.enrichment_credits_used), "counted once per response")}
        ${figure(
          "Calls without a response",
          number(settings.enrichment_calls_unanswered),
          "each may have cost a credit",
        )}
      </div>
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
