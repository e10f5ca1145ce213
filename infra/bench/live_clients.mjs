// Holds N official supabase-js clients on one private topic and times every broadcast they get.
// The first `warmUp` messages are not timed: they measure the compiler.
// Prints {"ready":N} when all are subscribed and {"count","p50","p99","max"} (ms) at the end.
import { createClient } from "@supabase/supabase-js";

const [url, key, topic, count, expected, warmUp] = process.argv.slice(2);
const delays = [];
const now = () => performance.timeOrigin + performance.now();
const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const options = { auth: { persistSession: false, autoRefreshToken: false } };

const { promise: done, resolve: finish } = Promise.withResolvers();
const total = Number(count) * Number(expected);
let received = 0;
const receive = (at, message) => {
  if (message.payload.n >= Number(warmUp)) delays.push(at - message.payload.t);
  if (++received === total) finish();
};

await Promise.all(
  Array.from({ length: Number(count) }, () => {
    const channel = createClient(url, key, options).channel(topic, { config: { private: true } });
    channel.on("broadcast", { event: "*" }, (message) => receive(now(), message));
    return new Promise((resolve, reject) =>
      channel.subscribe((status, error) => (status === "SUBSCRIBED" ? resolve() : reject(error))),
    );
  }),
);
print({ ready: Number(count) });
await done;
delays.sort((a, b) => a - b);
const at = (share) => delays[Math.min(delays.length - 1, Math.floor(delays.length * share))];
print({ count: delays.length, p50: at(0.5), p99: at(0.99), max: at(1) });
process.exit(0);
