// Dialog in which a person chooses a video. The upload of the video continues after the dialog is
// closed. The API decides by type and size whether it accepts the file.

import { bytes, DialogForm, field, html, notifyFailure, useRef, useState } from "../../app.js";
import { uploads } from "./uploading.js";

const SAMPLE = "/apps/training/sample.mp4";

export function UploadDialog({ workspaceId, whose, onClose }) {
  const [file, setFile] = useState(null);
  const [title, setTitle] = useState("");
  const input = useRef(null);
  const choose = (chosen) => {
    setFile(chosen);
    if (chosen && !title.trim()) setTitle(chosen.name.replace(/\.[^.]*$/, "").slice(0, 200));
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
    disabled=${!file}
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
    <div class="bar">
      <span class="muted small">
        ${file ? bytes(file.size) : "No video?"}
      </span>
      ${
        !file &&
        html`<button type="button" class="quiet" onClick=${takeSample}>
          Take a sample of 19 seconds
        </button>`
      }
    </div>
    ${field("Title", title, setTitle, { required: true, maxlength: 200, pattern: ".*\\S.*" })}
  <//>`;
}
