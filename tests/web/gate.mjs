// A gate between browsers and the server: it lets bytes through, swallows them, answers in place of the server, or
// closes listeners, and it counts.

import { createServer, request } from 'node:http';
import { connect } from 'node:net';

/** @typedef {import('node:net').Socket} Socket */

export class Gate {
  /** @param {number} target port of the server */
  constructor(target) {
    this.target = target;
    /** @type {number[]} times at which listeners were opened, in ms */
    this.listeners = [];
    /** @type {{ api: string, at: number }[]} calls, with their times in ms */
    this.calls = [];
    /** @type {(bytes: Buffer) => Buffer} changes what the server says on listeners */
    this.reply = (bytes) => bytes;
    /** @type {(outgoing: import('node:http').ServerResponse, url: string) => boolean} answers in place of the server */
    this.answer = () => false;
    /** Whether new requests and new bytes vanish, as on a network that is gone without saying so. */
    this.silent = false;
    /** @type {Set<Socket>} */
    this.sockets = new Set();
    this.server = createServer((incoming, outgoing) => this.pass(incoming, outgoing));
    this.server.on('connection', (socket) => {
      this.sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => this.sockets.delete(socket));
    });
    this.server.on('upgrade', (incoming, socket, head) => this.upgrade(incoming, /** @type {Socket} */ (socket), head));
  }

  /** @returns {Promise<string>} the base URL */
  open() {
    return new Promise((resolve) => {
      this.server.listen(0, '127.0.0.1', () => {
        const address = this.server.address();
        resolve(`http://127.0.0.1:${typeof address === 'object' && address ? address.port : 0}/`);
      });
    });
  }

  /** Ends all connections. */
  cut() {
    for (const socket of this.sockets) socket.destroy();
  }

  close() {
    this.cut();
    this.server.close();
  }

  /**
   * @param {import('node:http').IncomingMessage} incoming
   * @param {import('node:http').ServerResponse} outgoing
   */
  pass(incoming, outgoing) {
    const api = new URL(incoming.url ?? '', 'http://gate').searchParams.get('api');
    if (api) this.calls.push({ api, at: Date.now() });
    if (this.silent || this.answer(outgoing, incoming.url ?? '')) return;
    const { method, url, headers } = incoming;
    const forwarded = request({ host: '127.0.0.1', port: this.target, method, path: url, headers }, (response) => {
      outgoing.writeHead(response.statusCode ?? 502, response.headers);
      response.pipe(outgoing);
    });
    forwarded.on('error', () => outgoing.destroy());
    incoming.pipe(forwarded);
  }

  /**
   * @param {import('node:http').IncomingMessage} incoming
   * @param {Socket} socket
   * @param {Buffer} head
   */
  upgrade(incoming, socket, head) {
    this.listeners.push(Date.now());
    if (this.silent) return;
    const server = connect(this.target, '127.0.0.1');
    this.sockets.add(server);
    const lines = Object.entries(incoming.headers).map(([name, value]) => `${name}: ${value}\r\n`);
    server.write(`GET ${incoming.url} HTTP/1.1\r\n${lines.join('')}\r\n`);
    server.write(head);
    socket.on('data', (bytes) => this.silent || server.write(bytes));
    server.on('data', (bytes) => this.silent || socket.write(this.reply(bytes)));
    for (const [one, other] of [[socket, server], [server, socket]]) {
      one.on('error', () => {});
      one.on('close', () => {
        this.sockets.delete(one);
        // A network that is gone brings no end of a connection either.
        if (!this.silent) other.destroy();
      });
    }
  }
}

/**
 * A frame of a WebSocket that closes it.
 * @param {number} code
 */
export function closeFrame(code) {
  return Buffer.from([0x88, 2, code >> 8, code & 255]);
}

/**
 * A frame of a WebSocket.
 * @param {object} message shorter than 126 bytes
 */
export function textFrame(message) {
  const text = Buffer.from(JSON.stringify(message));
  return Buffer.concat([Buffer.from([0x81, text.length]), text]);
}
