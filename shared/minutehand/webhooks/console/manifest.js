// Adds the page of webhooks to the console.

export default {
  name: "Webhooks",
  menu: "main", // next to jobs and schedules, not with the apps
  nav: [{ path: "/webhooks", label: "Webhooks", icon: "send" }],
  routes: [{ path: "/webhooks", load: () => import("./webhooks.js") }],
};
