// People chat in Chromium against the real server.
// Run: npm install && CHATSERVER=../../target/debug/chatserver npm run browser

import assert from 'node:assert/strict';

import { act, log, openConversation, until, write } from './stage.mjs';
import { story } from './story.mjs';

story('two windows chat, with unread counts, ticks and presence, and the network shows no plaintext', async (stage) => {
  stage.traffic = [];
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
  // A screen reader is told of the new message, and not of the history.
  assert.equal(await alice.locator('[aria-live=polite]').textContent(), 'Bob: Hi Alice\non two lines');
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

story('a choice of availability is not overtaken by the one before', async (stage) => {
  const alice = await stage.page('Alice');
  const page = await (await stage.newContext()).newPage();
  stage.listen(page, 'Bob');
  // The choice that the sign-in announces reaches the server late.
  let held = /** @type {(() => void) | undefined} */ (undefined);
  let told = 0;
  await page.route(/api=chatavailability/, async (route) => {
    told += 1;
    if (!held) await new Promise((resolve) => (held = () => resolve(undefined)));
    await route.continue();
  });
  await page.goto(stage.link('Bob'));
  await until(async () => held !== undefined, 'the first choice is on its way');
  await page.getByLabel('Availability').selectOption('Busy');
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 0)));
  assert.equal(told, 1, 'the second choice waits for the first');
  held?.();
  await alice.locator('.dot[data-availability="busy"]').waitFor();
});

story('a thousand messages of history are read by scrolling up', async (stage) => {
  const bob = await stage.client('Bob');
  await bob.send(Array.from({ length: 1000 }, (_, i) => `message ${i + 1} of the history`), { minutes: 7 });
  const alice = await stage.page('Alice');
  await alice.getByLabel('99+ unread').waitFor();
  await openConversation(alice, 'Bob');
  await alice.getByRole('separator', { name: 'New messages' }).waitFor();
  const scroller = log(alice);
  // Only a window is drawn. What it shows on the way up is the whole history, in order, without a gap.
  /** @type {string[]} */
  let texts = [];
  let days = 0;
  await until(async () => {
    const drawn = await scroller.locator('.text').allTextContents();
    const after = texts.indexOf(drawn.at(-1) ?? '') + 1;
    assert.ok(texts.length === 0 || after > 0, 'the window overlaps the one before');
    texts = [...drawn, ...texts.slice(after)];
    days = Math.max(days, await scroller.locator('.day').count());
    await scroller.evaluate((element) => element.scrollTo(0, 0));
    return texts[0] === 'message 1 of the history';
  }, 'the first message is reached', 30000);
  assert.deepEqual(texts, Array.from({ length: 1000 }, (_, i) => `message ${i + 1} of the history`));
  assert.ok(days >= 2, 'days are told apart');
  await stage.shot(alice, 'history');
  // Messages below were never in sight.
  await alice.getByLabel(/ unread$/).waitFor();
  await alice.getByRole('button', { name: 'Newest messages' }).click();
  await scroller.getByText('message 1000 of the history').waitFor();
});

story('a message of another sender than it says is not shown', async (stage) => {
  const alice = await stage.page('Alice');
  await openConversation(alice, 'Bob');
  const bob = await stage.client('Bob');
  await bob.send(['as if Alice had written it'], { from: stage.people.Alice.userid });
  await log(alice).getByText('This message can’t be opened').waitFor();
  assert.equal(await alice.getByText('as if Alice had written it').count(), 0);
});

story('a wrong key and a wrong password are told, and the right ones sign in, white space beside them or not', async (stage) => {
  const { apikey, encryptionpassword } = stage.people.Alice;
  const page = await (await stage.newContext()).newPage();
  stage.listen(page, 'Alice');
  await page.goto(`${stage.base}app/`);
  await page.getByText('Your operator gave you an API key and an encryption password.').waitFor();
  const signIn = async (/** @type {string} */ key, /** @type {string} */ password) => {
    await page.getByLabel('API key').fill(key);
    await page.getByLabel('Encryption password').fill(password);
    await page.getByRole('button', { name: 'Sign in' }).click();
  };
  await signIn('0'.repeat(64), encryptionpassword);
  await page.getByRole('alert').getByText('No user has this API key').waitFor();
  await signIn(apikey, `${encryptionpassword}0 `);
  await page.getByRole('alert').getByText('The encryption password is wrong').waitFor();
  await stage.shot(page, 'wrong-password');
  await signIn(` ${apikey} `, ` ${encryptionpassword}\t`);
  await page.getByRole('button', { name: 'Bob' }).waitFor();
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
  await write(bob, 'to the other tab');
  await log(second).getByText('to the other tab').waitFor();
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
    const [inList, inHead] = await alice.locator('.row .avatar, .conversation-head .avatar').evaluateAll((all) => all.map((each) => getComputedStyle(each).backgroundColor));
    assert.deepEqual([inList, inHead], ['rgb(186, 255, 201)', 'rgb(186, 255, 201)']);
    await stage.shot(alice, 'coloured');
    await act(alice, 'Block');
    await alice.getByText('You have blocked Carol. Unblock in the menu (⋮) above.').waitFor();
    await stage.shot(alice, 'blocked');
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

story('an excerpt of a search begins with a whole word, and a search without a hit says what was searched', async (stage) => {
  const far = 'A sentence of many words that comes before the word needle and goes on after it';
  const bob = await stage.client('Bob');
  await bob.send(['I need a long needle', far, `${'x'.repeat(40)}needle`]);
  const alice = await stage.page('Alice');
  await alice.getByText('xneedle').waitFor();
  const search = alice.getByRole('searchbox', { name: 'Search' });
  await search.fill('needle');
  const found = alice.getByRole('list', { name: 'Messages found' }).locator('.preview');
  await found.first().waitFor();
  const long = `…${'x'.repeat(24)}needle`;
  assert.deepEqual(await found.allTextContents(), [long, '…comes before the word needle and goes on after it', 'I need a long needle']);
  await stage.shot(alice, 'excerpts');
  await search.fill('haystack');
  await alice.getByText('Nothing found. Only messages that are loaded are searched.').waitFor();
  await stage.shot(alice, 'nothing-found');
  await search.fill('q');
  await alice.getByText('No conversation has this name.').waitFor();
});

story('messages count as viewed only where they were seen', async (stage) => {
  const alice = await stage.page('Alice');
  const bob = await stage.page('Bob');
  await openConversation(bob, 'Alice');
  const show = (/** @type {string} */ state) =>
    bob.evaluate((visibility) => {
      Object.defineProperty(document, 'visibilityState', { value: visibility, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }, state);
  await show('hidden');
  await openConversation(alice, 'Bob');
  await write(alice, 'behind another window');
  await log(bob).getByText('behind another window').waitFor();
  await log(alice).getByRole('img', { name: 'Delivered' }).waitFor();
  await bob.getByLabel('1 unread').waitFor();
  // A marker behind it: what Bob sends meanwhile arrives, and the tick is still the same.
  await write(bob, 'a marker');
  await log(alice).getByText('a marker').waitFor();
  assert.equal(await log(alice).getByRole('img', { name: 'Viewed' }).count(), 0);
  await show('visible');
  await log(alice).getByRole('img', { name: 'Viewed' }).waitFor();
  await bob.getByLabel('1 unread').waitFor({ state: 'hidden' });
});

story('two devices of one user agree on what is unread', async (stage) => {
  const desk = await stage.page('Alice');
  const phone = await stage.page('Alice');
  const bob = await stage.page('Bob');
  await openConversation(bob, 'Alice');
  for (const text of ['one', 'two', 'three']) await write(bob, text);
  await desk.getByLabel('3 unread').waitFor();
  await phone.getByLabel('3 unread').waitFor();
  await openConversation(phone, 'Bob');
  await desk.getByLabel('3 unread').waitFor({ state: 'hidden' });
  await until(async () => !(await desk.title()).startsWith('('), 'the title of the other device follows');
});

story('a notification is shown where the user allowed it, and not of a muted conversation', async (stage) => {
  const context = await stage.newContext({ permissions: ['notifications'] });
  await context.addInitScript(() => {
    /** @type {string[]} */
    const shown = [];
    Object.assign(globalThis, { shown });
    const Stub = class {
      static permission = 'granted';
      static requestPermission = async () => 'granted';
      /** @param {string} title @param {{ body: string }} options */
      constructor(title, { body }) {
        shown.push(`${title}: ${body}`);
      }
      close() {}
    };
    Object.assign(globalThis, { Notification: Stub });
  });
  const alice = await stage.page('Alice', context);
  await alice.getByRole('button', { name: 'Notifications' }).click();
  const bob = await stage.page('Bob');
  await openConversation(bob, 'Alice');
  await write(bob, 'look here');
  const shown = () => alice.evaluate(() => /** @type {any} */ (globalThis).shown);
  await until(async () => (await shown()).length === 1, 'one notification is shown');
  // Alice looks at no conversation; another device of hers mutes it.
  const { api } = await stage.client('Alice');
  const [{ id: conversationid }] = (await api.conversation({ action: 'list' })).conversations;
  await api.conversation({ action: 'mute', conversationid });
  await alice.getByRole('img', { name: 'Muted' }).waitFor();
  await write(bob, 'quietly');
  await alice.getByLabel('2 unread').waitFor();
  assert.match(await alice.title(), /^Chat/);
  await api.conversation({ action: 'unmute', conversationid });
  await alice.getByRole('img', { name: 'Muted' }).waitFor({ state: 'hidden' });
  // The marker behind it.
  await write(bob, 'and here');
  await until(async () => (await shown()).includes('Bob: and here'), 'the next one is shown');
  assert.deepEqual(await shown(), ['Bob: look here', 'Bob: and here']);
});

story('a browser that blocks notifications is told of in a sentence', async (stage) => {
  const alice = await stage.page('Alice');
  await alice.getByRole('button', { name: 'Notifications' }).click();
  await alice.getByRole('alert').getByText('This browser blocks notifications from this page. Allow them in its site settings.').waitFor();
  assert.equal(await alice.getByRole('button', { name: 'Notifications' }).getAttribute('aria-pressed'), 'false');
  await stage.shot(alice, 'notifications-blocked');
});

story(
  'favourites come first, hidden ones are shown on demand, and each conversation keeps its draft',
  async (stage) => {
    const alice = await stage.page('Alice');
    await (await stage.client('Carol')).send(['a newer message']);
    const list = alice.getByRole('list', { name: 'Conversations' });
    const order = () => list.locator('.name').allTextContents();
    await until(async () => (await order()).join() === 'Carol,Bob', 'the newest comes first');
    await openConversation(alice, 'Bob');
    await act(alice, 'Favourite');
    await until(async () => (await order()).join() === 'Bob,Carol', 'the favourite comes first');
    await act(alice, 'Unfavourite');
    await until(async () => (await order()).join() === 'Carol,Bob', 'the newest comes first');

    const field = alice.getByRole('textbox', { name: 'Message' });
    await field.fill('for Bob');
    await openConversation(alice, 'Carol');
    assert.equal(await field.inputValue(), '');
    await field.fill('for Carol');
    await openConversation(alice, 'Bob');
    assert.equal(await field.inputValue(), 'for Bob');
    await alice.reload();
    for (const name of ['Carol', 'Bob']) {
      await openConversation(alice, name);
      await until(async () => (await field.inputValue()) === `for ${name}`, 'the draft is there');
    }

    await act(alice, 'Hide');
    await until(async () => (await order()).join() === 'Carol', 'the hidden one is gone');
    await alice.getByRole('button', { name: 'Show 1 hidden' }).click();
    await openConversation(alice, 'Bob');
    await act(alice, 'Unhide');
    await alice.getByRole('button', { name: 'Show 1 hidden' }).waitFor({ state: 'hidden' });
    assert.deepEqual(await order(), ['Carol', 'Bob']);
    await act(alice, 'Mute');
    await alice.getByRole('img', { name: 'Muted' }).waitFor();
    await act(alice, 'Unmute');
    await alice.getByRole('img', { name: 'Muted' }).waitFor({ state: 'hidden' });
  },
  (stage) => {
    stage.addPeople('Alice', 'Bob', 'Carol');
    stage.befriend('Alice', 'Bob');
    stage.befriend('Alice', 'Carol');
  },
);

story(
  'requests are declined and withdrawn, and the block list unblocks',
  async (stage) => {
    const alice = await stage.page('Alice');
    const bob = await stage.client('Bob');
    await bob.api.friends({ action: 'add', friend: 'alice@example.com' });
    await alice.locator('.badge.count', { hasText: '1' }).waitFor();
    await alice.getByRole('button', { name: 'Friend requests' }).click();
    await alice.getByRole('button', { name: 'Decline' }).click();
    await alice.getByText('No requests to you.').waitFor();
    await alice.keyboard.press('Escape');
    await alice.getByRole('button', { name: 'Add friend' }).click();
    const field = alice.getByLabel('E-mail address or user ID');
    await field.fill('no address');
    await alice.getByRole('button', { name: 'Send request' }).click();
    const refusal = alice.getByRole('dialog').getByRole('alert');
    await refusal.getByText('friend').waitFor();
    assert.match((await refusal.textContent()) ?? '', /^Friend .*\.$/, 'the sentence of the server reads as one');
    await field.fill('carol@example.com');
    await alice.getByRole('button', { name: 'Send request' }).click();
    await alice.getByText('Request sent to carol@example.com').waitFor();
    await alice.keyboard.press('Escape');
    await alice.getByRole('button', { name: 'Friend requests' }).click();
    await alice.getByRole('button', { name: 'Withdraw' }).click();
    await alice.getByRole('button', { name: 'Withdraw' }).waitFor({ state: 'hidden' });
    await alice.keyboard.press('Escape');
    await (await stage.client('Alice')).api.blocks({ action: 'block', userid: stage.people.Bob.userid });
    await alice.getByRole('button', { name: 'Block list' }).click();
    await alice.getByRole('dialog').getByRole('button', { name: 'Unblock' }).click();
    await alice.getByText('Your block list is empty.').waitFor();
  },
  (stage) => {
    stage.addPeople('Alice', 'Bob');
  },
);
