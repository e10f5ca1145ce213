// Shows the attempts of a job with their errors. A traceback is shown with the frames of the
// project's own code first.

import { codeOf, safeUrl } from "../lib/format.js";
import { html, quietButton } from "../lib/ui.js";
import { copy, JsonView } from "./copy.js";

/** Shows the error, traceback, worker and commit of an attempt. */
export const AttemptDetails = ({ attempt, error = attempt.error_message && attempt.error }) => html`
  ${error && html`<p class="error-text">${error}</p>`}
  ${
    attempt.traceback
      ? html`<${Traceback} traceback=${attempt.traceback} origin=${attempt.origin} />`
      : attempt.has_traceback &&
        html`<p class="muted small">Managers of the workspace can read the traceback.</p>`
  }
  <${Origin} attempt=${attempt} />
`;

/** Shows the last error of a job in full, with the traceback and the log of the failed attempt. */
export function LastFailure({ job, attempts }) {
  const last = attempts.filter((attempt) => attempt.error_message).at(-1);
  if (!job.error_message || job.status === "completed") return null;
  const type = job.error_data?.type;
  return html`<section
    class=${job.status === "failed" ? "card error-card" : "card"}
    aria-labelledby="h-error">
    <h2 id="h-error">
      ${job.status === "failed" ? "Error" : "Last error"}
      ${type && html` <span class="mono muted">${type}</span>`}
      ${
        locationOf(last?.traceback) &&
        html` <span class="muted">at</span> <span class="mono">
          ${locationOf(last.traceback)}
        </span>
        `
      }
    </h2>
    ${
      last
        ? html`<${AttemptDetails} attempt=${last} error=${job.error_message} />`
        : html`<p class="error-text">${job.error_message}</p>`
    }
    ${
      last?.traceback &&
      html`<div class="actions start">
        ${quietButton("Copy the traceback", () =>
          copy(asText(last.traceback), "Copied the traceback"),
        )}
      </div>`
    }
    ${
      job.error_data &&
      html`<details class="more" open=${job.status === "failed" && !last?.traceback}>
        <summary>Details</summary>
        <${JsonView} value=${job.error_data} label="Error details" />
      </details>`
    }
  </section>`;
}

const causeOf = ({ type = "", message }) =>
  message && message !== type ? `${type}: ${message}` : type;

/**
 * Return the URL of a log stream in Amazon CloudWatch, or null. If the id of the attempt's Lambda
 * request is known, the URL filters the log by this id.
 */
function cloudWatchOf(origin) {
  // check the AWS region, because the host name of the link contains the region
  if (!origin?.log_group || !/^[a-z]{2}(-[a-z]+)+-\d{1,2}$/.test(origin.region ?? "")) return null;
  const encodeTwice = (text) => encodeURIComponent(encodeURIComponent(text)).replaceAll("%", "$");
  const { region, log_group: group, log_stream: stream, request_id: request } = origin;
  return safeUrl(
    [
      `https://${region}.console.aws.amazon.com/cloudwatch/home?region=${region}`,
      `#logsV2:log-groups/log-group/${encodeTwice(group)}/log-events`,
      stream ? `/${encodeTwice(stream)}` : "",
      request ? `$3FfilterPattern$3D${encodeTwice(`"${request}"`)}` : "",
    ].join(""),
  );
}

/** Return `file:line` of the first frame of a traceback, or null if there is no frame. */
export const locationOf = (traceback) =>
  traceback?.frames?.[0] ? `${traceback.frames[0].file}:${traceback.frames[0].line}` : null;

const asText = (traceback) =>
  [...(traceback.frames ?? [])]
    .map(
      (frame) =>
        `${frame.file}:${frame.line} in ${frame.function}${frame.code ? `\n    ${frame.code}` : ""}`,
    )
    .join("\n");

/**
 * Return the URL of a traceback frame's line in the code repository, at the commit that the worker
 * ran.
 */
const commitOf = (frame, origin) =>
  origin?.source &&
  safeUrl(
    `${origin.source}/${frame.file.split("/").map(encodeURIComponent).join("/")}#L${frame.line}`,
  );

function Traceback({ traceback, origin }) {
  return html`<div class="traceback">
    <ol aria-label="Traceback">
      ${(traceback.frames ?? []).map(
        (frame, index) => html`<li key=${index} data-own=${frame.own ? "" : undefined}>
          <span class="mono">${frame.file}:<strong>${frame.line}</strong></span> <span
            class="muted">
            in
          </span> <span
            class="mono">
            ${frame.function}
          </span>
          ${
            frame.own &&
            commitOf(frame, origin) &&
            html` <a class="small" href=${commitOf(frame, origin)} target="_blank"
              rel="noreferrer">Commit</a>`
          }
          ${frame.code && html`<pre>${frame.code}</pre>`}
        </li>`,
      )}
    </ol>
    ${
      traceback.left_out > 0 &&
      html`<p class="muted small">
        ${traceback.left_out} library frames omitted.
      </p>`
    }
    ${(traceback.causes ?? []).map(
      (cause, index) => html`<p class="small" key=${index}>
        <span class="muted">${cause.handled ? "While handling" : "Caused by"}</span> <span class="mono">
          ${typeof cause === "string" ? cause : causeOf(cause)}
        </span>
        ${locationOf(cause) && html` at <span class="mono">${locationOf(cause)}</span>`}
      </p>`,
    )}
  </div>`;
}

/** Shows the commit and the worker of an attempt, with a link to the worker's log. */
function Origin({ attempt }) {
  const { origin, worker_id: worker } = attempt;
  const address = cloudWatchOf(origin);
  return html`<p class="muted small wrap">
    ${origin && html`${origin.commit ? "commit" : "version"} <code>${codeOf(origin)}</code> · `}
    ${origin?.request_id && html`request <code>${origin.request_id}</code> · `}
    ${address && html`<a href=${address} target="_blank" rel="noreferrer">CloudWatch</a> · `}
    ${worker && html`worker <span class="mono">${worker}</span>`}
  </p>`;
}
