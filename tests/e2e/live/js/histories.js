// Many clients on one page, each with its own history of sign-ins, views and network. The script
// replaces the console's program. The test calls `histories`. Violations are recorded in `wrong`.
const { supabase, preact, preactHooks } = globalThis;
const { setSchema, watchJob, watchJobs } = await import("/lib/jobs.js");
const { createHooks } = await import("/lib/jobs/hooks.js");
await import("/lib/element.js");

const LOOK_MS = 20;
const AUTH_MS = 8000; // timeout of Auth calls
const RUBBISH = "no-such-token";
const until = async (isSo, what) => {
  const end = performance.now() + 90_000;
  while (!(await isSo())) {
    if (performance.now() > end) throw new Error(`in vain: ${what()}`);
    await new Promise((then) => setTimeout(then, LOOK_MS));
  }
};

/** Create a WebSocket class that records messages and calls `joins` with each requested topic. */
function listening(sockets, frames, joins) {
  return class extends WebSocket {
    constructor(...values) {
      super(...values);
      sockets.push(this);
      this.addEventListener("message", ({ data }) =>
        frames.push(typeof data === "string" ? data : new TextDecoder().decode(data)),
      );
    }

    send(data) {
      if (typeof data === "string" && data.includes('"phx_join"')) joins(JSON.parse(data)[2]);
      super.send(data);
    }
  };
}

class History {
  wrong = [];
  #client;
  #storage = new Map();
  #people; // ids by name
  #jobs; // owner, workspace and readers by subject
  #said = {}; // number of characters in the database by subject
  #saidAtJoin = {}; // the same number when the topic was last joined
  #may = new Set([null]); // people who may be the current user, or null for no one
  #shown = new Map(); // mounted views by name: {kind, subject, state(), unmount(), events, ends}
  #place = document.createElement("section");
  #frames = [];
  #sockets = [];
  #done = Promise.resolve();

  constructor({ name, url, key, people, jobs }) {
    this.#people = people;
    this.#jobs = jobs;
    const fetched = (address, init) =>
      String(address).includes("/auth/") && !init?.signal
        ? fetch(address, { ...init, signal: AbortSignal.timeout(AUTH_MS) })
        : fetch(address, init);
    const storage = {
      getItem: (item) => this.#storage.get(item) ?? null,
      setItem: (item, value) => void this.#storage.set(item, value),
      removeItem: (item) => void this.#storage.delete(item),
    };
    this.#client = supabase.createClient(url, key, {
      auth: { storage, storageKey: name, detectSessionInUrl: false },
      global: { fetch: fetched },
      realtime: {
        transport: listening(this.#sockets, this.#frames, (topic) => this.#joins(topic)),
        disconnectOnEmptyChannelsAfterMs: 1000,
      },
    });
    setSchema(this.#client, "public");
    // before every watch, so that the user is known when the listeners of watches are called
    this.#client.auth.onAuthStateChange((event, session) => {
      if (event !== "INITIAL_SESSION") this.#becomes(session?.user.id ?? null);
    });
    document.body.append(this.#place);
  }

  #becomes(user) {
    const may = (this.#may = new Set([user]));
    // earlier renders disappear within the next frames
    setTimeout(() => {
      if (may !== this.#may) return;
      this.#mayBe(this.#place.textContent, "what stays on the page");
      for (const [name, one] of this.#shown) this.#mayBe(one.state(), `what stays in ${name}`);
    }, 150);
  }

  /** Check that a value has no jobs of others, and that `mine` has only the user's own. */
  #mayBe(value, where, kind) {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    for (const [subject, { secret, owner, seen }] of Object.entries(this.#jobs)) {
      const may = kind === "mine" ? [owner] : seen;
      if (text.includes(secret) && !may.some((name) => this.#may.has(this.#people[name])))
        this.wrong.push(`${where} has ${subject} for ${[...this.#may]}: ${text.slice(0, 300)}`);
    }
  }

  /** Set the number of characters of a subject in the database. */
  said(subject, length) {
    this.#said[subject] = length;
  }

  #joins(topic) {
    for (const [subject, { id }] of Object.entries(this.#jobs))
      if (topic === `realtime:job:${id}`) this.#saidAtJoin[subject] = this.#said[subject];
  }

  /** Check that a live view has all output from before its join and its mount. */
  #isCurrent({ freshness, job, output }, { subject, saidAtMount = 0 }, name) {
    if (freshness !== "live" || !job || !output) return;
    const least = Math.max(this.#saidAtJoin[subject] ?? 0, saidAtMount);
    const has = output.reply?.length ?? 0;
    if (has < least) this.wrong.push(`${name} is live with ${has} of ${least} characters`);
  }

  // Changes of user run in the order of the calls, and `rest` waits for them.

  #then(act) {
    this.#done = this.#done.then(act).catch((error) => ({ error })); // a network may be away
  }

  in(name, email, password) {
    this.#then(() => {
      this.#may = new Set([...this.#may, this.#people[name]]);
      return this.#client.auth.signInWithPassword({ email, password });
    });
  }

  out() {
    this.#then(() => this.#client.auth.signOut({ scope: "local" }));
  }

  renew() {
    this.#then(() => this.#client.auth.refreshSession());
  }

  /** End the session by a renewal that Auth rejects. */
  refused() {
    this.#then(() => this.#client.auth.refreshSession({ refresh_token: RUBBISH }));
  }

  /** Expire the stored token, as after a night, so that it is renewed before its next use. */
  expired(token) {
    for (const [key, value] of this.#storage) {
      const session = JSON.parse(value);
      if (!session.access_token) continue;
      const old = { access_token: token ?? session.access_token, expires_at: 1, expires_in: 0 };
      this.#storage.set(key, JSON.stringify({ ...session, ...old }));
    }
  }

  // Views.

  mount(name, kind, subject) {
    const { id, workspace_id } = this.#jobs[subject];
    const saidAtMount = this.#said[subject];
    const one = { kind, subject, saidAtMount, events: [], ends: [], gone: 0 };
    const seen = (value, what) => {
      this.#mayBe(value, `${what} of ${name}`, kind);
      this.#isCurrent(value, one, name);
    };
    const options = {
      onEvent: (event) => {
        seen(event, "an event");
        if (event.job_id === id) one.events.push(event.seq);
      },
      onEnd: (job) => {
        seen(job, "an end");
        if (job.id === id) one.ends.push(job.status);
      },
      onChange: (state) => seen(state, "the state"),
      onPiece: (piece) => seen(piece, "a piece"),
      onOutput: (output) => seen(output, "the words"),
    };
    const place = document.createElement("div");
    this.#place.append(place);
    new MutationObserver(() => seen(place.textContent, "the page")).observe(place, {
      subtree: true,
      childList: true,
      characterData: true,
    });
    const { h, render } = preact;
    if (kind === "job") one.watch = watchJob(this.#client, id, { after: 0, ...options });
    else if (kind === "list" || kind === "mine") {
      const filter = { workspace_id, ...(kind === "mine" ? { mine: true } : {}) };
      one.watch = watchJobs(this.#client, filter, { limit: 5, ...options });
    } else if (kind === "element") {
      const element = Object.assign(document.createElement("minutehand-job"), {
        client: this.#client,
      });
      element.setAttribute("job-id", id);
      element.setAttribute("schema", "public");
      element.addEventListener("jobend", ({ detail }) => options.onEnd(detail.job));
      element.addEventListener("jobchange", ({ detail }) => seen(detail, "a change"));
      place.append(element);
      one.state = () => ({
        job: element.job,
        text: element.textContent,
        freshness: element.querySelector(".state").dataset.freshness,
      });
    } else {
      const { useJob, useJobs } = createHooks(preactHooks, this.#client, { schema: "public" });
      one.state = () => one.rendered ?? {};
      const Shown = () => {
        const state =
          kind === "useJob"
            ? useJob(id, { history: true, ...options })
            : useJobs({ workspace_id }, { limit: 5, onEnd: options.onEnd });
        seen(state, "a render");
        one.rendered = state;
        return h("p", {}, JSON.stringify(state.job ?? state.jobs));
      };
      render(h(Shown), place);
    }
    one.state ??= () => one.watch.state;
    one.unmount = () => {
      one.watch?.close();
      render(null, place);
      place.remove();
    };
    one.watch?.ended?.catch(() => (one.gone += 1));
    this.#shown.set(name, one);
  }

  unmount(name) {
    this.#shown.get(name)?.unmount();
    this.#shown.delete(name);
  }

  // Checks at the end.

  /** Sign in, and repeat until it succeeds. */
  async surely(name, email, password) {
    await this.#done;
    let said;
    await until(
      async () => {
        this.in(name, email, password);
        said = await this.#done;
        return said?.data?.user;
      },
      () => `${name} cannot sign in: ${said?.error}`,
    );
  }

  get #connection() {
    const { realtime } = this.#client;
    const channels = realtime.getChannels().map(({ topic, state }) => `${topic} ${state}`);
    return [realtime.connectionState(), ...channels];
  }

  /** Wait until the started changes of user are done. */
  async rest() {
    await this.#done;
  }

  /** Wait until each view shows all of `truth` that its reader may see. Returns the time. */
  async settled(reader, truth) {
    const began = performance.now();
    const lacks = () =>
      [...this.#shown].map(([name, one]) => [name, this.#lack(one, reader, truth)]);
    const left = () => lacks().filter(([, lack]) => lack);
    await until(
      () => left().length === 0,
      () => JSON.stringify([reader, left(), this.#connection]),
    );
    for (const [name, { kind, events, ends }] of this.#shown) {
      if ((kind === "job" || kind === "useJob") && events.some((seq, n) => seq !== n + 1))
        this.wrong.push(`${name} had ${events}`);
      if (ends.length > 1) this.wrong.push(`${name} ended ${ends.length} times`);
    }
    return performance.now() - began;
  }

  /** Describe how a view differs from the truth, or return nothing. */
  #lack({ kind, subject, state, events, ends }, reader, truth) {
    const now = state();
    const { id, seen, workspace_id } = this.#jobs[subject];
    const { last_seq, words, status, result, rows } = truth[subject];
    const jobs = now.jobs?.map((row) => `${row.id} ${row.status}`);
    const shown = jobs ?? now.job ?? null;
    if (!seen.includes(reader)) {
      // without a user, a list has a problem, and a job has a problem or is missing
      const isSaid = kind === "element" || now.missing || now.problem;
      return isSaid && (shown === null || jobs?.length === 0) ? "" : JSON.stringify(now);
    }
    if (now.freshness !== "live") return `it is ${now.freshness}, ${now.problem?.message}`;
    if (jobs) {
      const isMine = kind === "mine";
      const wanted = rows
        .filter((row) => row.workspace_id === workspace_id && (!isMine || row.user === reader))
        .slice(0, 5)
        .map((row) => `${row.id} ${row.status}`);
      return String(wanted) === String(jobs) ? "" : `${jobs} instead of ${wanted}`;
    }
    if (shown?.last_seq !== last_seq || shown?.status !== status)
      return `${shown?.status} ${shown?.last_seq} instead of ${status} ${last_seq}`;
    if (JSON.stringify(shown.result ?? null) !== JSON.stringify(result)) return "no result";
    if (kind === "element") return now.text.includes(words) ? "" : `${now.text} without ${words}`;
    if ((now.output.reply ?? "") !== words) return `${now.output.reply} instead of ${words}`;
    const all = Array.from({ length: last_seq }, (_, n) => n + 1);
    if (kind === "useJob" && String(now.events.map(({ seq }) => seq)) !== String(all))
      return `a history of ${now.events.map(({ seq }) => seq)} of ${last_seq}`;
    if (String(events) !== String(all)) return `events ${events} of ${last_seq} of ${id}`;
    return status === "completed" && ends.length === 0 ? "no end" : "";
  }

  /** Wait until no topic is joined and the server has registered that. */
  async quiet() {
    await until(
      () => this.#client.getChannels().every(({ state }) => state !== "joined"),
      () => `it is joined: ${this.#connection}`,
    );
    await this.#answered();
    this.#frames.length = 0;
  }

  /** Wait for a reply of the server, so that all its earlier messages have arrived. */
  async #answered() {
    const { realtime } = this.#client;
    if (realtime.isConnected() && !realtime.pendingHeartbeatRef) realtime.sendHeartbeat();
    const isWaiting = () => realtime.isConnected() && realtime.pendingHeartbeatRef;
    await until(
      () => !isWaiting(),
      () => "no heartbeat is answered",
    );
  }

  /** Check that no message since `quiet` arrived here. */
  async stayedQuiet() {
    await this.#answered();
    for (const frame of this.#frames)
      for (const { id, secret } of Object.values(this.#jobs))
        if (frame.includes(secret) || (frame.includes(id) && !frame.includes("phx_reply")))
          this.wrong.push(`a frame for no one: ${frame.slice(0, 300)}`);
  }

  /** Unmount everything, and wait until nothing of it is left. */
  async close() {
    for (const name of [...this.#shown.keys()]) this.unmount(name);
    // a closing channel may get no reply
    const open = () => this.#sockets.filter(({ readyState }) => readyState <= WebSocket.OPEN);
    const channels = () => this.#client.getChannels().map(({ topic }) => topic);
    await until(
      () => channels().length === 0 && open().length === 0,
      () => `${channels()} and ${open().length} sockets`,
    );
    this.#client.auth.stopAutoRefresh();
    this.#place.remove();
  }
}

const all = [];
globalThis.histories = {
  open: (each) => each.forEach((values) => all.push(new History(values))),
  call: (n, name, ...values) => all[n][name](...values),
  wrong: () => all.flatMap(({ wrong }, n) => wrong.map((what) => `${n}: ${what}`)),
  /** Advance the clock without running timers, as after a sleep. */
  skip(ms) {
    const { now } = Date;
    Date.now = () => now() + ms;
  },
};
document.body.innerHTML = "<main><h1>Histories</h1></main>";
