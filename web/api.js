/**
 * Signed calls of the chat server, see docs/protocol.md. Runs in browsers and in Node 20 or newer, and needs no DOM:
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
/** Reads that wait by themselves where the user's rate is exceeded, how often, and how long at most, in s. */
const PATIENT = new Set(['list', 'show', 'download', 'downloadpartial', 'requests', 'blocklist']);
const RATE_ATTEMPTS = 5;
const MAX_RETRY_AFTER = 60;
/** Attempts of one call after `timestamp_out_of_range`. After a restore, one second may have to pass. */
const CLOCK_ATTEMPTS = 3;

/**
 * The server answered ERROR: the call changed nothing, except after 503, which leaves it open. `message` is the server's
 * sentence for people.
 */
export class Refused extends Error {
  /**
   * @param {any} answer
   * @param {number} status
   * @param {number} retryAfter seconds, 0 if the server names none
   */
  constructor(answer, status, retryAfter) {
    super(String(answer.errormessage ?? `HTTP status ${status}`));
    /** Decide by this word of docs/protocol.md, "Table". */
    this.code = String(answer.errorcode ?? '');
    /** Status of HTTP; 0 for a refusal on the listener. */
    this.status = status;
    /** Seconds to wait before the next attempt, 0 to 60. */
    this.retryAfter = retryAfter;
    /** @type {string | undefined} the server's clock, with `timestamp_out_of_range` */
    this.servertime = answer.servertime;
    /** The present state of the conversation, with `instance_changed` and `replayed`. */
    this.conversation = answer.conversation;
  }
}

/**
 * No usable answer arrived within 40 s: no connection, or a proxy's page. The change may or may not have been made; make
 * the call again.
 */
export class NoAnswer extends Error {}

/** Local clock, corrected by the server's. Calls correct it by themselves; a clock may be shared by several `Api`s. */
export class Clock {
  /** @param {() => number} [now] ms since 1970 */
  constructor(now = Date.now) {
    this.read = now;
    /** Offset of the server's clock, in ms; positive if it is ahead. */
    this.offset = 0;
  }

  /** @returns {number} ms since 1970 by the server's clock, as far as it is known */
  now() {
    return this.read() + this.offset;
  }

  /** @returns {string} the current time as `yyyy-MM-dd HH:mm:ss` in UTC */
  timestamp() {
    return formatDate(this.now());
  }

  /** @param {string} servertime `yyyy-MM-dd HH:mm:ss` in UTC; another text is ignored */
  correct(servertime) {
    const time = parseDate(servertime);
    // Half a second is what `servertime` is behind on average.
    if (!Number.isNaN(time)) this.offset = time + 500 - this.read();
  }
}

/**
 * @param {number} time ms since 1970, of the years 0 to 9999
 * @returns {string} `yyyy-MM-dd HH:mm:ss` in UTC
 */
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
 * @param {string | URL} base
 * @param {string} api
 * @param {Record<string, string>} headers
 * @param {string} body
 * @param {AbortSignal} [given] gives the call up
 */
export async function post(base, api, headers, body, given) {
  const url = new URL(`?srv=${SERVICE}&api=${api}`, base);
  const ended = new AbortController();
  const end = () => ended.abort();
  const timer = setTimeout(end, TIMEOUT);
  given?.addEventListener('abort', end);
  let response, answer;
  try {
    response = await fetch(url, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...headers },
      body,
      cache: 'no-store',
      credentials: 'omit',
      signal: ended.signal,
    });
    answer = await response.json();
  } catch (error) {
    throw new NoAnswer(`no answer from the server: ${error instanceof Error ? error.message : error}`);
  } finally {
    clearTimeout(timer);
    given?.removeEventListener('abort', end);
  }
  if (answer?.status === 'OK') return answer;
  if (answer?.status !== 'ERROR') throw new NoAnswer(`the server's answer has no status, HTTP status ${response.status}`);
  throw new Refused(answer, response.status, seconds(response.headers.get('Retry-After')));
}

/** @param {string | null} retryAfter a number; a proxy's date counts as none */
function seconds(retryAfter) {
  const value = Number(retryAfter ?? 0);
  return value > 0 ? Math.min(value, MAX_RETRY_AFTER) : 0;
}

/**
 * Logs in, which needs no signature and starts no session.
 * @param {object} who
 * @param {string | URL} who.base the server's URL, with a slash at its end
 * @param {string} who.station 32 lower-case hexadecimal characters, random, one for each device: `randomHex(16)`
 * @param {string} who.apikey 64 lower-case hexadecimal characters
 * @returns {Promise<any>} `userid`, `nick`, `rsakey` (see `openPrivateKey` of pem.js), and the rest of docs/protocol.md, "Login"
 * @throws {Refused} with the code `invalid_credentials` for an unknown key
 * @throws {NoAnswer}
 */
export function login({ base, station, apikey }) {
  return post(base, 'chatlogin', { 'Ozeki-Station': station }, JSON.stringify({ action: 'login', apikey }));
}

/** Signed calls of one user at one station. */
export class Api {
  /**
   * @param {object} options
   * @param {string | URL} options.base the server's URL, with a slash at its end
   * @param {string} options.userid `userid` of the login's answer
   * @param {string} options.station the station of the login
   * @param {CryptoKey} options.key of `importApiKey`
   * @param {Clock} [options.clock]
   */
  constructor({ base, userid, station, key, clock = new Clock() }) {
    this.base = base;
    this.userid = userid;
    this.station = station;
    this.key = key;
    this.clock = clock;
    this.running = new AbortController();
  }

  /**
   * Makes one call. Each attempt has its own nonce, so two equal calls in one second are not a replay. By itself it
   * corrects the clock after `timestamp_out_of_range`, and repeats reads after `rate_limited`, up to five times. Nothing
   * else is repeated.
   * @param {string} api `chatconversation`, `chatfriends`, `chatreports`, `chatavailability`, `chatnotification` or `chatblocklist`
   * @param {Record<string, unknown>} fields those of the action, with `action`
   * @returns {Promise<any>} the answer
   * @throws {Refused}
   * @throws {NoAnswer}
   */
  async call(api, fields) {
    for (let attempt = 1; ; attempt++) {
      const body = JSON.stringify({ ...fields, nonce: randomHex(8), clientversioncode: 3, timestamp: this.clock.timestamp() });
      const signature = await sign(this.key, SERVICE, api, this.userid, this.station, body);
      const headers = { 'Ozeki-Station': this.station, 'Ozeki-User': this.userid, 'Ozeki-Signature': signature };
      try {
        return await post(this.base, api, headers, body, this.running.signal);
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

  /** Gives up all running calls, which then throw `NoAnswer`: after a change of network their answers would never come. */
  abort() {
    this.running.abort();
    this.running = new AbortController();
  }

  /**
   * `call` of `chatconversation`.
   * @param {Record<string, unknown>} fields
   */
  conversation(fields) {
    return this.call('chatconversation', fields);
  }

  /**
   * `call` of `chatfriends`.
   * @param {Record<string, unknown>} fields
   */
  friends(fields) {
    return this.call('chatfriends', fields);
  }

  /**
   * `call` of `chatblocklist`.
   * @param {Record<string, unknown>} fields
   */
  blocks(fields) {
    return this.call('chatblocklist', fields);
  }

  /** @returns {Promise<object>} the first frame of a listener, signed; each is accepted once */
  async subscription() {
    const timestamp = this.clock.timestamp();
    const nonce = randomHex(16);
    const signature = await sign(this.key, SERVICE, 'chatlistener', this.userid, this.station, timestamp, nonce);
    return { action: 'subscribe', userid: this.userid, stationid: this.station, timestamp, nonce, signature };
  }

  /** @returns {URL} the WebSocket of the listener, `ws:` or `wss:` as the base */
  listenerUrl() {
    const url = new URL('ws', this.base);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    return url;
  }
}
