// Follows one database through its deaths: while it is unavailable every call is refused at once,
// and each return gets a Data API of its own, so that no earlier connection is used again.

import { setTimeout as sleep } from "node:timers/promises";
import postgres from "postgres";
import { openDataApi } from "./data_api.mjs";
import { settings } from "./settings.mjs";

const RETRY_MS = 200;

export class Database {
  #api = null;
  #asked = new Set(); // refuses each call under way; one promise for all would keep every answer
  #schema = 0; // counts the schema changes we were notified of
  #reloading = false;

  get isUp() {
    return this.#api !== null;
  }

  // Serve one life of the database after the other; never returns.
  async follow() {
    for (let silent = false; ; silent = true) {
      try {
        await this.#live();
        silent = false;
      } catch (error) {
        if (!silent) console.error(`waiting for the database: ${error.message || error.code}`);
      }
      await sleep(RETRY_MS);
    }
  }

  async #live() {
    const end = Promise.withResolvers();
    // an idle connection of its own: its end is how the server's death is noticed
    const watch = postgres(settings.databaseUrl, {
      max: 1,
      idle_timeout: null,
      max_lifetime: null,
      connect_timeout: 5,
      connection: { application_name: "gateway_watch" },
      onnotice: () => {},
      onnotify: (channel) => channel === "pgrst" && this.#reload(),
      onclose: () => end.resolve(),
    });
    try {
      await watch`listen pgrst`;
      const api = await this.#open();
      this.#api = api;
      console.log("database connected");
      await end.promise;
      console.error("the connection to the database was lost");
    } finally {
      const api = this.#api;
      this.#api = null;
      const lost = new DatabaseAway("the connection to the database was lost");
      for (const refuse of this.#asked) refuse(lost);
      const ended = [api?.close(0), watch.end({ timeout: 0 })];
      await Promise.race([Promise.allSettled(ended), sleep(1000)]);
    }
  }

  // A Data API whose introspection began after the last schema change we were notified of.
  async #open() {
    for (;;) {
      const seen = this.#schema;
      const api = await openDataApi();
      if (seen === this.#schema) return api;
      await api.close(0);
    }
  }

  // A new one takes over: clearing the old one's cache would race with an introspection under way.
  async #reload() {
    this.#schema += 1;
    if (this.#reloading || !this.#api) return; // a caller that is opening one checks again
    this.#reloading = true;
    // a notification comes only once: tried until it succeeds, or the database is unavailable
    while (this.#api && !(await this.#replace())) await sleep(RETRY_MS);
    this.#reloading = false;
  }

  async #replace() {
    try {
      const fresh = await this.#open();
      const old = this.#api;
      this.#api = old && fresh;
      // later: a call that has not reached the database yet would wait for a closed connection
      setTimeout(() => (old ?? fresh).close(60).catch(() => {}), 2000).unref();
      return true;
    } catch (error) {
      console.error(`the schema could not be read again: ${error.message}`);
      return false;
    }
  }

  // Answer a request, or 503 at once when the database is unavailable or goes away meanwhile.
  async fetch(request) {
    if (!this.#api) return unavailable("the database is not connected");
    const { promise: refused, reject: refuse } = Promise.withResolvers();
    const late = new DatabaseAway("the database did not answer in time");
    const timer = setTimeout(() => refuse(late), settings.requestTimeoutMs);
    this.#asked.add(refuse);
    try {
      return await Promise.race([this.#api.fetch(request), refused]);
    } catch (error) {
      if (error instanceof DatabaseAway) return unavailable(error.message);
      throw error;
    } finally {
      clearTimeout(timer);
      this.#asked.delete(refuse);
    }
  }
}

class DatabaseAway extends Error {}

function unavailable(details) {
  // PostgREST's own words for it
  const body = {
    code: "PGRST001",
    message: "Database client error. Retrying the connection.",
    details,
    hint: null,
  };
  return Response.json(body, {
    status: 503,
    headers: { "Retry-After": "1", "Access-Control-Allow-Origin": "*" },
  });
}
