// Sessions: sign-ins by tab and device, the stored data, and their survival of a closed or crashed tab.

import assert from 'node:assert/strict';

import { log, openConversation, until, write } from './stage.mjs';
import { story } from './story.mjs';

/** @typedef {import('playwright-core').Page} Page */

/** @param {Page} page */
function offline(page) {
  return page.getByRole('status').getByText('Offline');
}

/**
 * Everything that scripts of the page can read of its storage.
 * @param {Page} page
 * @returns {Promise<{ local: string[], session: string[], accounts: string[], kept: string[], caches: string[] }>}
 */
function stored(page) {
  return page.evaluate(async () => {
    const database = await new Promise((resolve, reject) => {
      const request = indexedDB.open('chatserver');
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    const all = async (/** @type {string} */ name) => {
      const store = database.transaction(name).objectStore(name);
      const values = (/** @type {IDBRequest} */ request) => new Promise((resolve) => (request.onsuccess = () => resolve(request.result)));
      const keys = await values(store.getAllKeys());
      const found = await values(database.transaction(name).objectStore(name).getAll());
      return keys.map((/** @type {any} */ key, /** @type {number} */ i) => {
        const secret = (/** @type {string} */ _, /** @type {any} */ value) => (value instanceof CryptoKey ? { extractable: value.extractable } : value);
        return `${key} ${JSON.stringify(found[i], secret)}`;
      });
    };
    const [accounts, kept] = [await all('accounts'), await all('kept')];
    database.close();
    const cached = await Promise.all((await caches.keys()).map(async (name) => (await (await caches.open(name)).keys()).map((request) => request.url)));
    return { local: Object.entries(localStorage).flat(), session: Object.entries(sessionStorage).flat(), accounts, kept, caches: cached.flat() };
  });
}

/**
 * @param {import('./stage.mjs').Stage} stage
 * @param {import('playwright-core').BrowserContext} context
 * @param {string} nick
 * @param {string} [base] another way to the server
 */
async function stay(stage, context, nick, base = stage.base) {
  const page = await context.newPage();
  stage.listen(page, nick);
  await page.goto(`${base}app/`);
  await signIn(page, stage.people[nick], true);
  return page;
}

/**
 * @param {Page} page with the form
 * @param {{ apikey: string, encryptionpassword: string }} person
 * @param {boolean} stays
 */
async function signIn(page, { apikey, encryptionpassword }, stays) {
  await page.getByLabel('API key').fill(apikey);
  await page.getByLabel('Encryption password').fill(encryptionpassword);
  await page.getByLabel('Stay signed in on this device').setChecked(stays);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('button', { name: 'Sign out' }).waitFor();
}

story('no storage of the browser holds a secret in the clear, and signing out empties it', async (stage) => {
  const context = await stage.newContext();
  const alice = await stay(stage, context, 'Alice');
  await openConversation(alice, 'Bob');
  await until(() => alice.evaluate(async () => (await navigator.serviceWorker.ready).active !== null), 'the service worker is active');
  await alice.goto(stage.link('Alice'));
  await openConversation(alice, 'Bob');
  assert.equal(await alice.evaluate(() => location.hash), '');
  // Nor does going back show it.
  await alice.goBack();
  await alice.getByRole('button', { name: 'Sign out' }).waitFor();
  assert.equal(await alice.evaluate(() => location.hash), '');
  await openConversation(alice, 'Bob');
  await stage.killServer();
  await offline(alice).waitFor();
  await write(alice, 'a sealed message');
  await log(alice).getByRole('img', { name: 'Sending' }).waitFor();
  await alice.getByRole('textbox', { name: 'Message' }).fill('a sealed draft');
  await until(async () => (await stored(alice)).kept.length === 2, 'the message and the draft are kept');

  const found = await stored(alice);
  assert.ok(found.accounts.length >= 2 && found.accounts.every((each) => !each.includes('"extractable":true')), 'no key can be extracted');
  const { apikey, encryptionpassword } = stage.people.Alice;
  for (const secret of [apikey, encryptionpassword, 'a sealed', 'PRIVATE KEY']) {
    assert.ok(!JSON.stringify(found).includes(secret), `the storage shows ${secret}`);
  }
  const station = /"station":"([0-9a-f]{32})"/.exec(found.accounts.join())?.[1] ?? 'no station';
  assert.ok(!JSON.stringify([found.local, found.session]).includes(station), 'the station is in IndexedDB alone');

  await alice.getByRole('button', { name: 'Sign out' }).click();
  const dialog = alice.getByRole('dialog', { name: 'Sign out' });
  await dialog.getByText('Signing out deletes messages that were not sent and drafts.').waitFor();
  await stage.shot(alice, 'sign-out');
  await dialog.getByRole('button', { name: 'Sign out' }).click();
  await alice.getByRole('button', { name: 'Sign in' }).waitFor();
  const left = await stored(alice);
  assert.deepEqual([left.accounts, left.kept, left.local], [[], [], []]);
});

story('signing out asks before it deletes a draft, one of another tab too', async (stage) => {
  const context = await stage.newContext();
  const [first, second] = [await stage.page('Alice', context), await stage.page('Alice', context)];
  await openConversation(first, 'Bob');
  const field = first.getByRole('textbox', { name: 'Message' });
  await field.fill('half a thought');
  await until(async () => (await stored(first)).kept.length === 1, 'the draft is kept');
  for (const page of [first, second]) {
    await page.getByRole('button', { name: 'Sign out' }).click();
    const dialog = page.getByRole('dialog', { name: 'Sign out' });
    await dialog.getByText('Signing out deletes drafts.').waitFor();
    await dialog.getByRole('button', { name: 'Cancel' }).click();
    await dialog.waitFor({ state: 'detached' });
  }
  assert.equal(await field.inputValue(), 'half a thought');
  // White space alone is no draft.
  await field.fill(' ');
  await until(async () => (await stored(first)).kept.length === 0, 'the draft is gone');
  await second.getByRole('button', { name: 'Sign out' }).click();
  for (const page of [first, second]) await page.getByRole('button', { name: 'Sign in' }).waitFor();
});

story('what waits in a tab that is closed is sent by the next tab of a user who stays signed in', async (stage) => {
  const context = await stage.newContext();
  const first = await stay(stage, context, 'Alice');
  const bob = await stage.page('Bob');
  await openConversation(first, 'Bob');
  await openConversation(bob, 'Alice');
  await stage.killServer();
  await offline(first).waitFor();
  for (const text of ['one', 'two', 'three']) await write(first, text);
  await first.getByRole('textbox', { name: 'Message' }).fill('half a thought');
  await until(async () => (await stored(first)).kept.length === 4, 'all is kept');
  await first.close({ runBeforeUnload: false });
  await stage.startServer();
  const second = await context.newPage();
  stage.listen(second, 'Alice');
  await second.goto(`${stage.base}app/`);
  await log(bob).getByText('three').waitFor({ timeout: 20000 });
  assert.deepEqual(await log(bob).locator('.text').allTextContents(), ['one', 'two', 'three']);
  await openConversation(second, 'Bob');
  assert.equal(await second.getByRole('textbox', { name: 'Message' }).inputValue(), 'half a thought');
  await log(second).getByRole('img', { name: 'Viewed' }).nth(2).waitFor();
});

story('a tab that crashes leaves the listener to the other one', async (stage) => {
  const context = await stage.newContext();
  const first = await stage.page('Alice', context);
  const second = await stage.page('Alice', context);
  const bob = await stage.page('Bob');
  await openConversation(bob, 'Alice');
  await openConversation(second, 'Bob');
  const crashed = first.waitForEvent('crash');
  first.goto('chrome://crash').catch(() => {});
  await crashed;
  await write(bob, 'still there?');
  await log(second).getByText('still there?').waitFor();
});

story('two users stay signed in one after the other: each tab keeps its own, a new tab has the last', async (stage) => {
  const context = await stage.newContext();
  const alice = await stay(stage, context, 'Alice');
  const bob = await context.newPage();
  stage.listen(bob, 'Bob');
  await bob.goto(stage.link('Bob'));
  await bob.getByRole('button', { name: 'Alice' }).waitFor();
  await bob.reload();
  await bob.getByRole('button', { name: 'Alice' }).waitFor();
  await alice.reload();
  await alice.getByRole('button', { name: 'Bob' }).waitFor();
  await bob.getByRole('button', { name: 'Sign out' }).click();
  await bob.getByRole('button', { name: 'Sign in' }).waitFor();
  await alice.reload();
  await alice.getByRole('button', { name: 'Bob' }).waitFor();
  await signIn(bob, stage.people.Bob, true);
  const third = await context.newPage();
  await third.goto(`${stage.base}app/`);
  await third.getByRole('button', { name: 'Alice' }).waitFor();
  await third.getByRole('button', { name: 'Sign out' }).click();
  for (const page of [bob, third]) await page.getByRole('button', { name: 'Sign in' }).waitFor();
  await alice.reload();
  await alice.getByRole('button', { name: 'Bob' }).waitFor();
});

for (const { what, command } of [
  { what: 'a replaced key', command: ['user', 'rotate-key'] },
  { what: 'a disabled user', command: ['user', 'disable'] },
]) {
  story(`${what} ends the session in all tabs, and the page says why`, async (stage) => {
    const context = await stage.newContext();
    const tabs = [await stage.page('Alice', context), await stage.page('Alice', context)];
    await openConversation(tabs[0], 'Bob');
    await tabs[0].getByRole('textbox', { name: 'Message' }).fill('not finished');
    stage.command(...command, stage.people.Alice.email);
    for (const page of tabs) await page.getByRole('alert').getByText('no longer accepts this key').waitFor({ timeout: 40000 });
    await stage.shot(tabs[0], 'ended');
    if (command[1] !== 'disable') return;
    // The unsent text is there after the next sign-in.
    stage.command('user', 'enable', stage.people.Alice.email);
    await signIn(tabs[0], stage.people.Alice, false);
    await openConversation(tabs[0], 'Bob');
    assert.equal(await tabs[0].getByRole('textbox', { name: 'Message' }).inputValue(), 'not finished');
  });
}

story('with a service worker it shows the notifications', async (stage) => {
  const context = await stage.newContext({ permissions: ['notifications'] });
  const alice = await stay(stage, context, 'Alice');
  await until(() => alice.evaluate(() => navigator.serviceWorker.controller !== null), 'the service worker controls the page');
  await alice.getByRole('button', { name: 'Notifications' }).click();
  await (await stage.client('Bob')).send(['look at your phone']);
  const shown = () =>
    alice.evaluate(async () => {
      const all = (await (await navigator.serviceWorker.getRegistration())?.getNotifications()) ?? [];
      return all.map(({ title, body }) => `${title}: ${body}`);
    });
  await until(async () => (await shown()).length > 0, 'a notification is shown');
  assert.deepEqual(await shown(), ['Bob: look at your phone']);
});

story('a new release is shown at once, and its shell replaces the old one in the cache', async (stage) => {
  const { gate, base } = await stage.gate();
  const context = await stage.newContext();
  const page = await stay(stage, context, 'Alice', base);
  await until(() => page.evaluate(() => navigator.serviceWorker.controller !== null), 'the service worker controls the page');
  const debug = await context.newCDPSession(page);
  const { errors, url } = await debug.send('Page.getAppManifest');
  assert.deepEqual([errors, url], [[], `${base}app/manifest.webmanifest`]);
  const { installabilityErrors } = await debug.send('Page.getInstallabilityErrors');
  assert.deepEqual(installabilityErrors.filter(({ errorId }) => errorId !== 'in-incognito'), []);

  const html = await (await fetch(`${stage.base}app/`)).text();
  const hash = /([0-9a-f]{16})\//.exec(html)?.[1] ?? '';
  const newer = 'f'.repeat(16);
  gate.answer = (outgoing, path) => {
    const name = path.replace('/app/', '');
    if (name !== '' && !name.startsWith(newer)) return false;
    fetch(`${stage.base}app/${name.replace(newer, hash)}`).then(async (response) => {
      const text = (await response.text()).replaceAll(hash, newer).replace('<html', '<html data-release="2"');
      const headers = [...response.headers].filter(([key]) => !['content-length', 'content-encoding'].includes(key));
      outgoing.writeHead(200, { ...Object.fromEntries(headers), etag: '"2"' });
      outgoing.end(text);
    });
    return true;
  };
  // A page that is open when the server restarts.
  gate.cut();
  await page.getByRole('status').getByText('A newer version of this page is ready.').waitFor();
  await stage.shot(page, 'newer-version');
  await page.getByRole('button', { name: 'Reload' }).click();
  await page.getByRole('button', { name: 'Bob' }).waitFor();
  assert.equal(await page.locator('html').getAttribute('data-release'), '2');
  await until(async () => (await stored(page)).caches.every((each) => !each.includes(hash)), 'the old shell is gone');
  assert.ok((await stored(page)).caches.some((each) => each.includes(newer)));

  // A server that accepts and never answers holds up neither the page nor what is written.
  gate.silent = true;
  await page.reload();
  await page.getByRole('button', { name: 'Sign out' }).waitFor({ timeout: 20000 });
  assert.equal(await page.locator('html').getAttribute('data-release'), '2');
  gate.silent = false;
  await page.getByRole('button', { name: 'Bob' }).waitFor({ timeout: 60000 });
});
