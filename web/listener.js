/**
 * The WebSocket of one station: subscribes, hands over events, acknowledges them, pings, and reconnects.
 * Runs in browsers and in Node 22 or newer, which have `WebSocket`.
 */

import { Refused } from './api.js';

/** @typedef {import('./api.js').Api} Api */

/**
 * @typedef {object} Notification
 * @property {number} sequence
 * @property {string} epoch
 * @property {string[]} friendavailabilitesof
 * @property {string[]} conversationchangedof
 * @property {string[]} conversationlistchangedof
 */

/**
 * @typedef {object} Handlers
 * @property {(epoch: string) => Promise<void> | void} connected called after each subscription
 * @property {(event: Notification) => Promise<void> | void} notified acknowledged once it resolves
 * @property {(reason: 'offline' | 'elsewhere') => void} disconnected
 * @property {(error: Refused) => void} denied the key is no longer valid
 */

/** Longest wait between two attempts, in ms. */
const MAX_BACKOFF = 15000;
/** Time between two pings, and time for their answer, in ms. */
const PING = 20000;
const PONG = 8000;
/** A timer that is this late, in ms, means that the computer slept. Browsers delay those of hidden tabs by up to 60 s. */
const SLEPT = 90000;
/** Time after which a connection counts as good, in ms. Until then the waits grow: a server may accept and close each one. */
const STABLE = 10000;
/** The station listens on a newer connection. */
const REPLACED = 4001;

export class Listener {
  /**
   * @param {Api} api
   * @param {Handlers} handlers
   */
  constructor(api, handlers) {
    this.api = api;
    this.handlers = handlers;
    /** @type {WebSocket | null} */
    this.socket = null;
    this.attempts = 0;
    this.denials = 0;
    this.stopped = true;
    this.beat = Date.now();
    /** When the present connection was subscribed, in ms; 0 before. */
    this.subscribed = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.retry = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.pong = undefined;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.watch = undefined;
    this.pinged = 0;
  }

  start() {
    this.stopped = false;
    clearInterval(this.watch);
    this.watch = setInterval(() => this.check(), 5000);
    this.connect();
  }

  stop() {
    this.stopped = true;
    clearInterval(this.watch);
    clearTimeout(this.retry);
    this.drop();
  }

  /** Connects at once, for example when the network is back. */
  wake() {
    if (this.stopped) return;
    this.attempts = 0;
    if (!this.socket) this.connect();
    else this.ping();
  }

  /** Closes the connection and forgets it. */
  drop() {
    clearTimeout(this.pong);
    this.pong = undefined;
    const socket = this.socket;
    this.socket = null;
    socket?.close(1000);
  }

  /** The network is gone, so no running call will be answered either. */
  interrupt() {
    this.api.abort();
    if (!this.socket) return;
    this.drop();
    this.again();
  }

  check() {
    const now = Date.now();
    const slept = now - this.beat > SLEPT;
    this.beat = now;
    if (slept) {
      this.interrupt();
      this.wake();
    } else if (this.socket && now - this.pinged > PING) {
      this.ping();
    }
  }

  ping() {
    this.pinged = Date.now();
    this.send({ action: 'ping' });
    this.pong ??= setTimeout(() => this.interrupt(), PONG);
  }

  /** @param {object} frame */
  send(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  again() {
    this.handlers.disconnected('offline');
    if (this.stopped) return;
    if (this.subscribed > 0 && Date.now() - this.subscribed > STABLE) this.attempts = 0;
    this.subscribed = 0;
    const longest = Math.min(MAX_BACKOFF, 500 * 2 ** this.attempts++);
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.connect(), longest * (0.5 + Math.random() / 2));
  }

  async connect() {
    clearTimeout(this.retry);
    if (this.stopped || this.socket) return;
    const socket = new WebSocket(this.api.listenerUrl());
    this.socket = socket;
    // A handshake that hangs must not hold up the next attempt.
    this.pong = setTimeout(() => this.interrupt(), PONG);
    let subscribed = false;
    /** @type {Refused | null} */
    let refused = null;
    socket.onopen = async () => {
      const frame = await this.api.subscription();
      if (socket === this.socket) this.send(frame);
    };
    socket.onmessage = async ({ data }) => {
      if (socket !== this.socket) return;
      clearTimeout(this.pong);
      this.pong = undefined;
      const heard = JSON.parse(data);
      if (heard.event === 'notification') {
        await this.acknowledge(socket, heard);
      } else if (!subscribed && heard.status === 'OK') {
        subscribed = true;
        this.denials = 0;
        this.subscribed = this.pinged = Date.now();
        await this.handlers.connected(heard.epoch);
      } else if (heard.status === 'ERROR') {
        refused = new Refused(heard, 0, 0);
      }
    };
    socket.onclose = ({ code }) => {
      if (socket !== this.socket) return;
      this.drop();
      this.closed(code, refused);
    };
  }

  /**
   * @param {WebSocket} socket
   * @param {Notification} event
   */
  async acknowledge(socket, event) {
    try {
      await this.handlers.notified(event);
    } catch (error) {
      // Without an acknowledgement the same hints come again on the next connection.
      console.warn('a notification could not be processed', error);
      if (socket !== this.socket) return;
      this.drop();
      this.again();
      return;
    }
    if (socket === this.socket) this.send({ action: 'ack', sequence: event.sequence });
  }

  /**
   * @param {number} code
   * @param {Refused | null} refused
   */
  closed(code, refused) {
    if (refused?.code === 'timestamp_out_of_range' && refused.servertime) {
      this.api.clock.correct(refused.servertime);
    } else if (refused?.code === 'invalid_signature' && ++this.denials > 1) {
      this.stop();
      this.handlers.denied(refused);
      return;
    } else if (code === REPLACED) {
      this.stop();
      this.handlers.disconnected('elsewhere');
      return;
    }
    this.again();
  }
}
