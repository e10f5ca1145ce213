// Adds the pages of the beacon app to the console.

export default {
  name: "Beacon",
  nav: [{ path: "/benchmarks", label: "Benchmarks", icon: "gauge" }],
  routes: [
    { path: "/benchmarks", load: () => import("./benchmarks.js") },
    { path: "/benchmarks/:id", load: () => import("./job-page.js") },
    { path: "/benchmarks/:id/receipts/:receipt", load: () => import("./receipts.js") },
  ],
};
