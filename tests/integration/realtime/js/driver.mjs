// Drives unmodified supabase-js clients by JSON lines: {id, op, …} in, {id, result|error} and
// {notify, …} out. One process may hold several clients; tests name clients and channels.
import readline from "node:readline";
import { createClient } from "@supabase/supabase-js";

const clients = new Map();
const channels = new Map();

const write = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const bytes = (base64) => Uint8Array.from(Buffer.from(base64, "base64")).buffer;

// what a callback got, with bytes made visible to JSON
const show = (value) => {
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
    return { base64: Buffer.from(value.buffer ?? value).toString("base64") };
  }
  if (value && typeof value === "object" && "payload" in value) {
    return { ...value, payload: show(value.payload) };
  }
  return value;
};

const operations = {
  client({ name, url, key, token, realtime = {} }) {
    const options = { auth: { persistSession: false, autoRefreshToken: false }, realtime };
    if (token) options.accessToken = async () => token;
    clients.set(name, createClient(url, key, options));
  },

  subscribe({ client, channel: name, topic, config = {}, on = [], timeout }) {
    const channel = clients.get(client).channel(topic, { config });
    channels.set(name, { client, channel });
    for (const { type, ...filter } of on) {
      channel.on(type, filter, (got) => write({ notify: type, channel: name, got: show(got) }));
    }
    return new Promise((resolve) => {
      channel.subscribe((status, error) => {
        write({ notify: "status", channel: name, status, error: error?.message ?? null });
        resolve({ status, error: error?.message ?? null });
      }, timeout);
    });
  },

  // a channel that is never subscribed
  open({ client, channel: name, topic, config = {} }) {
    channels.set(name, { client, channel: clients.get(client).channel(topic, { config }) });
  },

  send({ channel, event, payload, base64, timeout }) {
    const body = base64 === undefined ? payload : bytes(base64);
    const message = { type: "broadcast", event, payload: body };
    return channels.get(channel).channel.send(message, timeout ? { timeout } : {});
  },

  httpSend: ({ channel, event, payload }) => channels.get(channel).channel.httpSend(event, payload),
  track: ({ channel, payload }) => channels.get(channel).channel.track(payload),
  presence: ({ channel }) => channels.get(channel).channel.presenceState(),
  state: ({ channel }) => channels.get(channel).channel.state,
  setAuth: ({ client, token }) => clients.get(client).realtime.setAuth(token),

  remove({ channel: name }) {
    const { client, channel } = channels.get(name);
    return clients.get(client).removeChannel(channel);
  },
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { id, op, ...request } = JSON.parse(line);
  Promise.resolve()
    .then(() => operations[op](request))
    .then((result) => write({ id, result: result ?? null }))
    .catch((error) => write({ id, error: error?.message ?? String(error) }));
}
process.exit(0);
