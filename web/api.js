/**
 * Signed calls of the chat server. Runs in browsers and in Node 20 or newer:
 *
 *     const answer = await login({ base: 'http://127.0.0.1:8080/', station: randomHex(16), apikey });
 *     const key = await importApiKey(apikey);
 *     const api = new Api({ base: 'http://127.0.0.1:8080/', userid: answer.userid, station, key });
 *     const { conversations } = await api.call('chatconversation', { action: 'list' });
 */

import { randomHex, sign } from './crypto.js';

const SERVICE = 'chatserver';
/** Longest wait for an answer, in ms. The server itself ends a request after 30 s. */
const TIMEOUT = 40000;
/** Reads that wait by themselves where the user's rate is exceeded, and how often. */
const PATIENT = new Set(['list', 'show', 'download', 'downloadpartial', 'requests', 'blocklist']);
const RATE_ATTEMPTS = 5;
/** Attempts of one call after `timestamp_out_of_range`. After a restore, one second may have to pass. */
const CLOCK_ATTEMPTS = 3;

/** The server answered ERROR. */
export class Refused extends Error {
  /**
   * @param {any} answer
   * @param {number} status
   * @param {number} retryAfter seconds, 0 if the server names none
   */
  constructor(answer, status, retryAfter) {
    super(String(answer.errormessage ?? `HTTP status ${status}`));
    /** A word of docs/protocol.md, "Table". */
    this.code = String(answer.errorcode ?? '');
    this.status = status;
    this.retryAfter = retryAfter;
    /** @type {string | undefined} */
    this.servertime = answer.servertime;
    /** The present state, with `instance_changed` and `replayed`. */
    this.conversation = answer.conversation;
  }
}

/** No usable answer arrived: the change may or may not have been made. */
export class NoAnswer extends Error {}

/** Local clock, corrected by the server's. */
export class Clock {
  /** @param {() => number} [now] ms since 1970 */
  constructor(now = Date.now) {
    this.read = now;
    /** What the server's clock is ahead, in ms. */
    this.offset = 0;
  }

  now() {
    return this.read() + this.offset;
  }

  /** The current time as the protocol writes it. */
  timestamp() {
    return formatDate(this.now());
  }

  /** @param {string} servertime */
  correct(servertime) {
    const time = parseDate(servertime);
    // Half a second is what `servertime` is behind on average.
    if (!Number.isNaN(time)) this.offset = time + 500 - this.read();
  }
}

/** @param {number} time ms since 1970 */
export function formatDate(time) {
  return new Date(time).toISOString().slice(0, 19).replace('T', ' ');
}

/**
 * @param {string} date `yyyy-MM-dd HH:mm:ss` in UTC
 * @returns {number} ms since 1970, or NaN
 */
export function parseDate(date) {
  return Date.parse(`${date.replace(' ', 'T')}Z`);
}

/**
 * @param {string | URL} base the server's URL, with a slash at its end
 * @param {string} api
 * @param {Record<string, string>} headers
 * @param {string} body
 */
async function post(base, api, headers, body) {
  const url = new URL(`?srv=${SERVICE}&api=${api}`, base);
  let response, answer;
  try {
    response = await fetch(url, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...headers },
      body,
      cache: 'no-store',
      credentials: 'omit',
      signal: AbortSignal.timeout(TIMEOUT),
    });
    answer = await response.json();
  } catch (error) {
    throw new NoAnswer(`no answer from the server: ${error instanceof Error ? error.message : error}`);
  }
  if (answer?.status === 'OK') return answer;
  if (answer?.status !== 'ERROR') throw new NoAnswer(`the server's answer has no status, HTTP status ${response.status}`);
  throw new Refused(answer, response.status, Number(response.headers.get('Retry-After') ?? 0));
}

/**
 * @param {{ base: string | URL, station: string, apikey: string }} who
 * @returns {Promise<any>} `userid`, `nick`, `rsakey`, …
 */
export function login({ base, station, apikey }) {
  return post(base, 'chatlogin', { 'Ozeki-Station': station }, JSON.stringify({ action: 'login', apikey }));
}

/** Signed calls of one user. */
export class Api {
  /** @param {{ base: string | URL, userid: string, station: string, key: CryptoKey, clock?: Clock }} options */
  constructor({ base, userid, station, key, clock = new Clock() }) {
    this.base = base;
    this.userid = userid;
    this.station = station;
    this.key = key;
    this.clock = clock;
  }

  /**
   * Makes one call. Each attempt has its own nonce, so two equal calls in one second are not a replay.
   * @param {string} api
   * @param {Record<string, unknown>} fields with `action`
   * @returns {Promise<any>} the answer
   * @throws {Refused | NoAnswer}
   */
  async call(api, fields) {
    for (let attempt = 1; ; attempt++) {
      const body = JSON.stringify({ ...fields, nonce: randomHex(8), clientversioncode: 3, timestamp: this.clock.timestamp() });
      const signature = await sign(this.key, SERVICE, api, this.userid, this.station, body);
      const headers = { 'Ozeki-Station': this.station, 'Ozeki-User': this.userid, 'Ozeki-Signature': signature };
      try {
        return await post(this.base, api, headers, body);
      } catch (error) {
        if (error instanceof Refused && error.code === 'rate_limited' && PATIENT.has(String(fields.action)) && attempt < RATE_ATTEMPTS) {
          await new Promise((resolve) => setTimeout(resolve, (error.retryAfter || 1) * 1000));
          continue;
        }
        const outOfRange = error instanceof Refused && error.code === 'timestamp_out_of_range' && error.servertime;
        if (!outOfRange || attempt >= CLOCK_ATTEMPTS) throw error;
        this.clock.correct(outOfRange);
        if (attempt > 1) await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
  }

  /** @param {Record<string, unknown>} fields */
  conversation(fields) {
    return this.call('chatconversation', fields);
  }

  /** @param {Record<string, unknown>} fields */
  friends(fields) {
    return this.call('chatfriends', fields);
  }

  /** @param {Record<string, unknown>} fields */
  blocks(fields) {
    return this.call('chatblocklist', fields);
  }

  /** The subscription of a listener, its first frame. */
  async subscription() {
    const timestamp = this.clock.timestamp();
    const nonce = randomHex(16);
    const signature = await sign(this.key, SERVICE, 'chatlistener', this.userid, this.station, timestamp, nonce);
    return { action: 'subscribe', userid: this.userid, stationid: this.station, timestamp, nonce, signature };
  }

  /** The URL of the listener. */
  listenerUrl() {
    const url = new URL('ws', this.base);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    return url;
  }
}
