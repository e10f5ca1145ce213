// Dialog in which a person chooses a video. The upload of the video continues after the dialog is
// closed.

import { bytes, DialogForm, field, html, notifyFailure, useRef, useState } from "../../app.js";
import { uploads } from "./uploading.js";

const SAMPLE = "/apps/training/sample.mp4";

const MAX_BYTES = 5 * 1024 ** 3; // default of the setting UPLOADS_MAX_BYTES

/** Return why a file is rejected because of its size or type, or null if the file is accepted. */
function problemOf(file) {
  if (!file) return null;
  if (file.size === 0) return `${file.name} is empty.`;
  if (file.size > MAX_BYTES)
    return `${file.name} has ${bytes(file.size)}, but at most 5 GB are accepted.`;
  // The name of the file is checked too, because browsers do not know the type of every video
  // format.
  if (!file.type || /^(video|audio)\//.test(file.type)) return null;
  return `${file.name} is not a video. Choose an MP4, MOV, WebM, MKV or AVI file with sound.`;
}

export function UploadDialog({ workspaceId, whose, onClose }) {
  const [file, setFile] = useState(null);
  const [title, setTitle] = useState("");
  const input = useRef(null);
  const problem = problemOf(file);
  const choose = (chosen) => {
    setFile(chosen);
    if (chosen && !problemOf(chosen) && !title.trim())
      setTitle(chosen.name.replace(/\.[^.]*$/, "").slice(0, 200));
  };
  const takeSample = async () => {
    try {
      const answer = await fetch(SAMPLE);
      if (!answer.ok) throw new Error(`The sample could not be read (${answer.status})`);
      const sample = new DataTransfer();
      sample.items.add(
        new File([await answer.blob()], "changing-the-paper.mp4", { type: "video/mp4" }),
      );
      input.current.files = sample.files;
      choose(sample.files[0]);
    } catch (error) {
      notifyFailure("Could not take the sample", error);
    }
  };
  const submit = async () => {
    const content_type = file.type || "video/mp4"; // browsers do not know every format
    const fields = { workspace_id: workspaceId, title: title.trim(), content_type };
    await uploads.begin(file, fields, whose);
    onClose();
  };
  return html`<${DialogForm}
    title="New video"
    action="Upload"
    doing="Starting…"
    run=${submit}
    disabled=${!file || problem !== null}
    onClose=${onClose}>
    <label class="field">
      <span>Video <span class="hint">MP4, MOV, WebM, MKV, AVI …, with sound</span></span>
      <input
        ref=${input}
        type="file"
        accept="video/*,audio/*"
        required=${!file}
        onChange=${(event) => choose(event.target.files[0] ?? null)} />
    </label>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <div class="bar">
      <span class="muted small">
        ${file ? bytes(file.size) : "No video?"}
      </span>
      ${
        (!file || problem) &&
        html`<button type="button" class="quiet" onClick=${takeSample}>
          Take a sample of 19 seconds
        </button>`
      }
    </div>
    ${field("Title", title, setTitle, { required: true, maxlength: 200, pattern: ".*\\S.*" })}
  <//>`;
}
