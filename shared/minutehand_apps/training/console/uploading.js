// List of the running uploads. Each upload shows its progress and has buttons for its actions.

import {
  act,
  ActionButton,
  bytes,
  html,
  navigate,
  notify,
  notifyFailure,
  Tag,
  useStore,
} from "../../app.js";
import { Bar } from "./bar.js";
import { Uploads } from "./uploads.js";

const WORDS = {
  sending: ["Uploading", "processing"],
  interrupted: ["Interrupted", "waiting"],
  finishing: ["Completing", "processing"],
};

/** Open the page of a training after its file was uploaded, or show why the upload failed. */
function started(upload, error) {
  const training = upload?.training;
  if (!training) return notifyFailure("Could not upload", error ?? null);
  const href = `/trainings/${training.id}`;
  if (location.pathname === "/trainings") return navigate(href);
  return notify(`${training.title} is uploaded`, { href, label: "Open" });
}

export const uploads = new Uploads(started);

export function Uploading({ whose }) {
  const mine = useStore(uploads).filter((one) => one.whose === whose);
  if (mine.length === 0) return null;
  const resume = (id, file) => act("Could not resume", () => uploads.resume(id, file));
  return html`<section class="card stack" aria-labelledby="h-uploads">
    <h2 id="h-uploads">Uploads</h2>
    <ul class="stack">
      ${mine.map(
        (one) => html`<li key=${one.id} class="stack" data-upload=${one.state}>
          <div class="bar">
            <span class="strong wrap">${one.title}</span>
            <${Tag} tone=${WORDS[one.state][1]}>${WORDS[one.state][0]}<//>
            <span class="muted small num wrap">
              ${one.name} · ${one.hasFile && `${bytes(one.sent)} of `}${bytes(one.size)}
            </span>
            <span class="spacer"></span>
            ${
              one.state === "interrupted" &&
              one.hasFile &&
              html`<${ActionButton} className="primary" run=${() => resume(one.id)}>
                Resume
              <//>`
            }
            ${
              one.state !== "finishing" &&
              html`<${ActionButton}
                className="danger"
                run=${() => act("Could not abort", () => uploads.abort(one.id))}>
                Abort
              <//>`
            }
          </div>
          ${
            one.hasFile
              ? html`<${Bar}
                label=${`Upload of ${one.title}`}
                done=${(one.sent / one.size) * 100}
                status=${WORDS[one.state][1]} />`
              : html`<label class="field">
                <span>
                  Choose ${one.name} again to continue <span class="hint">
                    parts that arrived are not sent again
                  </span>
                </span>
                <input
                  type="file"
                  accept="video/*,audio/*"
                  onChange=${({ target: { files } }) => files[0] && resume(one.id, files[0])} />
              </label>`
          }
          ${one.problem && html`<p class="problem" role="alert">${one.problem}</p>`}
        </li>`,
      )}
    </ul>
  </section>`;
}
