// Converts parameters of stages.yml. It joins lists with commas, removes the scheme of a host, and
// returns the text of a file that osls would otherwise execute.
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

/** As many as the stage says, else as many as it reserves, else what a new account allows. */
async function atOnce(resolveVariable) {
  const named = await resolveVariable("param:workersAtOnce");
  if (named !== "") return String(named);
  return String((await resolveVariable("param:workerReservedConcurrency, null")) ?? 5);
}

/** Return a level as Lambda names it. deploy/stage_values.py checks the level of a stage. */
async function level(resolveVariable) {
  const named = String(await resolveVariable("param:logLevel")).toUpperCase();
  return { TRACE: "DEBUG", WARN: "WARNING", FATAL: "CRITICAL" }[named] ?? named;
}

module.exports = async ({ resolveVariable }) => ({
  corsOrigins: (await resolveVariable("param:corsOrigins")).join(","),
  logLevel: await level(resolveVariable),
  // metrics have no level and count as INFO, so that a filter above INFO would stop alarms
  applicationLogLevel: (await level(resolveVariable)) === "DEBUG" ? "DEBUG" : "INFO",
  workersAtOnce: await atOnce(resolveVariable),
  // the value may still be a placeholder, which is not a URL
  supabaseHost: (await resolveVariable("param:supabaseUrl"))
    .replace(/^https:\/\//, "")
    .replace(/\/.*$/, ""),
  pages: readFileSync(join(__dirname, "pages.js"), "utf8"),
});
