// SPDX-License-Identifier: Apache-2.0
// The two connections to the server, and its clock. Nothing here draws.

const PING_MS = 200;
const AGAIN_MS = 500;

export class Clock {
  // Server milliseconds (monotonic) from performance.now(): the offset of the quickest of the last pings.
  constructor() { this.seen = []; }
  note(sent, got, server) {
    this.seen.push({ trip: got - sent, offset: server - (sent + got) / 2 });
    if (this.seen.length > 25) this.seen.shift();
  }
  get known() { return this.seen.length > 0; }
  get offset() { return this.seen.reduce((a, b) => (b.trip < a.trip ? b : a)).offset; }
  get trip() { return Math.min(...this.seen.map((s) => s.trip)); }
  now() { return performance.now() + this.offset; }
}

function open(path, ready) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}${path}`);
  socket.binaryType = "arraybuffer";
  socket.onopen = ready;
  return socket;
}

export class Control {
  // on: kind of message -> function. pongAt: performance.now() of the last proof of life.
  constructor(clock, on) {
    this.clock = clock; this.on = on; this.pongAt = -Infinity; this.coreMs = Infinity; this.count = 0;
    this.connect();
    setInterval(() => this.send({ kind: "ping", t: performance.now() }), PING_MS);
  }
  get open() { return this.socket.readyState === WebSocket.OPEN; }
  connect() {
    this.socket = open("/control", () => this.send({ kind: "ping", t: performance.now() }));
    this.socket.onmessage = (event) => this.heard(JSON.parse(event.data));
    this.socket.onclose = () => {
      this.clock.seen = [];
      setTimeout(() => this.connect(), AGAIN_MS);
    };
  }
  heard(message) {
    if (message.kind === "pong") {
      const now = performance.now();
      this.clock.note(message.t, now, message.server_ms);
      this.pongAt = now; this.coreMs = message.core_ms;
    }
    this.on[message.kind]?.(message);
  }
  send(values) { if (this.open) this.socket.send(JSON.stringify(values)); }
  act(action, values) {
    this.count += 1;
    this.send({ kind: "act", action, n: this.count, ...values });
    return this.count;
  }
}

export class Video {
  // One picture is under way: the server sends the next when this one is acknowledged.
  // name: what is shown from the beginning on; "" = the first camera whose picture comes.
  constructor(onPicture, name = "") { this.onPicture = onPicture; this.name = name; this.connect(); }
  connect() {
    this.socket = open("/video", () => { if (this.name) this.show(this.name); });
    this.socket.onmessage = async (event) => {
      const socket = this.socket, heard = performance.now();
      const length = new DataView(event.data).getUint32(0, true);
      const words = JSON.parse(new TextDecoder().decode(new Uint8Array(event.data, 4, length)));
      try {
        const jpeg = new Blob([new Uint8Array(event.data, 4 + length)], { type: "image/jpeg" });
        const bitmap = await createImageBitmap(jpeg);
        this.onPicture({ ...words, heard, decoded: performance.now() }, bitmap);
      } finally {
        requestAnimationFrame(() => {
          if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ shown: words.n }));
        });
      }
    };
    this.socket.onclose = () => setTimeout(() => this.connect(), AGAIN_MS);
  }
  show(name) {
    this.name = name;
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ show: name }));
  }
}
