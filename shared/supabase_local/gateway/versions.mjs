// The responses in which PostgREST 16 and PostgREST 14 differ. `DATA_API_VERSION` chooses one.
// https://github.com/PostgREST/postgrest/blob/main/CHANGELOG.md

const MESSAGE =
  "Embedded resource was referenced by relation name even though it has an alias. This is " +
  "deprecated and will stop working in a future release.";

const VERSIONS = {
  16: {
    headers: { vary: "Accept, Prefer, Range" },
    // With PostgREST 16, Postgres rejects an unknown time zone.
    isZone: () => true,
    repeated: [],
    hasShortErrors: true,
    // `names` has pairs of name and alias of tables that a query parameter names without their
    // alias.
    warningOf(names) {
      const pairs = names.map(([table, alias]) => `\`${table}\` to \`${alias}\``).join(", ");
      const advice = `Update ${pairs} in query string filters, orders or limits.`;
      return `299 PostgRESTv16 "${MESSAGE} ${advice}"`;
    },
  },
  14: {
    headers: {},
    isZone: (zone, zones) => zones.has(zone),
    // SQLSTATEs after which PostgREST 14 repeats a transaction, without a limit.
    repeated: ["40001", "40P01"],
    hasShortErrors: false,
    warningOf: () => null,
  },
};

const { DATA_API_VERSION: major = "16" } = process.env;
if (!VERSIONS[major]) throw new Error("DATA_API_VERSION must be 14 or 16");

export const version = { major, ...VERSIONS[major] };
