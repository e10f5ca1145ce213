// Serves the origin (URL) of a Supabase project. /rest/v1 and /auth/v1 are served here, and
// /realtime/v1 is forwarded.

import http from "node:http";
import { getRequestListener } from "@hono/node-server";
import { Database } from "./database.mjs";
import { proxyUpgrade } from "./realtime.mjs";
import { settings } from "./settings.mjs";
import { withMetadata } from "./tokens.mjs";

const database = new Database();
// Supabase services for which the stack has no server. The tables of these services exist for
// migrations and seeds.
const ELSEWHERE =
  /^\/(auth\/v1\/admin|realtime\/v1\/api|storage\/v1|functions\/v1|graphql\/v1)(?=\/|$)/;
// Response headers that pages of other origins may read, like PostgREST.
const EXPOSED =
  "Content-Encoding, Content-Location, Content-Range, Content-Type, Date, Location, Server, " +
  "Transfer-Encoding, Range-Unit";
const METHODS = "GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS";

function answerLocally(path) {
  if (path === "/auth/v1/.well-known/jwks.json") {
    // The key set is empty, because tokens are signed with the shared HS256 secret, which must stay
    // secret.
    return Response.json({ keys: [] }, { headers: { "cache-control": "public, max-age=600" } });
  }
  const [absent] = ELSEWHERE.exec(path) ?? [];
  if (absent) {
    const message = `${absent} needs a server that is not here: \`supabase start\` has it`;
    return Response.json({ message, msg: message, error: "not_implemented" }, { status: 501 });
  }
  if (path === "/_ready") {
    const { isUp } = database;
    return Response.json({ database: isUp }, { status: isUp ? 200 : 503 });
  }
  if (!/^\/(auth|rest)\/v1(?=\/|$)/.test(path)) {
    return Response.json({ message: "no Route matched with those values" }, { status: 404 });
  }
  return null;
}

// Return whether the body is neither empty nor a JSON object, for which Auth would return 500.
async function isMisread(request) {
  const text = await request.clone().text();
  try {
    return text !== "" && !(JSON.parse(text) instanceof Object);
  } catch {
    return true;
  }
}

async function answer(request) {
  const { pathname } = new URL(request.url);
  if (pathname.startsWith("/auth/v1/") && request.method === "POST" && (await isMisread(request))) {
    const msg = "Could not parse request body as JSON";
    return Response.json({ code: 400, error_code: "bad_json", msg }, { status: 400 });
  }
  let response = answerLocally(pathname) ?? (await database.fetch(request));
  if (response.ok && /^\/auth\/v1\/(token|signup|verify)$/.test(pathname))
    response = await withMetadata(response);
  if (response.headers.has("access-control-allow-origin")) return response;
  const headers = new Headers(response.headers);
  headers.set("access-control-allow-origin", "*");
  headers.set("access-control-expose-headers", EXPOSED);
  return new Response(response.body, { status: response.status, headers });
}

const listener = getRequestListener(answer, {
  errorHandler: (error) => {
    // the URL or the Host header is invalid
    if (error.name === "RequestError") return new Response(error.message, { status: 400 });
    console.error(error);
    return Response.json({ message: "gateway error" }, { status: 500 });
  },
});

function answerPreflight(incoming, outgoing) {
  outgoing.writeHead(204, {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": METHODS,
    // Allow any method and any header, because keys and tokens protect the API.
    "access-control-allow-headers": incoming.headers["access-control-request-headers"] ?? "*",
    "access-control-max-age": "3600",
    vary: "Access-Control-Request-Headers",
  });
  outgoing.end();
}

const server = http.createServer((incoming, outgoing) => {
  if (incoming.method === "OPTIONS") return answerPreflight(incoming, outgoing);
  // Append the address as a proxy does, because the caller has sent all earlier values of the
  // header.
  incoming.rawHeaders.push("x-forwarded-for", incoming.socket.remoteAddress ?? "");
  // encode backslashes, because the listener rejects them and PostgREST does not
  incoming.url = incoming.url.replaceAll("\\", "%5C");
  const { writeHead } = outgoing;
  outgoing.writeHead = (status, headers) => {
    // Delete the content type `text/plain`, which the listener adds to a response without a type.
    if (/^text\/plain/.test(headers?.["content-type"])) delete headers["content-type"];
    return writeHead.call(outgoing, status, headers);
  };
  return listener(incoming, outgoing);
});
// The server keeps idle connections longer than clients do. Otherwise a client could send a request
// on a connection that the server is closing.
server.keepAliveTimeout = 75_000;
server.headersTimeout = 80_000;
server.on("upgrade", (incoming, socket, head) => {
  if (incoming.url.startsWith("/realtime/v1/")) return proxyUpgrade(incoming, socket, head);
  socket.end("HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n");
});

// When a database socket closes, the driver throws an error outside of requests. The gateway
// ignores this error, because `Database` detects that the database was lost.
const isDrivers = (error) => /node_modules\/postgres\//.test(error?.stack ?? "");
process.on("unhandledRejection", (error) => console.error("unhandled:", error?.message ?? error));
process.on("uncaughtException", (error) => {
  console.error("uncaught:", error);
  if (!isDrivers(error)) process.exit(1);
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));

database.follow();
server.listen(settings.port, "127.0.0.1", () => console.log(`listening on ${settings.port}`));
