// The plans app's pages in the console: goals, and the plan of each while it is written.

export default {
  name: "Plans",
  nav: [{ path: "/plans", label: "Plans", icon: "steps" }],
  routes: [
    { path: "/plans", load: () => import("./plans.js") },
    { path: "/plans/:id", load: () => import("./plan-page.js") },
  ],
};
