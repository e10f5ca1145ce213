// Adds the pages of the plans app to the console.

export default {
  name: "Plans",
  nav: [{ path: "/plans", label: "Plans", icon: "steps" }],
  routes: [
    { path: "/plans", load: () => import("./plans.js") },
    { path: "/plans/:id", load: () => import("./plan.js") },
  ],
};
