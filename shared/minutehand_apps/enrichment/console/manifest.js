// Adds the pages of the enrichment app to the console.

export default {
  name: "Enrichment",
  nav: [
    { path: "/accounts", label: "Accounts", icon: "building" },
    { path: "/contacts", label: "Contacts", icon: "person" },
    { path: "/workspace/settings/api", label: "API settings", icon: "key" },
  ],
  routes: [
    { path: "/accounts", load: () => import("./accounts.js") },
    { path: "/accounts/:id", load: () => import("./account.js") },
    { path: "/contacts", load: () => import("./contacts.js") },
    { path: "/workspace/settings/api", load: () => import("./settings.js") },
  ],
};
