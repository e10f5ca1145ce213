// Adds the pages of the training app to the console.

export default {
  name: "Training",
  nav: [{ path: "/trainings", label: "Training", icon: "film" }],
  routes: [
    { path: "/trainings", load: () => import("./trainings.js") },
    { path: "/trainings/monitor", load: () => import("./monitor.js") },
    { path: "/trainings/:id", load: () => import("./training-page.js") },
  ],
};
