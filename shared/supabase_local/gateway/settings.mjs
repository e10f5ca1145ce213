// Reads what the launcher passes in the environment; fails by name when something is missing.

function need(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set; supabase_local starts the gateway`);
  return value;
}

export const settings = Object.freeze({
  port: Number(need("GATEWAY_PORT")),
  databaseUrl: need("DATABASE_URL"),
  realtimePort: Number(need("REALTIME_PORT")),
  jwtSecret: need("SUPABASE_JWT_SECRET"),
  publishableKey: need("SUPABASE_PUBLISHABLE_KEY"),
  secretKey: need("SUPABASE_SECRET_KEY"),
  // as `[api] schemas` of config.toml: the first is meant where a request names none
  schemas: [...new Set(["public", ...(process.env.DATA_API_SCHEMAS ?? "").split(",")])].filter(
    Boolean,
  ),
  // no turns for callers, and PostgREST's pool
  isStrict: process.env.DATA_API_STRICT === "1",
  siteUrl: process.env.SITE_URL ?? "http://127.0.0.1:8000",
  // well above the longest statement_timeout: a call that passes it will never be answered
  requestTimeoutMs: 65_000,
});
