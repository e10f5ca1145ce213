// The enrichment app's pages in the console: accounts, contacts, imports, API settings.

/** @import { Workspace } from "../../api.js" */

/**
 * What the app adds to the "Break it" panel; loaded with its first use.
 *
 * @param {keyof typeof import("./breaking.js")} name
 */
const acting = (name) => async (/** @type {Workspace} */ workspace) =>
  (await import("./breaking.js"))[name](workspace);

export default {
  name: "Enrichment",
  nav: [
    { path: "/accounts", label: "Accounts", icon: "building" },
    { path: "/contacts", label: "Contacts", icon: "person" },
    { path: "/workspace/settings/api", label: "API settings", icon: "key" },
  ],
  routes: [
    { path: "/accounts", load: () => import("./accounts.js") },
    { path: "/accounts/import/:id", load: () => import("./import-page.js") },
    { path: "/accounts/:id", load: () => import("./account.js") },
    { path: "/contacts", load: () => import("./contacts.js") },
    { path: "/workspace/settings/api", load: () => import("./settings.js") },
  ],
  breakIt: [
    {
      label: "Enrich every account",
      promise: "Work to break: one job per account, a second each.",
      run: acting("giveWork"),
      isSafe: true,
    },
    {
      label: "Make Apollo refuse the key",
      promise: "Jobs fail at once with the vendor's reason; the failed jobs wait for a retry.",
      run: acting("refuseKey"),
    },
    {
      label: "Give Apollo a working key",
      promise: "Retry the failed jobs after it.",
      run: acting("acceptKey"),
      isSafe: true,
    },
  ],
};
