// What stages.yml cannot hold as it is needed: a list joined by commas, a host without its scheme,
// the text of a file that osls would run instead of read.
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

/** As many as the stage says, else as many as it reserves, else what a new account has room for. */
async function atOnce(resolveVariable) {
  const named = await resolveVariable("param:workersAtOnce");
  if (named !== "") return String(named);
  return String((await resolveVariable("param:workerReservedConcurrency, null")) ?? 5);
}

module.exports = async ({ resolveVariable }) => ({
  corsOrigins: (await resolveVariable("param:corsOrigins")).join(","),
  workersAtOnce: await atOnce(resolveVariable),
  // may still be a placeholder, which is no URL
  supabaseHost: (await resolveVariable("param:supabaseUrl")).replace(/^https:\/\//, "").replace(/\/.*$/, ""),
  pages: readFileSync(join(__dirname, "pages.js"), "utf8"),
});
