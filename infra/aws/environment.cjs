// What an environment variable cannot hold as it stands in stages.yml: a list, joined by commas.
module.exports = async ({ resolveVariable }) => ({
  corsOrigins: (await resolveVariable("param:corsOrigins")).join(","),
});
