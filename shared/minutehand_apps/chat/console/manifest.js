// The chat app's pages in the console: sessions, and the background work that messages become.

export default {
  name: "Chat",
  nav: [{ path: "/chat", label: "Chat", icon: "speech" }],
  routes: [
    { path: "/chat", load: () => import("./conversations.js") },
    { path: "/chat/session", load: () => import("./chat-page.js") },
  ],
  guestPages: [{ path: "/guest/chat", load: () => import("./chat-page.js") }],
};
