// Determines the caller of a request from its API key and bearer token, as the hosted gateway and
// PostgREST do.

import { createHmac, timingSafeEqual } from "node:crypto";
import { Refusal } from "./errors.mjs";
import { settings } from "./settings.mjs";

const LEEWAY_SECONDS = 30;
const BROWSER = /^\s*Mozilla\s*\/\s*5\s*\.\s*0/i;

// A publishable or secret key is not a JWT, but official clients also send it as bearer token. The
// gateway replaces such a key with a token. All other bearer tokens are forwarded, and PostgREST
// rejects invalid tokens.
export function claimsOf(request) {
  const key = keyOf(request);
  const header = request.headers.get("authorization") ?? `Bearer ${key}`;
  const [, bearer = ""] = /^bearer(?:\s+(.*))?$/i.exec(header) ?? [null, null];
  if (bearer === key) return { role: key === settings.secretKey ? "service_role" : "anon" };
  if (bearer === null) return { role: "anon" };
  const { role = "anon", ...claims } = verified(bearer.trim());
  return { ...claims, role: asText(role) };
}

function keyOf(request) {
  const key = request.headers.get("apikey") ?? new URL(request.url).searchParams.get("apikey");
  if (!key) {
    throw new GatewayRefusal({
      message: "No API key found in request",
      hint: "No `apikey` request header or url param was found.",
    });
  }
  if (key !== settings.secretKey && key !== settings.publishableKey) {
    throw new GatewayRefusal({
      message: "Invalid API key",
      hint: "Double check your Supabase `apikey`",
    });
  }
  if (key === settings.secretKey && BROWSER.test(request.headers.get("user-agent") ?? "")) {
    throw new GatewayRefusal({ message: "Forbidden use of secret API key in browser" });
  }
  return key;
}

function verified(token) {
  if (!token) throw refused("PGRST301", "Empty JWT is sent in Authorization header");
  const parts = token.split(".");
  if (parts.length !== 3) {
    throw refused("PGRST301", `Expected 3 parts in JWT; got ${parts.length}`);
  }
  if (!isSigned(parts)) {
    const details = "None of the keys was able to decode the JWT";
    throw refused("PGRST301", "No suitable key or wrong key type", details);
  }
  const claims = decoded(parts[1]);
  if (!claims || typeof claims !== "object" || Array.isArray(claims))
    throw refused("PGRST303", "Parsing claims failed");
  checkTimes(claims);
  const audiences = [claims.aud ?? []].flat();
  if (!audiences.every((one) => typeof one === "string"))
    throw refused("PGRST303", "The JWT 'aud' claim must be a string or an array of strings");
  return claims;
}

const signed = (text) => createHmac("sha256", settings.jwtSecret).update(text).digest("base64url");

function isSigned([head, body, signature]) {
  const { alg, kid } = decoded(head) ?? {};
  if (alg !== "HS256" || kid !== undefined) return false; // the secret has no id
  const [ours, theirs] = [signed(`${head}.${body}`), signature].map((text) => Buffer.from(text));
  return theirs.length === ours.length && timingSafeEqual(theirs, ours);
}

// Add the user's metadata to the tokens of Auth, as Supabase does, because policies and pages read
// the metadata.
export async function withMetadata(response) {
  const session = await response.json();
  const { access_token: token, user } = session;
  if (token && user) {
    const [head, body] = token.split(".");
    const { app_metadata, user_metadata } = user;
    const claims = JSON.stringify({ ...decoded(body), app_metadata, user_metadata });
    const text = `${head}.${Buffer.from(claims).toString("base64url")}`;
    session.access_token = `${text}.${signed(text)}`;
  }
  return Response.json(session, { status: response.status });
}

function checkTimes(claims) {
  const now = Math.floor(Date.now() / 1000);
  const [exp, nbf, iat] = ["exp", "nbf", "iat"].map((name) => {
    const time = claims[name] ?? undefined;
    if (!["number", "undefined"].includes(typeof time))
      throw refused("PGRST303", `The JWT '${name}' claim must be a number`);
    // PostgREST reads a fraction as zero
    return time === undefined || Number.isSafeInteger(time) ? time : 0;
  });
  if (exp < now - LEEWAY_SECONDS) throw refused("PGRST303", "JWT expired");
  if (nbf > now + LEEWAY_SECONDS) throw refused("PGRST303", "JWT not yet valid");
  if (iat > now + LEEWAY_SECONDS) throw refused("PGRST303", "JWT issued at future");
}

function decoded(part) {
  try {
    return JSON.parse(Buffer.from(part, "base64url").toString());
  } catch {
    return null;
  }
}

const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

const refused = (code, message, details = null) => {
  const said = `Bearer error="invalid_token", error_description=${JSON.stringify(message)}`;
  return new Refusal(401, { code, message, details }, { "www-authenticate": said });
};

class GatewayRefusal extends Error {
  constructor(body) {
    super(body.message);
    this.response = () => Response.json(body, { status: 401 });
  }
}
