// The stage of the browser tests: a real server with its users, and Chromium.
//
// CHATSERVER  the server's binary, by default target/debug/chatserver
// SHOTS       folder of the screenshots, by default tests/web/screenshots
// IMAGES      folder of the pictures of the README, by default that of the screenshots: npm run images

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

import { Api, formatDate, login } from '../../web/api.js';
import { importApiKey, randomHex, seal, sign, unwrapConversationKey } from '../../web/crypto.js';
import { openPrivateKey } from '../../web/pem.js';
import { Gate } from './gate.mjs';

const BINARY = process.env.CHATSERVER ?? fileURLToPath(new URL('../../target/debug/chatserver', import.meta.url));
const SHOTS = process.env.SHOTS ?? fileURLToPath(new URL('screenshots', import.meta.url));
const FLAGS = ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** @typedef {import('playwright-core').Page} Page */
/** @typedef {import('playwright-core').BrowserContext} BrowserContext */
/** @typedef {{ nick: string, userid: string, email: string, apikey: string, encryptionpassword: string }} Person */

mkdirSync(SHOTS, { recursive: true });

/**
 * @param {...string} flags
 * @returns {Promise<import('playwright-core').Browser>}
 */
export function launch(...flags) {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: [...FLAGS, ...flags] });
}

/** @returns {Promise<number>} */
export function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}

/** A server with a database of its own. */
export class Stage {
  /** @param {import('playwright-core').Browser} browser */
  constructor(browser) {
    this.browser = browser;
    this.folder = mkdtempSync(join(tmpdir(), 'chat-web-'));
    this.port = 0;
    /** @type {NodeJS.ProcessEnv} */
    this.env = {
      ...process.env,
      CHATSERVER_DATABASE__URL: `sqlite://${join(this.folder, 'chat.db')}`,
      CHATSERVER_HTTP__METRICS_LISTEN: '',
      CHATSERVER_LIMITS__REQUESTS_PER_SECOND: '5000',
      CHATSERVER_LIMITS__REQUESTS_BURST: '5000',
      CHATSERVER_LIMITS__FAILURES_PER_MINUTE: '6000',
      // Within the open files of any machine.
      CHATSERVER_LIMITS__CONNECTIONS: '500',
      CHATSERVER_HTTP__LISTENERS: '100',
      CHATSERVER_LOG__FILTER: 'warn',
    };
    /** @type {Record<string, Person>} */
    this.people = {};
    /** @type {BrowserContext[]} */
    this.contexts = [];
    /** @type {Gate[]} */
    this.gates = [];
    /** @type {string[]} what went wrong in a page */
    this.errors = [];
    /** @type {string[] | undefined} bodies and frames on the network, if a story sets it before it opens pages */
    this.traffic = undefined;
  }

  /** @param {...string} args */
  command(...args) {
    return execFileSync(BINARY, args, { env: this.env, encoding: 'utf8' });
  }

  /**
   * Runs a command with this text on stdin.
   * @param {string} input
   * @param {...string} args
   */
  input(input, ...args) {
    return execFileSync(BINARY, args, { env: this.env, encoding: 'utf8', input });
  }

  /** @param {...string} nicks */
  addPeople(...nicks) {
    for (const nick of nicks) {
      const email = `${nick.toLowerCase().replace(/[^a-z]/g, (char) => String(char.charCodeAt(0))).slice(0, 60)}@example.com`;
      this.people[nick] = { nick, ...JSON.parse(this.command('user', 'add', email, '--nick', nick, '--json')) };
    }
  }

  /**
   * @param {string} one
   * @param {string} other
   */
  befriend(one, other) {
    this.command('friend', 'add', this.people[one].email, this.people[other].email);
  }

  async open() {
    this.port ||= await freePort();
    this.base = `http://127.0.0.1:${this.port}/`;
    await this.startServer();
  }

  /** A gate to the server, with its base URL. */
  async gate() {
    const gate = new Gate(this.port);
    this.gates.push(gate);
    return { gate, base: await gate.open() };
  }

  async startServer() {
    this.server = spawn(BINARY, ['serve', '--listen', `127.0.0.1:${this.port}`], { env: this.env, stdio: ['ignore', 'ignore', 'inherit'] });
    await until(() => fetch(`http://127.0.0.1:${this.port}/readyz`).then((response) => response.ok, () => false), 'the server is ready');
  }

  /** Kills the server at once, as a power cut does. */
  async killServer() {
    const { server } = this;
    if (!server || server.exitCode !== null || server.signalCode !== null) return;
    const gone = new Promise((resolve) => server.once('exit', resolve));
    server.kill('SIGKILL');
    await gone;
  }

  /**
   * @param {string} nick
   * @param {string} [base] another way to the server
   * @returns {string}
   */
  link(nick, base = this.base) {
    const { apikey, encryptionpassword } = this.people[nick];
    return `${base}app/#apikey=${apikey}&password=${encodeURIComponent(encryptionpassword)}`;
  }

  /** @param {import('playwright-core').BrowserContextOptions} [options] */
  async newContext(options = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1100, height: 720 }, locale: 'en-GB', ...options });
    context.setDefaultTimeout(20000);
    this.contexts.push(context);
    return context;
  }

  /**
   * A page in which a user is signed in.
   * @param {string} nick
   * @param {BrowserContext} [context]
   * @param {string} [base] another way to the server
   * @returns {Promise<Page>}
   */
  async page(nick, context, base) {
    const page = await (context ?? (await this.newContext())).newPage();
    this.listen(page, nick);
    await page.goto(this.link(nick, base));
    await page.getByRole('list', { name: 'Conversations' }).waitFor();
    return page;
  }

  /**
   * Records errors of a page, and its traffic if a story asks for it.
   * @param {Page} page
   * @param {string} name
   */
  listen(page, name) {
    page.on('pageerror', (error) => this.errors.push(`${name}: ${error.stack}`));
    page.on('console', (message) => {
      if (process.env.VERBOSE) console.error(name, message.type(), message.text(), message.location().url);
      if (/Content Security Policy|Trusted/.test(message.text())) this.errors.push(`${name}: ${message.text()}`);
    });
    const { traffic } = this;
    if (!traffic) return;
    page.on('request', (request) => traffic.push(request.postData() ?? ''));
    page.on('response', async (response) => {
      if (response.request().method() === 'POST') traffic.push(await response.text().catch(() => ''));
    });
    page.on('websocket', (socket) => {
      socket.on('framesent', ({ payload }) => traffic.push(String(payload)));
      socket.on('framereceived', ({ payload }) => traffic.push(String(payload)));
    });
  }

  /** @param {string} nick */
  client(nick) {
    return SdkClient.open(this.base ?? '', this.people[nick]);
  }

  /**
   * @param {Page} page
   * @param {string} name
   */
  async shot(page, name) {
    await page.screenshot({ path: join(SHOTS, `${name}.png`) });
  }

  /**
   * A picture of the README. It is written only where that is asked for, since the times in it differ in each run.
   * @param {Page} page
   * @param {string} name
   */
  async picture(page, name) {
    const file = join(process.env.IMAGES ?? SHOTS, `${name}.png`);
    const image = await page.screenshot({ path: file });
    assert.ok(image.length < 120000, `${file} has ${image.length} bytes`);
  }

  async close() {
    for (const context of this.contexts) await context.close();
    for (const gate of this.gates) gate.close();
    await this.killServer();
    rmSync(this.folder, { recursive: true, force: true });
    assert.deepEqual(this.errors, []);
  }
}

/** A copy of the database of a stage whose server has not started yet, and its users. */
export class Template {
  /** @param {Stage} stage */
  constructor({ folder, people }) {
    this.folder = mkdtempSync(join(tmpdir(), 'chat-web-'));
    cpSync(folder, this.folder, { recursive: true });
    this.people = { ...people };
  }

  /** @param {Stage} stage */
  copyTo(stage) {
    cpSync(this.folder, stage.folder, { recursive: true });
    Object.assign(stage.people, this.people);
  }

  remove() {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A client on web/api.js and web/crypto.js, without a browser. */
export class SdkClient {
  /**
   * @param {Api} api
   * @param {CryptoKey} privateKey
   */
  constructor(api, privateKey) {
    this.api = api;
    this.privateKey = privateKey;
  }

  /**
   * @param {string} base
   * @param {Person} person
   */
  static async open(base, person) {
    const station = randomHex(16);
    const answer = await login({ base, station, apikey: person.apikey });
    const privateKey = await openPrivateKey(answer.rsakey, person.encryptionpassword);
    const key = await importApiKey(person.apikey);
    return new SdkClient(new Api({ base, userid: answer.userid, station, key }), privateKey);
  }

  /** The first conversation, with its key. */
  async conversation() {
    const { conversations } = await this.api.conversation({ action: 'list' });
    const [conversation] = conversations;
    return { conversation, key: await unwrapConversationKey(this.privateKey, conversation.secret) };
  }

  /**
   * @param {string[]} texts
   * @param {{ from?: string, minutes?: number, width?: number }} [options] `minutes` between two messages, up to now;
   *   `width` requests at a time, which loses the order
   */
  async send(texts, { from = this.api.userid, minutes = 0, width = 1 } = {}) {
    const { conversation, key } = await this.conversation();
    const send = async (/** @type {number} */ i) => {
      const ID = crypto.randomUUID();
      const place = { conversationid: conversation.id, instance: conversation.instance, id: ID };
      const Created = formatDate(Date.now() - (texts.length - i) * minutes * 60000);
      const message = { ID, Type: 'Message', Created, ValidUntil: '', Data: await seal(key, place, from, texts[i]) };
      await this.add(agent, { action: 'add', conversationid: conversation.id, instance: conversation.instance, message });
    };
    const agent = new Agent({ keepAlive: true, maxSockets: width });
    let next = 0;
    const work = async () => {
      while (next < texts.length) await send(next++);
    };
    await Promise.all(Array.from({ length: width }, work));
    agent.destroy();
  }

  /**
   * Adds a message without `fetch`, which takes most of the CPU of 10,000 calls.
   * @param {Agent} agent
   * @param {Record<string, unknown>} fields
   */
  async add(agent, fields) {
    const { base, userid, station, key, clock } = this.api;
    const body = JSON.stringify({ ...fields, nonce: randomHex(8), clientversioncode: 3, timestamp: clock.timestamp() });
    const signature = await sign(key, 'chatserver', 'chatconversation', userid, station, body);
    const headers = { 'Content-Type': 'application/json', 'Ozeki-Station': station, 'Ozeki-User': userid, 'Ozeki-Signature': signature };
    /** @type {string} */
    const answer = await new Promise((resolve, reject) => {
      const call = request(new URL('?srv=chatserver&api=chatconversation', base), { method: 'POST', headers, agent }, (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk) => (text += chunk));
        response.on('end', () => resolve(text));
        response.on('error', reject);
      });
      call.on('error', reject);
      call.end(body);
    });
    assert.equal(JSON.parse(answer).status, 'OK', answer);
  }

  async clear() {
    const { conversation } = await this.conversation();
    await this.api.conversation({ action: 'clear', conversationid: conversation.id, instance: conversation.instance });
  }
}

/**
 * Waits until a claim is true.
 * @param {() => unknown} claim
 * @param {string} what
 * @param {number} [timeout] ms
 */
export async function until(claim, what, timeout = 30000) {
  const end = Date.now() + timeout;
  for (;;) {
    if (await claim()) return;
    if (Date.now() > end) throw new assert.AssertionError({ message: `not in ${timeout} ms: ${what}` });
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/**
 * @param {Page} page
 * @param {string} name
 */
export async function openConversation(page, name) {
  await page.getByRole('list', { name: 'Conversations' }).getByRole('button', { name }).click();
  await page.getByRole('heading', { name, level: 2 }).waitFor();
}

/**
 * @param {Page} page
 * @param {string} text
 */
export async function write(page, text) {
  await page.getByRole('textbox', { name: 'Message' }).fill(text);
  await page.getByRole('button', { name: 'Send', exact: true }).click();
}

/** @param {Page} page */
export function log(page) {
  return page.getByRole('log', { name: 'Messages' });
}

/**
 * Chooses an item of `Conversation actions`.
 * @param {Page} page
 * @param {string} item
 */
export async function act(page, item) {
  await page.getByRole('button', { name: 'Conversation actions' }).click();
  await page.getByRole('menuitem', { name: item, exact: true }).click();
}
