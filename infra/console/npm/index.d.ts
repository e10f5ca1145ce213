// The package's types: what its modules declare, the rows they carry, the database they call.

export * from "./jobs.js";
export * from "./jobs/types.js";
