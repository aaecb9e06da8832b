// Three nodes on one PostgreSQL, behind HAProxy with the configuration of packaging/haproxy.cfg.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { POSTGRES, Postgres, find } from './postgres.mjs';
import { Stage, freePort, log, openConversation, until, write } from './stage.mjs';
import { story } from './story.mjs';

/** @typedef {import('playwright-core').Page} Page */

const HAPROXY = find(['haproxy'], ['/usr/sbin']);
const CONFIGURATION = fileURLToPath(new URL('../../packaging/haproxy.cfg', import.meta.url));

/**
 * Returns the configuration with these ports in place of its addresses, and without what needs a resolver or many open
 * files.
 * @param {number} port
 * @param {number[]} nodes
 */
function configuration(port, nodes) {
  let text = readFileSync(CONFIGURATION, 'utf8');
  /** @type {(before: string, after: string) => void} */
  const put = (before, after) => {
    assert.ok(text.includes(before), before);
    text = text.replaceAll(before, after);
  };
  put('bind :8080', `bind 127.0.0.1:${port}`);
  put('maxconn 40000', 'maxconn 200');
  put('resolvers system\n    parse-resolv-conf\n    hold valid 5s\n', '');
  put(' resolvers system init-addr last,libc,none', '');
  nodes.forEach((node, i) => put(`node${i + 1}:8080`, `127.0.0.1:${node}`));
  return text;
}

/** @param {Stage} stage */
async function withMetrics(stage) {
  stage.env.CHATSERVER_HTTP__METRICS_LISTEN = `127.0.0.1:${await freePort()}`;
}

/**
 * Returns the number of listeners of each node.
 * @param {Stage[]} nodes
 * @returns {Promise<number[]>}
 */
function listeners(nodes) {
  const number = async (/** @type {Stage} */ node) => {
    const metrics = await fetch(`http://${node.env.CHATSERVER_HTTP__METRICS_LISTEN}/metrics`);
    // A node that had no listener yet does not name them.
    return Number(/^chatserver_listeners (\d+)$/m.exec(await metrics.text())?.[1] ?? 0);
  };
  return Promise.all(nodes.map(number));
}

/** @param {number[]} numbers */
const sum = (numbers) => numbers.reduce((one, other) => one + other, 0);

/**
 * Writes a text and waits until its reader has it, and until the writer is shown that it was read.
 * @param {Page} from
 * @param {Page} to
 * @param {string} text
 */
async function isRead(from, to, text) {
  await write(from, text);
  await log(to).getByText(text, { exact: true }).waitFor();
  await log(from).locator('.bubble', { hasText: text }).getByRole('img', { name: 'Viewed' }).waitFor();
}

/** @type {Postgres | undefined} */
let postgres;
after(() => postgres?.stop());

/** @param {Stage} stage */
async function prepare(stage) {
  postgres = await Postgres.start();
  stage.env.CHATSERVER_DATABASE__URL = postgres.url;
  stage.env.CHATSERVER_AUTH__KEY_FILE = join(stage.folder, 'chat.key');
  await withMetrics(stage);
  stage.command('migrate');
  stage.addPeople('Alice', 'Bob');
  stage.befriend('Alice', 'Bob');
}

/** @param {Stage} stage */
async function chat(stage) {
  const nodes = [stage, new Stage(stage.browser), new Stage(stage.browser)];
  const port = await freePort();
  const base = `http://127.0.0.1:${port}/`;
  /** @type {import('node:child_process').ChildProcess | undefined} */
  let haproxy;
  try {
    for (const node of nodes.slice(1)) {
      node.env = { ...stage.env };
      await withMetrics(node);
      await node.open();
    }
    const file = join(stage.folder, 'haproxy.cfg');
    writeFileSync(file, configuration(port, nodes.map((node) => node.port)));
    haproxy = spawn(join(HAPROXY ?? '', 'haproxy'), ['-f', file], { stdio: 'ignore' });
    await until(() => fetch(`${base}readyz`).then((response) => response.ok, () => false), 'a node is ready behind HAProxy');
    const alice = await stage.page('Alice', undefined, base);
    const bob = await stage.page('Bob', undefined, base);
    const loaded = () => Promise.all([alice, bob].map((page) => page.evaluate(() => performance.timeOrigin)));
    const before = await loaded();
    await openConversation(alice, 'Bob');
    await openConversation(bob, 'Alice');
    for (const n of [1, 2, 3]) {
      await isRead(alice, bob, `Alice's text ${n}`);
      await isRead(bob, alice, `Bob's text ${n}`);
    }

    // The listener of one of them, or of both, is at this node.
    const numbers = await listeners(nodes);
    assert.equal(sum(numbers), 2, String(numbers));
    const [killed] = nodes.splice(numbers.findIndex((number) => number > 0), 1);
    await killed.killServer();
    for (const n of [4, 5, 6]) {
      await isRead(alice, bob, `Alice's text ${n}`);
      await isRead(bob, alice, `Bob's text ${n}`);
    }
    await until(async () => sum(await listeners(nodes)) === 2, 'both listeners are at the nodes that are left');
    assert.deepEqual(await loaded(), before, 'no page was loaded again');
    await stage.shot(alice, 'behind-haproxy');
  } finally {
    haproxy?.kill();
    for (const node of nodes) if (node !== stage) await node.close();
  }
}

const NAME = 'behind HAProxy, two people chat, and go on without a reload when a node is killed';
const needed = Object.entries({ HAProxy: HAPROXY, PostgreSQL: POSTGRES });
const missing = needed.filter(([, folder]) => !folder).map(([name]) => name).join(' and ');
if (missing) {
  assert.ok(!process.env.CI, `${missing} is missing`);
  test(NAME, { skip: `LEFT OUT: it needs ${missing}` });
} else {
  story(NAME, chat, prepare);
}
