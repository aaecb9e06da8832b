// The web client in Chromium against the real server.
// Run: npm install && CHATSERVER=target/debug/chatserver node --test tests/web/browser.test.mjs

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';

import { Stage, act, launch, log, openConversation, until, write } from './stage.mjs';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** @type {import('playwright-core').Browser} */
let browser;
before(async () => {
  browser = await launch();
});
after(() => browser.close());

/**
 * @param {string} name
 * @param {(stage: Stage) => Promise<void>} script
 * @param {(stage: Stage) => void} [prepare]
 */
function story(name, script, prepare = aliceAndBob) {
  test(name, { timeout: 90000 }, async () => {
    const stage = new Stage(browser);
    try {
      prepare(stage);
      await stage.open();
      await script(stage);
    } catch (error) {
      let i = 0;
      for (const context of stage.contexts) for (const page of context.pages()) await stage.shot(page, `failed-${name}-${i++}`).catch(() => {});
      throw error;
    } finally {
      await stage.close();
    }
  });
}

/** @param {Stage} stage */
function aliceAndBob(stage) {
  stage.addPeople('Alice', 'Bob');
  stage.befriend('Alice', 'Bob');
}

story('two windows chat, with unread counts, ticks and presence, and the network shows no plaintext', async (stage) => {
  const alice = await stage.page('Alice');
  const bob = await stage.page('Bob');
  assert.equal(new URL(alice.url()).hash, '');

  await openConversation(alice, 'Bob');
  await alice.locator('.presence', { hasText: 'Available' }).waitFor();
  await write(alice, 'Hello, Bob');
  await log(alice).getByText('Hello, Bob').waitFor();
  await bob.getByLabel('1 unread').waitFor();
  await until(async () => (await bob.title()).startsWith('(1) '), 'the title begins with the unread total');
  await log(alice).getByRole('img', { name: 'Delivered' }).waitFor();

  await openConversation(bob, 'Alice');
  await log(bob).getByText('Hello, Bob').waitFor();
  await log(alice).getByRole('img', { name: 'Viewed' }).waitFor();
  await until(async () => !(await bob.title()).startsWith('('), 'the title has no unread total any more');

  await bob.getByRole('textbox', { name: 'Message' }).fill('Hi Alice');
  await bob.keyboard.press('Shift+Enter');
  await bob.keyboard.type('on two lines');
  await bob.keyboard.press('Enter');
  await log(alice).getByText('Hi Alice\non two lines').waitFor();
  await bob.getByLabel('Availability').selectOption('Busy');
  await alice.locator('.presence', { hasText: 'Busy' }).waitFor();
  await stage.shot(alice, 'two-windows-alice');
  await stage.shot(bob, 'two-windows-bob');

  const traffic = stage.traffic.join('\n');
  assert.ok(traffic.includes('"Data"'), 'the traffic was recorded');
  for (const secret of ['Hello, Bob', 'on two lines', stage.people.Alice.encryptionpassword, 'BEGIN PRIVATE']) {
    assert.ok(!traffic.includes(secret), `the network shows ${secret}`);
  }
});

story('what is written offline is sent when the network is back', async (stage) => {
  const context = await stage.newContext();
  const alice = await stage.page('Alice', context);
  const bob = await stage.page('Bob');
  await openConversation(alice, 'Bob');
  await openConversation(bob, 'Alice');
  await context.setOffline(true);
  await alice.getByRole('status').getByText('Offline').waitFor();
  await write(alice, 'written in a tunnel');
  await log(alice).getByRole('img', { name: 'Sending' }).waitFor();
  await write(bob, 'are you there?');
  await stage.shot(alice, 'offline');
  await context.setOffline(false);
  await log(bob).getByText('written in a tunnel').waitFor();
  await log(alice).getByText('are you there?').waitFor();
  await alice.getByRole('status').getByText('Offline').waitFor({ state: 'hidden' });
});

story('killing and restarting the server loses nothing and needs no reload', async (stage) => {
  const alice = await stage.page('Alice');
  const bob = await stage.page('Bob');
  await openConversation(alice, 'Bob');
  await openConversation(bob, 'Alice');
  for (let i = 1; i <= 5; i++) await write(alice, `before ${i}`);
  await stage.killServer();
  await alice.getByRole('status').getByText('Offline').waitFor();
  for (let i = 1; i <= 3; i++) await write(alice, `meanwhile ${i}`);
  await stage.startServer();
  await log(bob).getByText('meanwhile 3').waitFor({ timeout: 30000 });
  await write(bob, 'after it');
  await log(alice).getByText('after it').waitFor();
  const texts = await log(bob).locator('.text').allTextContents();
  assert.deepEqual(texts, ['before 1', 'before 2', 'before 3', 'before 4', 'before 5', 'meanwhile 1', 'meanwhile 2', 'meanwhile 3', 'after it']);
});

story('a reload keeps what waits to be sent, and the draft', async (stage) => {
  const context = await stage.newContext();
  const alice = await stage.page('Alice', context);
  const bob = await stage.page('Bob');
  await openConversation(alice, 'Bob');
  await openConversation(bob, 'Alice');
  await stage.killServer();
  await alice.getByRole('status').getByText('Offline').waitFor();
  await write(alice, 'sent before the reload');
  await log(alice).getByRole('img', { name: 'Sending' }).waitFor();
  await alice.getByRole('textbox', { name: 'Message' }).fill('half a thought');
  alice.on('dialog', (dialog) => dialog.accept());
  await stage.startServer();
  await alice.reload();
  await openConversation(alice, 'Bob');
  await log(bob).getByText('sent before the reload').waitFor();
  assert.equal(await alice.getByRole('textbox', { name: 'Message' }).inputValue(), 'half a thought');
});

story('a thousand messages of history are read by scrolling up', async (stage) => {
  const bob = await stage.client('Bob');
  await bob.send(Array.from({ length: 1000 }, (_, i) => `message ${i + 1} of the history`), { minutes: 7 });
  const alice = await stage.page('Alice');
  await alice.getByLabel('99+ unread').waitFor();
  await openConversation(alice, 'Bob');
  await alice.getByRole('separator', { name: 'New messages' }).waitFor();
  const scroller = log(alice);
  await until(async () => {
    await scroller.evaluate((element) => element.scrollTo(0, 0));
    return scroller.getByText('message 1 of the history', { exact: true }).isVisible();
  }, 'the first message is reached', 30000);
  const texts = await scroller.locator('.text').allTextContents();
  assert.deepEqual(texts, Array.from({ length: 1000 }, (_, i) => `message ${i + 1} of the history`));
  assert.ok((await scroller.locator('.day').count()) >= 4, 'days are told apart');
  await stage.shot(alice, 'history');
  await alice.getByRole('button', { name: 'Newest messages' }).click();
  await scroller.getByText('message 1000 of the history').waitFor();
});

story('markup, emoji and right-to-left text are shown as they were written', async (stage) => {
  const texts = ['<img src=x onerror=alert(1)><b>bold</b> &amp;', '👩‍👩‍👧‍👦 👋🏽 🇭🇺', 'שלום עולם, مرحبا', 'see https://example.com/a_(b)?c=1&d=2. javascript:alert(1)', '\u202Eevil https://example.com/\u202Efdp', 'a'.repeat(300)];
  const alice = await stage.page('Alice');
  await openConversation(alice, 'Bob');
  const bob = await stage.client('Bob');
  await bob.send(texts);
  await log(alice).getByText('a'.repeat(300)).waitFor();
  assert.deepEqual(await log(alice).locator('.text').allTextContents(), texts);
  assert.equal(await log(alice).locator('.text :not(a)').count(), 0);
  const links = await log(alice).locator('a').evaluateAll((all) => all.map((each) => [each.getAttribute('href'), each.getAttribute('rel')]));
  assert.deepEqual(links, [
    ['https://example.com/a_(b)?c=1&d=2', 'noopener noreferrer'],
    ['https://example.com/', 'noopener noreferrer'],
  ]);
  await stage.shot(alice, 'texts');
});

story('a message of another sender than it says is not shown', async (stage) => {
  const alice = await stage.page('Alice');
  await openConversation(alice, 'Bob');
  const bob = await stage.client('Bob');
  await bob.send(['as if Alice had written it'], { from: stage.people.Alice.userid });
  await log(alice).getByText('This message can’t be opened').waitFor();
  assert.equal(await alice.getByText('as if Alice had written it').count(), 0);
});

story('a wrong key and a wrong password are told, and the right ones sign in', async (stage) => {
  const { apikey, encryptionpassword } = stage.people.Alice;
  const page = await (await stage.newContext()).newPage();
  stage.listen(page, 'Alice');
  await page.goto(`${stage.base}app/`);
  const signIn = async (/** @type {string} */ key, /** @type {string} */ password) => {
    await page.getByLabel('API key').fill(key);
    await page.getByLabel('Encryption password').fill(password);
    await page.getByRole('button', { name: 'Sign in' }).click();
  };
  await signIn('0'.repeat(64), encryptionpassword);
  await page.getByRole('alert').getByText('No user has this API key').waitFor();
  await signIn(apikey, `${encryptionpassword}0`);
  await page.getByRole('alert').getByText('The encryption password is wrong').waitFor();
  await stage.shot(page, 'wrong-password');
  await signIn(apikey, encryptionpassword);
  await page.getByRole('button', { name: 'Bob' }).waitFor();
});

story('a session belongs to its tab, survives a reload and ends with Sign out', async (stage) => {
  const context = await stage.newContext();
  const alice = await stage.page('Alice', context);
  const bob = await stage.page('Bob', context);
  await alice.reload();
  await alice.getByRole('button', { name: 'Bob' }).waitFor();
  await bob.reload();
  await bob.getByRole('button', { name: 'Alice' }).waitFor();
  await alice.getByRole('button', { name: 'Sign out' }).click();
  await alice.getByRole('button', { name: 'Sign in' }).waitFor();
  await alice.reload();
  await alice.getByRole('button', { name: 'Sign in' }).waitFor();
  await bob.getByRole('button', { name: 'Alice' }).waitFor();
});

story('Stay signed in holds for new tabs, offline too, until Sign out', async (stage) => {
  const context = await stage.newContext();
  const first = await context.newPage();
  stage.listen(first, 'Alice');
  await first.goto(`${stage.base}app/`);
  await first.getByLabel('API key').fill(stage.people.Alice.apikey);
  await first.getByLabel('Encryption password').fill(stage.people.Alice.encryptionpassword);
  await first.getByLabel('Stay signed in on this device').check();
  await first.getByRole('button', { name: 'Sign in' }).click();
  await first.getByRole('button', { name: 'Bob' }).waitFor();
  await until(() => first.evaluate(async () => (await navigator.serviceWorker.ready).active !== null), 'the service worker is active');
  const second = await context.newPage();
  await second.goto(`${stage.base}app/`);
  await second.getByRole('button', { name: 'Bob' }).waitFor();
  await context.setOffline(true);
  const third = await context.newPage();
  await third.goto(`${stage.base}app/`);
  await third.getByRole('button', { name: 'Sign out' }).waitFor();
  await context.setOffline(false);
  await second.getByRole('button', { name: 'Sign out' }).click();
  for (const page of [first, second, third]) await page.getByRole('button', { name: 'Sign in' }).waitFor();
  const keys = await first.evaluate(
    () =>
      new Promise((resolve) => {
        const opened = indexedDB.open('chatserver');
        opened.onsuccess = () => {
          const all = opened.result.transaction('accounts').objectStore('accounts').getAllKeys();
          all.onsuccess = () => resolve(all.result);
        };
      }),
  );
  assert.deepEqual(keys, []);
});

story('two tabs of one user share a station and agree', async (stage) => {
  const context = await stage.newContext();
  const first = await stage.page('Alice', context);
  const second = await stage.page('Alice', context);
  const bob = await stage.page('Bob');
  await openConversation(first, 'Bob');
  await openConversation(second, 'Bob');
  await openConversation(bob, 'Alice');
  await write(first, 'from the first tab');
  await log(second).getByText('from the first tab').waitFor();
  await write(bob, 'to both');
  await log(first).getByText('to both').waitFor();
  await log(second).getByText('to both').waitFor();
  await act(second, 'Mute');
  await first.getByRole('img', { name: 'Muted' }).waitFor();
  const { apikey, userid } = stage.people.Alice;
  assert.ok(apikey && userid);
  assert.equal(JSON.parse(stage.command('station', 'list', stage.people.Alice.email, '--json')).stations.length, 1);
  await first.close();
  await write(bob, 'to the one that is left');
  await log(second).getByText('to the one that is left').waitFor();
});

story('a cleared conversation stops what was on its way, until it is sent again', async (stage) => {
  const context = await stage.newContext();
  const alice = await stage.page('Alice', context);
  const bob = await stage.page('Bob');
  await openConversation(alice, 'Bob');
  await openConversation(bob, 'Alice');
  await write(bob, 'old words');
  await log(alice).getByText('old words').waitFor();
  await context.setOffline(true);
  await write(alice, 'about the old words');
  await log(alice).getByRole('img', { name: 'Sending' }).waitFor();
  await act(bob, 'Clear messages');
  await bob.getByRole('dialog').getByRole('button', { name: 'Clear messages' }).click();
  await log(bob).getByText('old words').waitFor({ state: 'hidden' });
  await context.setOffline(false);
  await alice.getByText('Not sent: the conversation was cleared').waitFor();
  assert.equal(await log(alice).getByText('old words', { exact: true }).count(), 0);
  await stage.shot(alice, 'cleared');
  await alice.getByRole('button', { name: 'Send again' }).click();
  await log(bob).getByText('about the old words').waitFor();
  await alice.getByText('Not sent: the conversation was cleared').waitFor({ state: 'hidden' });
});

story(
  'Carol asks Alice, who accepts; then Alice blocks and removes her',
  async (stage) => {
    const alice = await stage.page('Alice');
    const carol = await stage.page('Carol');
    await carol.getByRole('button', { name: 'Add friend' }).click();
    const dialog = carol.getByRole('dialog', { name: 'Add friend' });
    await dialog.getByLabel('E-mail address or user ID').fill('alice@example.com');
    await dialog.getByRole('button', { name: 'Send request' }).click();
    await dialog.getByRole('status').getByText('Request sent').waitFor();
    await carol.keyboard.press('Escape');

    await alice.locator('.badge.count', { hasText: '1' }).waitFor();
    await alice.getByRole('button', { name: 'Friend requests' }).click();
    await stage.shot(alice, 'requests');
    await alice.getByRole('dialog').getByRole('button', { name: 'Accept' }).click();
    await alice.getByText('No requests to you.').waitFor();
    await alice.keyboard.press('Escape');
    await openConversation(alice, 'Carol');
    await openConversation(carol, 'Alice');
    await write(carol, 'Hello from Carol');
    await log(alice).getByText('Hello from Carol').waitFor();

    await act(alice, 'Favourite');
    await alice.getByRole('img', { name: 'Favourite' }).waitFor();
    await act(alice, 'Colour');
    await alice.getByRole('dialog').getByLabel('Green').check();
    await alice.keyboard.press('Escape');
    await alice.locator('.row.coloured').waitFor();
    await act(alice, 'Block');
    await alice.getByText('You have blocked Carol.').waitFor();
    await write(carol, 'into the void');
    await carol.getByText("Not sent: you can't write to Alice").waitFor();
    await act(alice, 'Unblock');
    await alice.getByRole('textbox', { name: 'Message' }).waitFor();
    await act(alice, 'Hide');
    await alice.getByRole('list', { name: 'Conversations' }).getByRole('button', { name: 'Carol' }).waitFor({ state: 'hidden' });
    await write(carol, 'a newer message');
    await alice.getByRole('list', { name: 'Conversations' }).getByRole('button', { name: 'Carol' }).waitFor();
    await openConversation(alice, 'Carol');
    await act(alice, 'Remove friend');
    await alice.getByRole('dialog').getByRole('button', { name: 'Remove friend' }).click();
    await alice.getByText('no longer friends').waitFor();
  },
  (stage) => {
    stage.addPeople('Alice', 'Carol');
  },
);

story('a search finds a message and shows it', async (stage) => {
  const bob = await stage.client('Bob');
  await bob.send([...Array.from({ length: 30 }, (_, i) => `noise ${i}`), 'the needle', ...Array.from({ length: 15 }, (_, i) => `hay ${i}`)]);
  const alice = await stage.page('Alice');
  await alice.getByText('hay 14').waitFor();
  await alice.keyboard.press('Control+k');
  await alice.keyboard.type('needle');
  await alice.getByRole('list', { name: 'Messages found' }).getByRole('button').waitFor();
  await stage.shot(alice, 'search');
  await alice.keyboard.press('ArrowDown');
  await alice.keyboard.press('Enter');
  await log(alice).getByText('the needle').waitFor();
  await until(() => log(alice).getByText('the needle').evaluate((element) => element.getBoundingClientRect().top > 0 && element.getBoundingClientRect().bottom < innerHeight), 'the message is in sight');
});

story('the keyboard alone signs in, chooses, writes and opens the menu', async (stage) => {
  const page = await (await stage.newContext()).newPage();
  stage.listen(page, 'Alice');
  await page.goto(`${stage.base}app/`);
  await page.getByLabel('API key').waitFor();
  await page.keyboard.type(stage.people.Alice.apikey);
  await page.keyboard.press('Tab');
  await page.keyboard.type(stage.people.Alice.encryptionpassword);
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'Bob' }).waitFor();
  await page.keyboard.press('Control+k');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await page.keyboard.type('typed alone');
  await page.keyboard.press('Enter');
  await log(page).getByText('typed alone').waitFor();
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Shift+Tab');
  assert.equal(await page.evaluate(() => document.activeElement?.getAttribute('aria-label')), 'Conversation actions');
  await page.keyboard.press('Enter');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await page.getByRole('img', { name: 'Favourite' }).waitFor();
  await page.keyboard.press('Enter');
  await page.keyboard.press('Escape');
  assert.equal(await page.evaluate(() => document.activeElement?.getAttribute('aria-label')), 'Conversation actions');
  await page.keyboard.press('Escape');
  assert.match(await page.evaluate(() => document.activeElement?.className ?? ''), /row/);
});

for (const colorScheme of /** @type {const} */ (['light', 'dark'])) {
  story(`axe finds nothing in the ${colorScheme} theme`, async (stage) => {
    const bob = await stage.client('Bob');
    await bob.send(['Have you seen this? https://example.com/', 'It is worth a look.'], { minutes: 60 });
    const context = await stage.newContext({ colorScheme });
    const blank = await context.newPage();
    await blank.goto(`${stage.base}app/`);
    await blank.getByLabel('API key').waitFor();
    await check(blank, 'signing in');
    await stage.shot(blank, `${colorScheme}-signin`);
    const alice = await stage.page('Alice', context);
    await alice.getByLabel('2 unread').waitFor();
    await check(alice, 'the list');
    await openConversation(alice, 'Bob');
    await write(alice, 'I have, thank you!');
    await log(alice).getByRole('img', { name: 'Sent' }).waitFor();
    await check(alice, 'a conversation');
    await stage.shot(alice, `${colorScheme}-conversation`);
    await alice.getByRole('button', { name: 'Conversation actions' }).click();
    await check(alice, 'the menu');
    await stage.shot(alice, `${colorScheme}-menu`);
    await alice.getByRole('menuitem', { name: 'Colour' }).click();
    await check(alice, 'a dialog');
    await stage.shot(alice, `${colorScheme}-dialog`);
  });

  story(`at 360 px there is one column in the ${colorScheme} theme`, async (stage) => {
    const bob = await stage.client('Bob');
    await bob.send(['Hello', 'a long line without a place to break: ' + 'x'.repeat(120)]);
    const context = await stage.newContext({ colorScheme, viewport: { width: 360, height: 640 } });
    const alice = await stage.page('Alice', context);
    await alice.getByLabel('2 unread').waitFor();
    await check(alice, 'the list at 360 px');
    await stage.shot(alice, `${colorScheme}-360-list`);
    await openConversation(alice, 'Bob');
    await write(alice, 'Hi from the phone');
    await log(alice).getByRole('img', { name: 'Sent' }).waitFor();
    assert.equal(await alice.getByRole('list', { name: 'Conversations' }).isVisible(), false);
    await stage.shot(alice, `${colorScheme}-360-conversation`);
    assert.equal(await alice.evaluate(() => document.documentElement.scrollWidth), 360);
    assert.equal(await alice.locator('.conversation-head').evaluate((head) => head.getBoundingClientRect().top), 0);
    await check(alice, 'at 360 px');
    await alice.getByRole('button', { name: 'Back' }).click();
    await alice.getByRole('list', { name: 'Conversations' }).waitFor();
  });
}

/**
 * @param {import('playwright-core').Page} page
 * @param {string} where
 */
async function check(page, where) {
  // Through the debugger, which the page's policy does not bind.
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    const { violations } = await /** @type {any} */ (globalThis).axe.run(document);
    return violations.map((/** @type {any} */ each) => `${each.id}: ${each.nodes.map((/** @type {any} */ node) => node.html + ' ' + node.failureSummary).join('\n')}`);
  });
  assert.deepEqual(found, [], where);
}
