// Page of one account, with the account's fields, contacts and enrichment. While the enrichment job
// runs, new values of fields appear on the page.

import {
  ActionButton,
  createAction,
  field,
  html,
  JobProgress,
  NotFound,
  notify,
  number,
  objectHead,
  placeholderPage,
  stale,
  StateBadge,
  useFetch,
  useState,
  useTopicRefresh,
  When,
} from "../../app.js";
import { EnrichButton, Enriched, isLive } from "./records.js";
import { accountOf, contactsOf, edit, jobsOf, SOURCES } from "./data.js";

export const title = () => "Account";

export default function AccountPage({ id, workspace }) {
  const found = useFetch(
    async (signal) => {
      const [account, contacts, history] = await Promise.all(
        [accountOf, contactsOf, jobsOf].map((read) => read(id, signal)),
      );
      return { account, contacts, history };
    },
    [id],
  );
  const job = found.value?.history.find(isLive);
  // A colleague may start an enrichment, or the same person may start one in another tab.
  useTopicRefresh(found, [`workspace:${workspace.id}`, job && `job:${job.id}`], Boolean(job));
  const unread = placeholderPage("Account", found, "account");
  if (unread) return unread;
  if (found.value.account === null) return html`<${NotFound} what="account" />`;
  return html`<${Loaded} ...${found.value} found=${found} job=${job} />`;
}

function Loaded({ account, contacts, history, found, job }) {
  const last = history[0];
  return html`<article class="page">
    ${objectHead(
      html`<a href="/accounts">Accounts</a>`,
      account.name,
      html`<${Enriched} row=${account} job=${last} />`,
      html`<${EnrichButton}
        kind="account"
        row=${account}
        name=${account.name}
        job=${job}
        refresh=${found.refresh}
        className=${account.enriched_at ? "" : "primary"} />`,
    )}
    ${
      job &&
      html`<section class="card" aria-label="Enrichment">
        <${JobProgress} job=${job} />
      </section>`
    }
    ${
      last?.status === "failed" &&
      html`<p class="notice failed wrap" role="alert">
        <span><span class="strong">The account was not enriched.</span> ${last.error_message}</span>
      </p>`
    }
    ${
      last?.result?.outcome === "no match" &&
      html`<p class="notice wrap" role="status">
        Nothing was found for ${last.result.looked_up}. Correct the domain, then enrich it again.
      </p>`
    }
    ${
      account.metadata?.apollo_source === "offline" &&
      html`<p class="notice">
        Sample: the enriched values are made up, and did not come from Apollo.
      </p>`
    }
    ${stale(found)}
    <div class="columns">
      <div class="column main">
        <${Fields} account=${account} onSaved=${found.refresh} />
        <section class="card" aria-labelledby="h-people">
          <h2 id="h-people">Contacts</h2>
          ${
            contacts.length > 0
              ? html`<ul class="people">
                ${contacts.map(
                  (contact) => html`<li key=${contact.id} class="wrap">
                    <span class="strong">${contact.name ?? contact.email}</span> <span
                      class="muted">
                      ${contact.title ?? ""}
                    </span>
                  </li>`,
                )}
              </ul>`
              : html`<p class="muted">
                No contacts yet. <a href="/contacts">Add one under Contacts</a>.
              </p>`
          }
        </section>
      </div>
      <section class="column side" aria-labelledby="h-runs">
        <div class="card">
          <h2 id="h-runs">Enrichments</h2>
          ${
            history.length > 0
              ? html`<ul class="runs">
                ${history.map(
                  (one) => html`<li key=${one.id}>
                    <a href=${`/jobs/${one.id}`}>
                      <${When} at=${one.finished_at ?? one.created_at} />
                    </a> <${StateBadge} job=${one} />
                  </li>`,
                )}
              </ul>`
              : html`<p class="muted">None yet.</p>`
          }
        </div>
      </section>
    </div>
  </article>`;
}

const FIELDS = [
  ["name", "Name"],
  ["domain", "Domain"],
  ["industry", "Industry"],
  ["employee_count", "Employees", "number"],
  ["annual_revenue", "Annual revenue, US$", "number"],
  ["city", "City"],
  ["state", "State"],
  ["country", "Country"],
];

/**
 * If a person has edited a field, shows the value from Apollo, with a button that restores Apollo's
 * value.
 */
function Beside({ account, name, label, kind, onSaved }) {
  const apolloValue = account.metadata?.apollo_fields?.[name] ?? null;
  if (apolloValue === null || String(apolloValue) === String(account[name] ?? "")) return null;
  const use = () =>
    createAction(onSaved)("Could not save", () => edit(account.id, { [name]: apolloValue }));
  const says = `Use what Apollo says for ${label.toLowerCase()}`;
  return html`<div class="bar muted small">
    <span class="wrap grow">
      ${SOURCES[account.metadata.apollo_source]}:
      ${" "}${kind === "number" ? number(Number(apolloValue)) : apolloValue}
    </span>
    <${ActionButton} className="small" run=${use} aria-label=${says}>
      Use
    <//>
  </div>`;
}

/** Shows when a person wrote the value of a field. All other values are from the last enrichment. */
function Origin({ account, name }) {
  const { [name]: value, edited_at, enriched_at, metadata } = account;
  if ((value ?? null) === null) return null;
  const isApollos = String(metadata?.apollo_fields?.[name] ?? "") === String(value);
  // an enrichment also fills a field that a person emptied before
  const isFilled = isApollos && !(Date.parse(edited_at[name]) > Date.parse(enriched_at));
  const at = !isFilled && edited_at[name];
  return at && html`<div class="hint">Edited <${When} at=${at} /></div>`;
}

function Fields({ account, onSaved }) {
  const [draft, setDraft] = useState(null);
  const [problem, setProblem] = useState(null);
  const shown = (name, kind) =>
    kind === "number" && account[name] !== null
      ? number(Number(account[name]))
      : (account[name] ?? "–");
  const save = async (event) => {
    event.preventDefault();
    const changes = {};
    for (const [name, , kind] of FIELDS) {
      const text = String(draft[name] ?? "").trim();
      const value = text === "" ? null : kind === "number" ? Number(text) : text;
      if (value !== (account[name] ?? null)) changes[name] = value;
    }
    if (Object.keys(changes).length === 0) return setDraft(null);
    try {
      await edit(account.id, changes);
      setDraft(null);
      setProblem(null);
      notify("Saved. Enrichment does not change these fields.");
      onSaved();
    } catch (error) {
      setProblem(error.message);
    }
    return undefined;
  };
  if (!draft) {
    return html`<section class="card stack" aria-labelledby="h-fields">
      <div class="bar">
        <h2 id="h-fields">Company</h2>
        <span class="spacer"></span>
        <button type="button" class="quiet" onClick=${() => setDraft({ ...account })}>Edit</button>
      </div>
      <dl class="facts two">
        ${FIELDS.map(
          ([name, label, kind]) => html`<div key=${name}>
            <dt>${label}</dt>
            <dd>
              <span data-field=${name}>${shown(name, kind)}</span>
              <${Origin} account=${account} name=${name} />
              <${Beside} ...${{ account, name, label, kind, onSaved }} />
            </dd>
          </div>`,
        )}
      </dl>
    </section>`;
  }
  const line = ([name, label, kind]) => {
    const set = (value) => setDraft((now) => ({ ...now, [name]: value }));
    const attributes = { type: kind ?? "text", min: 0, step: "any", required: name === "name" };
    return field(label, draft[name] ?? "", set, attributes);
  };
  return html`<form class="card stack" onSubmit=${save} aria-label="Edit company">
    <div class="field-grid">${FIELDS.map(line)}</div>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <div class="actions">
      <button
        type="button"
        onClick=${() => {
          setDraft(null);
          setProblem(null);
        }}>
        Discard
      </button>
      <button type="submit" class="primary">Save</button>
    </div>
  </form>`;
}
