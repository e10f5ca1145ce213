// The beacon app's pages in the console: benchmark specs, their runs, and signed receipts.

export default {
  name: "Beacon",
  nav: [{ path: "/benchmarks", label: "Benchmarks", icon: "gauge" }],
  routes: [
    { path: "/benchmarks", load: () => import("./benchmarks.js") },
    { path: "/benchmarks/:id", load: () => import("./run-page.js") },
  ],
};
