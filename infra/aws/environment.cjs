// What stages.yml cannot hold as it is needed: a list joined by commas, a host without its scheme,
// the text of a file that osls would run instead of read.
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

module.exports = async ({ resolveVariable }) => ({
  corsOrigins: (await resolveVariable("param:corsOrigins")).join(","),
  // may still be a placeholder, which is no URL
  supabaseHost: (await resolveVariable("param:supabaseUrl")).replace(/^https:\/\//, "").replace(/\/.*$/, ""),
  pages: readFileSync(join(__dirname, "pages.js"), "utf8"),
});
