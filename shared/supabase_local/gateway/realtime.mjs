// Forwards WebSockets of /realtime/v1 to the Realtime server as raw streams of bytes.

import net from "node:net";
import { settings } from "./settings.mjs";

const HOST = "127.0.0.1";

export function proxyUpgrade(incoming, socket, head) {
  const upstream = net.connect(settings.realtimePort, HOST);
  // If one side of the connection dies, close the other side too, because half-open sockets would
  // accumulate.
  const end = () => {
    upstream.destroy();
    socket.destroy();
  };
  upstream.on("error", () => {
    if (socket.writable)
      socket.end("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n");
    end();
  });
  socket.on("error", end);
  upstream.on("close", end);
  socket.on("close", end);
  upstream.on("connect", () => {
    upstream.setNoDelay(true);
    socket.setNoDelay(true);
    upstream.write(requestHead(incoming));
    if (head.length) upstream.write(head);
    upstream.pipe(socket);
    socket.pipe(upstream);
  });
}

function requestHead(incoming) {
  const lines = [`${incoming.method} ${incoming.url} HTTP/1.1`];
  for (let i = 0; i < incoming.rawHeaders.length; i += 2) {
    lines.push(`${incoming.rawHeaders[i]}: ${incoming.rawHeaders[i + 1]}`);
  }
  return `${lines.join("\r\n")}\r\n\r\n`;
}
