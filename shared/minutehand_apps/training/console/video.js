// Video player of a training. When the signed URL of the video has expired, the player requests a
// new URL and continues.

import { html, Placeholder, useFetch, useRef } from "../../app.js";
import { trainings } from "./data.js";

/** Return the URL of a training's video, or null until the video has been checked. */
export const useVideo = (id) =>
  useFetch(async (signal) => (id ? trainings.video(id, signal) : null), [id]);

/**
 * Shows the frame of a training's video at a given time. A click plays the video from this time.
 */
export const Picture = ({ address, seconds, title, jump }) =>
  html`<button
    type="button"
    class="picture"
    aria-label=${`Play: ${title}`}
    onClick=${() => jump(seconds)}>
    <video
      src=${`${address}#t=${seconds}`}
      preload="metadata"
      muted
      playsinline
      tabindex="-1"
      aria-hidden="true"></video>
  </button>`;

/**
 * Print the procedure. Browsers do not print a frame of a video, so each frame is copied to a
 * canvas.
 */
export function printProcedure() {
  document.querySelectorAll(".picture canvas").forEach((canvas) => canvas.remove());
  for (const video of document.querySelectorAll(".picture video")) {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    video.after(canvas);
  }
  print();
}

export function Video({ of: found, title, handle, onTime }) {
  const element = useRef(null);
  const startAt = useRef(0); // time in the video at which to continue with a new URL
  const isPlaying = useRef(false);
  const renewed = useRef(0);
  handle.current = {
    jump: (seconds) => {
      startAt.current = seconds;
      if (!element.current) return;
      element.current.currentTime = seconds;
      element.current.play().catch(() => {}); // a browser may require a click on the video
      element.current.scrollIntoView({ block: "nearest" });
    },
  };
  const expired = () => {
    if (Date.now() - renewed.current < 10_000) return; // the new URL has not expired
    renewed.current = Date.now();
    startAt.current = element.current?.currentTime || startAt.current;
    isPlaying.current = element.current?.paused === false;
    found.refresh();
  };
  const loaded = () => {
    if (startAt.current > 0 && element.current.currentTime === 0)
      element.current.currentTime = startAt.current;
    if (isPlaying.current) element.current.play().catch(() => {});
    isPlaying.current = false;
  };
  return html`<section class="card player" aria-label="Video">
    ${
      found.value
        ? html`
          <video
            ref=${element}
            src=${found.value.url}
            controls
            preload="metadata"
            playsinline
            aria-label=${`Video: ${title}`}
            onError=${expired}
            onLoadedMetadata=${loaded}
            onTimeUpdate=${({ target }) => onTime(target.currentTime)}></video>
          ${
            found.value.host === "mux" &&
            html`<p class="muted small wrap">
              At the video host as <code>${found.value.playback_id}</code>. Its players need a
              signed URL.
            </p>`
          }
        `
        : html`<${Placeholder} of=${found} what="the video" />`
    }
  </section>`;
}
