// The webhooks of a workspace in the console.

export default {
  name: "Webhooks",
  menu: "main", // beside jobs and schedules, for those who look after them
  nav: [{ path: "/webhooks", label: "Webhooks", icon: "send" }],
  routes: [{ path: "/webhooks", load: () => import("./webhooks.js") }],
};
