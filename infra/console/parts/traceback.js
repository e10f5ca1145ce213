// Where an attempt failed: the user's own frames first, what differs from the attempt before, and where its log is.

import { codeOf, safeUrl } from "../lib/format.js";
import { createStore, useStore } from "../lib/store.js";
import { html } from "../lib/ui.js";

/** @import { Attempt, Traceback as Raised } from "../lib/jobs/types.js" */

/** @type {Record<string, string>} */
const NAMES = { version: "version of the code", worker_id: "worker" };

/** CloudWatch's page of a log stream, narrowed to the request where it is known; null without a group. */
export function cloudWatchOf(/** @type {Attempt["origin"]} */ origin) {
  // the region goes into the host of the link
  if (!origin?.log_group || !/^[a-z]{2}(-[a-z]+)+-\d{1,2}$/.test(origin.region ?? "")) return null;
  const twice = (/** @type {string} */ text) =>
    encodeURIComponent(encodeURIComponent(text)).replaceAll("%", "$");
  const base = `https://${origin.region}.console.aws.amazon.com/cloudwatch/home?region=${origin.region}#logsV2:log-groups/log-group/${twice(origin.log_group)}`;
  const filter = origin.request_id ? `$3FfilterPattern$3D${twice(`"${origin.request_id}"`)}` : "";
  return safeUrl(
    `${base}/log-events${origin.log_stream ? `/${twice(origin.log_stream)}` : ""}${filter}`,
  );
}

/** The place in short: file:line of the innermost own frame. */
export const placeOf = (/** @type {Raised | null | undefined} */ traceback) =>
  traceback?.frames?.[0] ? `${traceback.frames[0].file}:${traceback.frames[0].line}` : null;

export const asText = (/** @type {Raised} */ traceback) =>
  [...(traceback.frames ?? [])]
    .map(
      (one) => `${one.file}:${one.line} in ${one.function}${one.code ? `\n    ${one.code}` : ""}`,
    )
    .join("\n");

const KEY = "minutehand.editor";
/** Where an editor finds a line of the sources, as the person of this browser set it. */
const editor = createStore(localStorage.getItem(KEY) ?? "");
editor.subscribe((pattern) => localStorage.setItem(KEY, pattern));

/**
 * Links to a frame of the user's own code: in the editor, and in the commit it ran from.
 *
 * @param {{frame: import("../lib/jobs/types.js").Frame, origin: Attempt["origin"] | undefined}} props
 */
function Places({ frame, origin }) {
  const pattern = useStore(editor);
  const path = frame.file.split("/").map(encodeURIComponent).join("/");
  const line = pattern.replace("{file}", path).replace("{line}", String(frame.line));
  const commit = origin?.source && safeUrl(`${origin.source}/${path}#L${frame.line}`);
  return html`
    ${
      /^(?!javascript|data)[a-z][a-z0-9+.-]*:\/\//i.test(line) &&
      html` <a class="small" href=${line}>Editor</a>
      `
    }
    ${commit && html` <a class="small" href=${commit} target="_blank" rel="noreferrer">Commit</a>`}
  `;
}

/** @param {{traceback: Raised, origin?: Attempt["origin"]}} props */
export function Traceback({ traceback, origin }) {
  const frames = traceback.frames ?? [];
  return html`<div class="traceback">
    <ol aria-label="Traceback">
      ${frames.map(
        (one, index) => html`<li key=${index} data-own=${one.own ? "" : undefined}>
          <span class="mono frame-place">${one.file}:<strong>${one.line}</strong></span> <span
            class="muted">
            in
          </span> <span
            class="mono">
            ${one.function}
          </span>
          ${one.times && html` <span class="muted num">× ${one.times}, recursion</span>`}
          ${one.own && html`<${Places} frame=${one} origin=${origin} />`}
          ${one.code && html`<pre>${one.code}</pre>`}
        </li>`,
      )}
    </ol>
    ${
      /** @type {number} */ (traceback.left_out) > 0 &&
      html`<p class="muted small">
        ${traceback.left_out} library frames omitted.
      </p>`
    }
    ${(traceback.causes ?? []).map(
      (cause, index) => html`<p class="small" key=${index}>
        <span class="muted">Caused by</span> <span class="mono">
          ${typeof cause === "string" ? cause : `${cause.type ?? ""}${cause.message ? `: ${cause.message}` : ""}`}
        </span>
        ${placeOf(cause) && html` at <span class="mono">${placeOf(cause)}</span>`}
      </p>`,
    )}
  </div>`;
}

/** Asks where the sources are; the answer stays in this browser. */
export const EditorSetting = () =>
  html`<details class="more">
    <summary>Links to your editor</summary>
    <label class="field">
      <span>Address of a line, kept in this browser</span>
      <input
        type="text"
        placeholder="vscode://file/home/you/project/src/{file}:{line}"
        value=${useStore(editor)}
        onChange=${(/** @type {{target: HTMLInputElement}} */ event) => editor.set(event.target.value.trim())} />
    </label>
  </details>`;

/**
 * What differs from the failed attempt before; nothing when it failed the same way.
 *
 * @param {Pick<Attempt, "differs">} props
 */
export function Differs({ differs }) {
  if (!differs) return null;
  if (differs.length === 0)
    return html`<p class="muted small">Failed in the same way as the attempt before.</p>`;
  return html`<p class="small">
    Unlike the attempt before: ${differs.map(
      (one, index) => html`
        ${index > 0 ? "; " : ""}
        <span key=${one.what}>
          another ${NAMES[one.what] ?? one.what} <span class="muted">
            (${String(one.before ?? "none")} → ${String(one.now ?? "none")})
          </span>
        </span>
      `,
    )}.
  </p>`;
}

/**
 * Links to where the attempt's log is.
 *
 * @param {{attempt: Attempt}} props
 */
export function Origin({ attempt }) {
  const { origin } = attempt;
  const address = cloudWatchOf(origin);
  if (!origin) return null;
  return html`<p class="muted small wrap">
    ${
      (origin.commit || origin.version) &&
      html`
        ${
          origin.commit
            ? html`
              commit <code>${codeOf(origin)}</code>
            `
            : `version ${origin.version}`
        } · `
    }
    ${origin.request_id && html`request <code>${origin.request_id}</code> · `}
    ${
      address
        ? html`<a href=${address} target="_blank" rel="noreferrer">CloudWatch</a>`
        : html`
          worker <span class="mono">${attempt.worker_id}</span>
        `
    }
  </p>`;
}
