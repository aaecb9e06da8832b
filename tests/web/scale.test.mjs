// Long histories and long lists, in Chromium against the real server. Times are printed; counts are what is asserted.

import assert from 'node:assert/strict';

import { seal } from '../../web/crypto.js';
import { log, openConversation, until } from './stage.mjs';
import { story } from './story.mjs';

/** Most messages in the document at a time, with the block that is being filled. */
const MAX_DRAWN = 440;

story('with 10,000 messages only a window is downloaded and drawn, and a new message appears at once', async (stage) => {
  const bob = await stage.client('Bob');
  await bob.send(Array.from({ length: 10000 }, (_, i) => `message ${i} of a long history, ${'with some words '.repeat(i % 5)}`), { width: 24 });
  await bob.send(['the newest of all']);
  const alice = await stage.page('Alice');
  const downloaded = () => alice.evaluate(() => performance.getEntriesByType('resource').reduce((sum, entry) => sum + /** @type {PerformanceResourceTiming} */ (entry).encodedBodySize, 0));
  await openConversation(alice, 'Bob');
  await alice.getByRole('button', { name: 'Newest messages' }).click();
  await log(alice).getByText('the newest of all').waitFor();
  assert.ok((await downloaded()) < 1000000, `opening downloads ${await downloaded()} bytes`);

  const scroller = log(alice);
  const drawn = () => scroller.locator('.message').count();
  // Up to the first message, a screen at a time; each frame is measured.
  const frames = await scroller.evaluate(async (element) => {
    const times = [];
    const end = performance.now() + 60000;
    for (let last = performance.now(); performance.now() < end; ) {
      element.scrollTop -= element.clientHeight;
      await new Promise((resolve) => requestAnimationFrame(resolve));
      const now = performance.now();
      times.push(now - last);
      last = now;
      const older = /** @type {HTMLElement} */ (element.querySelector('.older'));
      if (element.scrollTop === 0 && older.hidden) break;
    }
    return times.sort((a, b) => a - b);
  });
  assert.equal(await scroller.locator('.older').isHidden(), true, 'the first message is reached');
  assert.ok((await drawn()) <= MAX_DRAWN, `${await drawn()} messages are drawn`);
  const rank = (/** @type {number} */ share) => Math.round(frames[Math.floor(frames.length * share)]);
  console.log(`# ${frames.length} frames of scrolling: median ${rank(0.5)} ms, 95 % ${rank(0.95)} ms, longest ${Math.round(frames.at(-1) ?? 0)} ms`);

  const appears = async (/** @type {string} */ text) =>
    alice.evaluate(async (wanted) => {
      const field = /** @type {HTMLTextAreaElement} */ (document.querySelector('textarea'));
      const start = performance.now();
      field.value = wanted;
      field.form?.requestSubmit();
      while (![...document.querySelectorAll('.log .text')].slice(-3).some((node) => node.textContent === wanted)) await new Promise((resolve) => setTimeout(resolve, 1));
      await new Promise((resolve) => requestAnimationFrame(resolve));
      return performance.now() - start;
    }, text);
  console.log(`# a new message with 10,000 in memory: ${Math.round(await appears('first of Alice'))} ms, then ${Math.round(await appears('second of Alice'))} ms`);
  assert.ok((await drawn()) <= MAX_DRAWN, `${await drawn()} messages are drawn`);
  // Up and down again, without a gap and without a repetition.
  // Before, it shows the newest 120 and the two of Alice. Whose message was just delivered may be at the end again, so she
  // goes on scrolling.
  await until(async () => {
    await scroller.evaluate((element) => element.scrollTo(0, 0));
    return (await drawn()) > 122;
  }, 'earlier messages are drawn');
  const ids = await scroller.locator('.message').evaluateAll((all) => all.map((each) => /** @type {HTMLElement} */ (each).dataset.id));
  assert.equal(new Set(ids).size, ids.length);
});

story('a list of 500 conversations is read with few requests, and each row shows its last message once it is in sight', async (stage) => {
  const page = await (await stage.newContext()).newPage();
  stage.listen(page, 'Alice');
  const requests = await crowd(page, await stage.client('Alice'), 500);
  await page.goto(stage.link('Alice'));
  const list = page.getByRole('list', { name: 'Conversations' });
  await until(async () => (await list.getByRole('button').count()) === 500, 'all are listed');
  await list.getByText('Hello from friend 29').waitFor();
  assert.equal(await list.getByText('Hello from friend 400').count(), 0);
  assert.ok(requests.size < 60, `${requests.size} conversations are read`);
  const scroller = page.locator('.lists');
  await scroller.evaluate((element) => element.scrollTo(0, element.scrollHeight));
  await list.getByText('Hello from friend 499').waitFor();
  await stage.shot(page, 'list-500');
  await page.getByRole('searchbox', { name: 'Search' }).fill('friend 77');
  await until(async () => (await list.getByRole('button').count()) === 1, 'one name is found');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'friend 77', level: 2 }).waitFor();
  await log(page).getByText('Hello from friend 77').waitFor();
});

/**
 * Makes the one conversation of a user many, on the way to the page.
 * @param {import('playwright-core').Page} page
 * @param {import('./stage.mjs').SdkClient} client
 * @param {number} size
 * @returns {Promise<Set<string>>} IDs of the conversations whose messages were asked for
 */
async function crowd(page, client, size) {
  const { conversation, key } = await client.conversation();
  const me = client.api.userid;
  const names = new Map(Array.from({ length: size }, (_, i) => [String(i).padStart(32, '0'), `friend ${i}`]));
  const conversations = [...names].map(([id, username], i) => {
    const participants = [{ userid: me, username: 'Alice' }, { userid: id, username }];
    return { ...conversation, id, participants, participantids: [me, id], lastmessageid: 'hello', lastaccess: 1700000000 - i };
  });
  /** @type {Set<string>} */
  const asked = new Set();
  await page.route('**/*api=chatconversation', async (route) => {
    const { action, conversationid } = route.request().postDataJSON();
    const answer = { status: 'OK', errormessage: '' };
    if (action === 'list') return route.fulfill({ json: { ...answer, conversations } });
    if (action === 'show') return route.fulfill({ json: { ...answer, conversation: conversations.find((each) => each.id === conversationid) } });
    asked.add(conversationid);
    const place = { conversationid, instance: conversation.instance, id: 'hello' };
    const Data = await seal(key, place, conversationid, `Hello from ${names.get(conversationid)}`);
    const message = { ID: 'hello', Type: 'Message', Created: '2026-11-23 01:16:01', ValidUntil: '', Data, UserID: conversationid };
    return route.fulfill({ json: { ...answer, messages: [message], reports: [], more: false } });
  });
  return asked;
}
