// The chat app's pages in the console.

export default {
  name: "Chat",
  nav: [{ path: "/chat", label: "Chat", icon: "speech" }],
  routes: [
    { path: "/chat", load: () => import("./sessions.js") },
    { path: "/chat/session", load: () => import("./conversation.js") },
  ],
};
