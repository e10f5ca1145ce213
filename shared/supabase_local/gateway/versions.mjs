// The responses in which PostgREST 16 and PostgREST 14 differ. `DATA_API_VERSION` chooses one.
// https://github.com/PostgREST/postgrest/blob/main/CHANGELOG.md

const VERSIONS = {
  16: { headers: { vary: "Accept, Prefer, Range" }, hasShortErrors: true },
  14: { headers: {}, hasShortErrors: false },
};

const { DATA_API_VERSION: major = "16" } = process.env;
if (!VERSIONS[major]) throw new Error("DATA_API_VERSION must be 14 or 16");

export const version = { major, ...VERSIONS[major] };
