// What both elements share: a client, words, and following while they are in a page. All text of
// others is set by `textContent`; the look is a constructed sheet, which no policy has to allow.

import { STYLE, TEXTS } from "./element-look.js";

/** @import { JobsWatch } from "./watch-jobs.js" */
/** @import { Client } from "./types.js" */
/** @typedef {keyof typeof TEXTS} TextName */
/** @typedef {Partial<Record<TextName, string>>} Texts */
/** @typedef {string | null | (() => string | null | Promise<string | null>)} Token */
/** @typedef {{token?: Token, client: Promise<Client>}} Made */

/** @type {Map<string, Made>} */
const clients = new Map();
/** @type {CSSStyleSheet} */
let sheet;

/**
 * The page's one client of a project: with the last token given, else the session of supabase-js.
 *
 * @param {string} url
 * @param {string} key
 * @param {Token} [token]
 */
function clientOf(url, key, token) {
  const hasSession = token === undefined;
  const name = `${url} ${key} ${hasSession}`;
  let made = clients.get(name);
  if (!made) {
    clients.set(name, (made = /** @type {Made} */ ({})));
    made.client = createdFor(made, url, key, hasSession);
    made.client.catch(() => clients.delete(name));
  } else if (made.token !== token) made.client.then(({ realtime }) => realtime.setAuth());
  made.token = token;
  return made.client;
}

/** @type {(made: Made, url: string, key: string, hasSession: boolean) => Promise<Client>} */
async function createdFor(made, url, key, hasSession) {
  const { createClient } =
    /** @type {any} */ (globalThis).supabase ?? (await import("@supabase/supabase-js"));
  const accessToken = async () => (typeof made.token === "function" ? made.token() : made.token);
  return createClient(url, key, hasSession ? {} : { accessToken });
}

/**
 * An element; what it is given as text stays text.
 *
 * @param {string} tag
 * @param {Record<string, string>} [attributes]
 * @param {(Node | string)[]} children
 */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const name in attributes) made.setAttribute(name, attributes[name] ?? "");
  made.append(...children);
  return made;
}

/** @type {(node: HTMLElement, text?: string | null | false) => void} Without text it is hidden. */
export function put(node, text) {
  const next = text || "";
  if (node.textContent !== next) node.textContent = next;
  node.hidden = !text;
}

/** @type {Record<number, TextName>} */
const REFUSALS = { 401: "signed-out", 403: "forbidden", 404: "missing" };
const Base = /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? Object);

/** @type {(one: unknown[], other: unknown[]) => boolean} */
const isSame = (one, other) =>
  one.length === other.length && one.every((part, n) => part === other[n]);

export class FollowingElement extends Base {
  static observedAttributes = [
    ...["url", "key", "schema", "label", "compact"],
    ...Object.keys(TEXTS).map((name) => `text-${name}`),
  ];

  /** @type {Record<string, any>} What its properties were set to. */
  given = {};
  /** @type {Client | undefined} The one in use. */
  used;
  /** @type {JobsWatch | undefined} */
  watch;
  /** @type {unknown[]} */
  #subject = [];
  #isDue = false;
  #turn = 0;
  #unlisten = () => {};
  /** @type {Error | undefined} */
  #failure;

  /** @param {Node[]} content */
  constructor(...content) {
    super();
    if (!sheet) (sheet = new CSSStyleSheet()).replaceSync(STYLE);
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];
    root.append(...content);
  }

  // For subclasses ------------------------------------------------------------------------------

  /** @type {(client: Client, schema?: string) => JobsWatch} */
  follow(_client, _schema) {
    return /** @type {any} */ (null);
  }

  /** What is followed; null while there is nothing to follow. */
  get subject() {
    return /** @type {unknown[] | null} */ (null);
  }

  draw() {}

  /** @type {(name: TextName, at?: string | null) => string} */
  text(name, at) {
    const text = this.getAttribute(`text-${name}`) ?? this.given.texts?.[name] ?? TEXTS[name];
    return at ? text.replace("{at}", () => new Date(at).toLocaleString(this.language)) : text;
  }

  get language() {
    const near = /** @type {HTMLElement | null} */ (this.closest("[lang]"));
    return (near ?? document.documentElement).lang || undefined;
  }

  get schema() {
    return this.getAttribute("schema") ?? undefined;
  }

  /** What is known now. */
  get state() {
    return this.watch?.state ?? { jobs: [], isLoading: true, freshness: null, problem: null };
  }

  /** Why nothing can be read, in words; `isClosed` if what was shown before may not stay. */
  get refusal() {
    const problem = /** @type {any} */ (this.#failure ?? this.state.problem);
    const { status, code } = problem ?? {};
    /** @type {TextName | undefined} */
    const name = code === "22P02" ? "missing" : REFUSALS[status];
    // `freshness` says that the server does not answer
    const words = name ? this.text(name) : problem?.reachable === false ? null : problem?.message;
    return { words, isClosed: Boolean(name) };
  }

  // Public --------------------------------------------------------------------------------------

  /** Read now. */
  async refresh() {
    await this.watch?.refresh();
  }

  connectedCallback() {
    // what was set before the element was defined hides the accessors
    const self = /** @type {any} */ (this);
    for (const name of Object.keys(self)) {
      if (!(name in Object.getPrototypeOf(self))) continue;
      const value = self[name];
      delete self[name];
      self[name] = value;
    }
    this.changed();
  }

  disconnectedCallback() {
    this.changed();
  }

  attributeChangedCallback() {
    this.changed();
  }

  /** Look at it soon, after all that changes now, so that a move in the page costs nothing. */
  changed() {
    if (this.#isDue) return;
    this.#isDue = true;
    queueMicrotask(() => {
      this.#isDue = false;
      this.#update();
      if (this.isConnected) this.draw();
    });
  }

  #update() {
    const { client, token } = this.given;
    const url = this.getAttribute("url");
    const key = this.getAttribute("key");
    const source = client ? [client] : url && key ? [url, key, token === undefined] : null;
    const whole = this.isConnected && source && this.subject;
    const subject = whole ? [...source, this.schema, ...whole] : [];
    const found = whole ? (client ?? clientOf(url ?? "", key ?? "", token)) : null;
    if (isSame(subject, this.#subject)) return;
    this.#subject = subject;
    this.#begin(found);
  }

  /** @param {Client | Promise<Client> | null} found */
  async #begin(found) {
    const turn = ++this.#turn;
    this.watch?.close();
    this.watch = this.#failure = undefined;
    this.#unlisten();
    this.#unlisten = () => {};
    try {
      const client = found && (await found);
      if (!client || turn !== this.#turn) return;
      this.used = client;
      this.#unlisten = this.#listen(client);
      this.watch = this.follow(client, this.schema);
    } catch (error) {
      this.#failure = /** @type {Error} */ (error);
      this.draw();
    }
  }

  /** Another person signed in, or nobody is: nothing of what was shown may stay. */
  #listen(/** @type {any} */ client) {
    /** @type {string | null | undefined} */
    let who;
    try {
      const { data } = client.auth.onAuthStateChange(
        (/** @type {string} */ _, /** @type {any} */ session) => {
          const now = session?.user?.id ?? null;
          if (who !== undefined && who !== now) {
            this.#subject = [];
            this.changed();
          }
          who = now;
        },
      );
      return () => data.subscription.unsubscribe();
    } catch {
      return () => {}; // a client with an access token of its own has no sessions
    }
  }
}

/**
 * Define an element, once; each of its properties may be set before.
 *
 * @param {string} tag
 * @param {typeof FollowingElement} element
 * @param {string[]} properties
 */
export function define(tag, element, ...properties) {
  for (const name of properties)
    Object.defineProperty(element.prototype, name, {
      /** @this {FollowingElement} */
      get() {
        return this.given[name];
      },
      /** @this {FollowingElement} */
      set(value) {
        this.given[name] = value;
        this.changed();
      },
    });
  const { customElements: tags } = globalThis;
  if (tags && !tags.get(tag)) tags.define(tag, element);
}
