// Drives unmodified supabase-js clients by JSON lines: {id, op, …} in, {id, result|error} and
// {notify, …} out. One process may hold several clients; tests name clients and channels.
import readline from "node:readline";
import { createClient } from "@supabase/supabase-js";

const clients = new Map();
const channels = new Map();

const write = (line) => process.stdout.write(JSON.stringify(line) + "\n");
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
      channel.on(type, filter, (got) => write({ notify: type, channel: name, got }));
    }
    return new Promise((resolve) => {
      channel.subscribe((status, error) => {
        write({ notify: "status", channel: name, status, error: error?.message ?? null });
        resolve({ status, error: error?.message ?? null });
      }, timeout);
    });
  },

  send({ channel, event, payload }) {
    return channels.get(channel).channel.send({ type: "broadcast", event, payload });
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
