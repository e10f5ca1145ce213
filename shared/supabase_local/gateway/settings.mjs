// Reads the gateway's settings from environment variables. If a variable is missing, the error
// names it.

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
  // Exposed schemas, as in `[api] schemas` of config.toml. The first schema is the default.
  schemas: [...new Set(["public", ...(process.env.DATA_API_SCHEMAS ?? "").split(",")])].filter(
    Boolean,
  ),
  siteUrl: process.env.SITE_URL ?? "http://127.0.0.1:8000",
  // The timeout is above the longest statement_timeout, so that only calls without a response time
  // out.
  requestTimeoutMs: 65_000,
});
