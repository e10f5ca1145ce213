// Follows a database server across restarts. While the server is unavailable, every call fails at
// once. After the server has returned, a new Data API is created, so that no old connection is
// used.

import { setTimeout as sleep } from "node:timers/promises";
import postgres from "postgres";
import { openDataApi } from "./data_api.mjs";
import { settings } from "./settings.mjs";

const RETRY_MS = 200;

export class Database {
  #api = null;
  // store a separate rejection for each running call, because a promise that all calls share would
  // keep every response in memory
  #asked = new Set();
  #isStale = false; // whether the schema has changed since it was read
  #reloading = false;

  get isUp() {
    return this.#api !== null;
  }

  // Keep serving the database when its server restarts. Never returns.
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
    // A separate connection without queries, which ends only when the server dies.
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
      this.#isStale = false;
      const api = await openDataApi();
      this.#api = api;
      if (this.#isStale) this.#reload();
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

  // Read the schema again after a change. A notification of a schema change is sent only once, so
  // retry the read until it succeeds or the database is unavailable.
  async #reload() {
    this.#isStale = true;
    if (this.#reloading) return;
    this.#reloading = true;
    while (this.#isStale && this.#api) {
      this.#isStale = false;
      try {
        await this.#api.reload();
      } catch (error) {
        console.error(`the schema could not be read again: ${error.message}`);
        this.#isStale = true;
        await sleep(RETRY_MS);
      }
    }
    this.#reloading = false;
  }

  // Respond to a request. Return 503 if the database is unavailable or becomes unavailable.
  async fetch(request) {
    if (!this.#api) return unavailable("the database is not connected");
    const { promise: refused, reject: refuse } = Promise.withResolvers();
    const late = new DatabaseAway("the database did not respond in time");
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
  // Error that PostgREST returns for an unavailable database.
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
