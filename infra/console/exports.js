// Exports the functions and components that the pages of apps import from `app.js`.

export * from "./api.js";
export * from "./lib/format.js";
export * from "./lib/jobs/ended.js";
export * from "./lib/jobs/hooks.js";
export * from "./lib/router.js";
export * from "./lib/states.js";
export * from "./lib/store.js";
export * from "./lib/styles.js";
export * from "./lib/ui.js";
export * from "./parts/badge.js";
export * from "./parts/copy.js";
export * from "./parts/csv.js";
export * from "./parts/dialog.js";
export * from "./parts/field.js";
export * from "./parts/icons.js";
export * from "./parts/live.js";
export * from "./parts/markdown.js";
export * from "./parts/not-found.js";
export * from "./parts/question.js";
export * from "./parts/resource.js";
export * from "./parts/search.js";
export * from "./parts/share.js";
export * from "./parts/states-of-view.js";
export * from "./parts/table.js";
export * from "./parts/toasts.js";
export * from "./parts/when.js";
export { default as NotFound } from "./parts/not-found.js";
