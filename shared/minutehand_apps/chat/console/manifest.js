// Adds the pages of the chat app to the console.

export default {
  name: "Chat",
  nav: [{ path: "/chat", label: "Chat", icon: "speech" }],
  routes: [
    { path: "/chat", load: () => import("./sessions.js") },
    { path: "/chat/session", load: () => import("./conversation.js") },
  ],
};
