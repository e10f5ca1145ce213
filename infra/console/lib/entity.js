// The events of an entity that has a stream (see queue.make_stream), live.

import { supabase } from "../api.js";

const POLL_MS = 2_000;
const SAFETY_MS = 30_000;

/**
 * Follow an entity: its events from the first one on, in order, without gaps.
 *
 * Realtime says that there are updates; the events after the last `seq` are read. While the topic
 * cannot be joined, they are polled.
 *
 * @template {{seq: number}} E
 * @param {{name: string, id: string, topic: string, read: (after: number) => Promise<{events: E[], more: boolean} | null>}} entity
 *   `name` as declared, such as `plan`; `read` has the stream's page as JSON.
 * @param {{onEvents: (events: E[]) => void, onFreshness: (value: string) => void, onGone: () => void}} on
 */
export function watchEntity(
  { name, id, topic, read: readAfter },
  { onEvents, onFreshness, onGone },
) {
  const client = supabase();
  let after = 0;
  let closed = false;
  let reading = false;
  let again = false;
  let joined = false;
  let held = false; // messages are held back to stay within Realtime's plan, until a read finds no more
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const schedule = (/** @type {number} */ wait) => {
    clearTimeout(timer);
    if (!closed) timer = setTimeout(read, wait);
  };
  async function read() {
    if (reading) {
      again = true;
      return;
    }
    reading = true;
    try {
      let page;
      let isNews = false;
      do {
        again = false;
        page = await readAfter(after);
        if (closed) return;
        if (!page) break; // 204: it has ended, and all was read
        if (page.events.length > 0) {
          isNews = true;
          after = page.events[page.events.length - 1].seq;
          onEvents(page.events);
        }
      } while (page?.more || again);
      held &&= isNews;
      if (held) onFreshness("catching-up");
      else onFreshness(joined ? "live" : "polling");
    } catch (error) {
      if (closed) return;
      if (error.status === 404) {
        close();
        onGone();
        return;
      }
      onFreshness("polling");
    } finally {
      reading = false;
    }
    schedule(joined && !held ? SAFETY_MS : POLL_MS);
  }
  const channel = client.channel(topic, { config: { private: true } });
  const onMessage = (/** @type {{event: string, payload?: any}} */ { event, payload }) => {
    if (payload?.look_again === true) {
      held = true;
      onFreshness("catching-up");
    }
    if (event !== `${name}_deleted`) schedule(100);
    else if (payload[`${name}_id`] === id) {
      close();
      onGone();
    } // to read on would be a 404
  };
  channel.on("broadcast", { event: "*" }, onMessage).subscribe((status) => {
    joined = status === "SUBSCRIBED";
    schedule(0); // what came before the join came over no channel
  });
  const close = () => {
    closed = true;
    clearTimeout(timer);
    client.removeChannel(channel);
  };
  schedule(0);
  return { close };
}
