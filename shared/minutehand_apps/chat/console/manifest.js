// The chat's pages in the console: sessions, and what is said and done in each.

export default {
  name: "Chat",
  nav: [{ path: "/chat", label: "Chat", icon: "speech" }],
  routes: [
    { path: "/chat", load: () => import("./sessions.js") },
    { path: "/chat/session", load: () => import("./conversation.js") },
  ],
};
