// Rendering and accessibility: texts, names, keyboard, axe in both themes, a narrow window.

import assert from 'node:assert/strict';

import { act, log, openConversation, write } from './stage.mjs';
import { check, story } from './story.mjs';

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

const LONG = 'Hubert Blaine Wolfeschlegelsteinhausenbergerdorff Senior of Phil';
const HEBREW = 'שרה לוי';
const FAMILY = '👩‍👩‍👧‍👦 Family';

story(
  'names of any script and length fit, and a new name is shown without a reload',
  async (stage) => {
    const alice = await stage.page('Alice');
    const list = alice.getByRole('list', { name: 'Conversations' });
    for (const name of [LONG, HEBREW, FAMILY, 'Bob']) await list.getByRole('button', { name }).waitFor();
    assert.equal(await alice.evaluate(() => document.documentElement.scrollWidth), 1100);
    assert.equal(await list.getByRole('button', { name: FAMILY }).locator('.avatar > span').first().textContent(), '👩‍👩‍👧‍👦');
    await openConversation(alice, LONG);
    const menu = await alice.getByRole('button', { name: 'Conversation actions' }).boundingBox();
    assert.ok(menu && menu.x + menu.width <= 1100, 'the menu is in sight');
    await stage.shot(alice, 'names');
    await openConversation(alice, 'Bob');
    stage.command('user', 'set', stage.people.Bob.email, '--nick', 'Robert');
    await alice.getByRole('heading', { name: 'Robert', level: 2 }).waitFor({ timeout: 20000 });
    await list.getByRole('button', { name: 'Robert' }).waitFor();
    assert.match(await alice.title(), /Robert/);
  },
  (stage) => {
    stage.addPeople('Alice', 'Bob', LONG, HEBREW, FAMILY);
    for (const nick of ['Bob', LONG, HEBREW, FAMILY]) stage.befriend('Alice', nick);
  },
);

story('a time on the 12-hour clock has no zero before it', async (stage) => {
  // Where it is eight o'clock now, in the morning or the evening.
  const timezoneId = `Etc/GMT+${(new Date().getUTCHours() + 4) % 12}`;
  const alice = await stage.page('Alice', await stage.newContext({ locale: 'en-US', timezoneId }));
  await openConversation(alice, 'Bob');
  await write(alice, 'Good day');
  await log(alice).getByRole('img', { name: 'Sent' }).waitFor();
  const times = await alice.locator('.row time, .meta time').allTextContents();
  assert.equal(times.length, 2);
  for (const time of times) assert.match(time, /^[89]:\d\d\s[AP]M$/);
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
    await alice.keyboard.press('Escape');
    const conversation = ['Colour', 'Clear messages', 'Remove friend'].map((name) => ({ name, show: () => act(alice, name) }));
    const toolbar = ['Add friend', 'Friend requests', 'Block list'].map((name) => ({ name, show: () => alice.getByRole('button', { name }).click() }));
    for (const { name, show } of [...conversation, ...toolbar]) {
      await show();
      await alice.getByRole('dialog', { name }).waitFor();
      await check(alice, `the dialog ${name}`);
      await stage.shot(alice, `${colorScheme}-dialog-${name.toLowerCase().replace(' ', '-')}`);
      await alice.keyboard.press('Escape');
      await alice.getByRole('dialog').waitFor({ state: 'detached' });
    }
    await alice.getByRole('searchbox', { name: 'Search' }).fill('worth');
    await alice.getByRole('list', { name: 'Messages found' }).getByRole('button').waitFor();
    await check(alice, 'a search');
    await alice.keyboard.press('Escape');
    // Offline, with a message that waits and one that failed.
    const { userid } = stage.people.Bob;
    await (await stage.client('Alice')).api.blocks({ action: 'block', userid });
    await alice.getByText('You have blocked Bob.').waitFor();
    await check(alice, 'a blocked conversation');
    await (await stage.client('Bob')).api.blocks({ action: 'block', userid: stage.people.Alice.userid });
    await (await stage.client('Alice')).api.blocks({ action: 'unblock', userid });
    await write(alice, 'into the void');
    await alice.getByText("Not sent: you can't write to Bob").waitFor();
    await context.setOffline(true);
    await alice.getByRole('status').getByText('Offline').waitFor();
    await write(alice, 'later');
    await log(alice).getByRole('img', { name: 'Sending' }).waitFor();
    await check(alice, 'offline');
    await stage.shot(alice, `${colorScheme}-offline`);
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
