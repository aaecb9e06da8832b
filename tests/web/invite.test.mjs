// People register with an invitation: the browser makes their keys, and they chat.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { login } from '../../web/api.js';
import { randomHex } from '../../web/crypto.js';
import { log, openConversation, write } from './stage.mjs';
import { check, story } from './story.mjs';

const OWN = 'correct horse battery staple';

/** @typedef {import('playwright-core').Page} Page */
/** @typedef {import('./stage.mjs').Stage} Stage */

/**
 * @param {Stage} stage
 * @param {string} email
 * @param {...string} options
 * @returns {string} the link
 */
function invite(stage, email, ...options) {
  stage.env.CHATSERVER_HTTP__PUBLIC_URL = stage.base;
  return JSON.parse(stage.command('user', 'invite', email, ...options, '--json')).link;
}

/**
 * @param {Stage} stage
 * @param {string} link
 * @param {import('playwright-core').BrowserContextOptions} [options]
 */
async function visit(stage, link, options) {
  const page = await (await stage.newContext(options)).newPage();
  stage.listen(page, 'guest');
  await page.goto(link);
  return page;
}

/** @param {Page} page */
function create(page) {
  return page.getByRole('button', { name: 'Create the account' });
}

/**
 * Reads the API key, confirms that it is saved, and enters the chat.
 * @param {Page} page
 */
async function enter(page) {
  await page.getByRole('heading', { name: 'Your account is ready' }).waitFor();
  const apikey = (await page.locator('code').textContent()) ?? '';
  await page.getByLabel(/I have saved/).check();
  await page.getByRole('button', { name: 'Start chatting' }).click();
  await page.getByRole('button', { name: 'Sign out' }).waitFor();
  return apikey;
}

/**
 * Asserts that openssl and the command-line client open the private key that the browser has made.
 * @param {Stage} stage
 * @param {string} apikey
 * @param {string} password
 */
async function opens(stage, apikey, password) {
  const { rsakey } = await login({ base: stage.base ?? '', station: randomHex(16), apikey });
  const pem = join(stage.folder, 'key.pem');
  writeFileSync(pem, rsakey);
  const checked = execFileSync('openssl', ['rsa', '-in', pem, '-passin', `pass:${password}`, '-check', '-noout'], { encoding: 'utf8' });
  assert.match(checked, /RSA key ok/);
  const profile = ['--profile', join(stage.folder, 'profile')];
  stage.input(`${apikey}\n${password}\n`, 'client', 'login', stage.base ?? '', ...profile);
  return stage.command('client', 'read', 'Bob', ...profile);
}

story('an invited person keeps the generated password, and chats with Bob', async (stage) => {
  stage.traffic = [];
  const page = await visit(stage, invite(stage, 'carol@example.com', '--nick', 'Carol'));
  await page.getByText('carol@example.com').waitFor();
  assert.equal(new URL(page.url()).hash, '', 'the token is in no history');
  assert.equal(await page.getByLabel('Nick, which others see').inputValue(), 'Carol');
  await check(page, 'the form');
  await stage.shot(page, 'invite-form');
  await stage.picture(page, 'invite');
  const password = (await page.locator('code').textContent()) ?? '';
  assert.match(password, /^([a-z2-9]{4}-){6}[a-z2-9]{4}$/);
  await create(page).click();
  assert.ok(await page.getByLabel(/I have saved the password/).evaluate((/** @type {HTMLInputElement} */ box) => box.validity.valueMissing), 'the password must be saved first');
  await page.getByLabel(/I have saved the password/).check();
  await create(page).click();
  await page.getByRole('heading', { name: 'Your account is ready' }).waitFor();
  await check(page, 'the API key');
  await stage.shot(page, 'invite-key');
  const apikey = await enter(page);

  stage.command('friend', 'add', 'carol@example.com', stage.people.Bob.email);
  const bob = await stage.page('Bob');
  await openConversation(page, 'Bob');
  await write(page, 'Hello from Carol');
  await openConversation(bob, 'Carol');
  await log(bob).getByText('Hello from Carol').waitFor();
  await write(bob, 'Welcome');
  await log(page).getByText('Welcome').waitFor();
  assert.match(await opens(stage, apikey, password), /Hello from Carol[^]*Welcome/);

  const traffic = stage.traffic.join('\n');
  assert.ok(traffic.includes('"rsakey":"-----BEGIN RSA PRIVATE KEY-----'), 'the traffic was recorded');
  for (const secret of [password, 'BEGIN PRIVATE', 'Hello from Carol']) {
    assert.ok(!traffic.includes(secret), `the network shows ${secret}`);
  }
});

story('a person on a phone chooses a password, and the link works once', async (stage) => {
  const link = invite(stage, 'dave@example.com');
  const phone = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
  const page = await visit(stage, link, { ...phone, colorScheme: 'dark' });
  await page.getByLabel('Nick, which others see').fill('Dave');
  await page.getByLabel('Choose a password').check();
  const [first, again] = [page.getByLabel('Encryption password', { exact: true }), page.getByLabel('The same password again')];
  await page.getByLabel(/I have saved the password/).check();
  for (const [one, other, problem] of [
    ['fifteen letters', 'fifteen letters', 'The password has 15 characters; it needs at least 16.'],
    ['aaaaaaaaaaaaaaaaaaaa', 'aaaaaaaaaaaaaaaaaaaa', 'The password repeats a few characters'],
    [OWN, `${OWN}.`, 'The two passwords differ.'],
  ]) {
    await first.fill(one);
    await again.fill(other);
    await create(page).click();
    await page.getByRole('alert').getByText(problem).waitFor();
  }
  await check(page, 'the form with a chosen password');
  await stage.shot(page, 'invite-phone-form');
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.equal(wide, 0, 'nothing is wider than the phone');
  await again.fill(OWN);
  await create(page).click();
  await page.getByRole('heading', { name: 'Your account is ready' }).waitFor();
  await stage.shot(page, 'invite-phone-key');
  const apikey = await enter(page);
  stage.command('friend', 'add', 'dave@example.com', stage.people.Bob.email);
  await openConversation(page, 'Bob');
  await write(page, 'Hello from a phone');
  assert.match(await opens(stage, apikey, OWN), /Hello from a phone/);

  const late = await visit(stage, link, phone);
  await late.getByRole('heading', { name: 'This invitation can’t be used' }).waitFor();
  await check(late, 'an invitation that was used');
  await stage.shot(late, 'invite-used');
});

story('a registration whose answer is lost is sent again with the same keys', async (stage) => {
  const page = await visit(stage, invite(stage, 'erin@example.com', '--nick', 'Erin'));
  await page.getByLabel(/I have saved the password/).check();
  /** @type {string[]} */
  const sent = [];
  await page.route(/api=chatregister/, async (route) => {
    const body = route.request().postData() ?? '';
    if (body.includes('"register"') && sent.push(body) === 1) {
      await route.fetch();
      await route.abort();
    } else {
      await route.continue();
    }
  });
  await create(page).click();
  await page.getByRole('alert').getByText('The server does not answer').waitFor();
  await stage.shot(page, 'invite-lost');
  await create(page).click();
  const apikey = await enter(page);
  assert.equal(sent.length, 2);
  assert.equal(sent[0], sent[1]);
  assert.match(apikey, /^[0-9a-f]{64}$/);
});
