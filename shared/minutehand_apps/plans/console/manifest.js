// The pages of plans in the console: prompts, and the plan of each while it is made.

export default {
  name: "Plans",
  nav: [{ path: "/plans", label: "Plans", icon: "steps" }],
  routes: [
    { path: "/plans", load: () => import("./plans.js") },
    { path: "/plans/:id", load: () => import("./plan.js") },
  ],
};
