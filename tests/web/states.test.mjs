// Sessions, lost connections, restarts and restores, in Chromium against the real server.

import assert from 'node:assert/strict';

import { act, launch, log, openConversation, until, write } from './stage.mjs';
import { story } from './story.mjs';

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
  await alice.getByRole('heading', { name: 'Bob', level: 2 }).waitFor();
  await log(bob).getByText('sent before the reload').waitFor();
  assert.equal(await alice.getByRole('textbox', { name: 'Message' }).inputValue(), 'half a thought');
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
  await bob.getByRole('dialog').getByRole('button', { name: 'Cancel' }).click();
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

story('a conversation says that it was cleared, and an empty one that it has no messages yet', async (stage) => {
  const alice = await stage.page('Alice');
  const bob = await stage.page('Bob');
  await openConversation(alice, 'Bob');
  await openConversation(bob, 'Alice');
  await log(bob).getByText('No messages yet. Write the first one.').waitFor();
  await write(alice, 'soon gone');
  await log(bob).getByText('soon gone').waitFor();
  await act(alice, 'Clear messages');
  await alice.getByRole('dialog').getByRole('button', { name: 'Clear messages' }).click();
  for (const page of [alice, bob]) {
    await log(page).getByText('The messages were cleared.').waitFor();
    await page.reload();
    await log(page).getByText('The messages were cleared.').waitFor();
    await page.getByRole('list', { name: 'Conversations' }).getByText('Messages cleared').waitFor();
  }
  await stage.shot(bob, 'cleared-by-alice');
});

story('a restore of a backup needs no reload, and each sends again what the backup lacks', async (stage) => {
  const alice = await stage.page('Alice');
  const bob = await stage.page('Bob');
  await openConversation(alice, 'Bob');
  await openConversation(bob, 'Alice');
  await write(alice, 'in the backup');
  await log(bob).getByText('in the backup').waitFor();
  stage.command('backup', `${stage.folder}/backup.db`);
  await write(alice, 'Alice after the backup');
  await log(bob).getByText('Alice after the backup').waitFor();
  await write(bob, 'Bob after the backup');
  await log(alice).getByText('Bob after the backup').waitFor();
  await stage.killServer();
  await alice.getByRole('status').getByText('Offline').waitFor();
  stage.command('restore', `${stage.folder}/backup.db`, '--force');
  await stage.startServer();
  await alice.getByRole('status').getByText('Offline').waitFor({ state: 'hidden', timeout: 30000 });
  await bob.getByRole('status').getByText('Offline').waitFor({ state: 'hidden', timeout: 30000 });
  const expected = ['Alice after the backup', 'Bob after the backup', 'in the backup'];
  for (const page of [alice, bob]) {
    await until(async () => JSON.stringify((await log(page).locator('.text').allTextContents()).sort()) === JSON.stringify(expected), 'all three are there');
  }
  const { api } = await stage.client('Alice');
  const { conversations } = await api.conversation({ action: 'list' });
  const { messages } = await api.conversation({ action: 'download', conversationid: conversations[0].id });
  assert.equal(messages.length, 3);
});

story('after a restore two tabs show the same, and send their own messages again', async (stage) => {
  const context = await stage.newContext();
  const [first, second] = [await stage.page('Alice', context), await stage.page('Alice', context)];
  for (const page of [first, second]) await openConversation(page, 'Bob');
  await write(first, 'in the backup');
  await log(second).getByText('in the backup').waitFor();
  stage.command('backup', `${stage.folder}/backup.db`);
  await (await stage.client('Bob')).send(['lost']);
  await log(second).getByText('lost').waitFor();
  await write(second, 'sent again');
  await log(first).getByText('sent again').waitFor();
  await stage.killServer();
  stage.command('restore', `${stage.folder}/backup.db`, '--force');
  await stage.startServer();
  for (const page of [first, second]) {
    await until(async () => (await log(page).locator('.text').allTextContents()).join() === 'in the backup,sent again', 'the restored state', 30000);
  }
});

story('three windows that write at once agree on the order, across a crash of the server', async (stage) => {
  const windows = [await stage.page('Alice'), await stage.page('Alice'), await stage.page('Bob')];
  for (const [i, page] of windows.entries()) await openConversation(page, i === 2 ? 'Alice' : 'Bob');
  /** @type {string[]} */
  const written = [];
  for (let round = 0; round < 12; round++) {
    await Promise.all(
      windows.map((page, i) => {
        written.push(`window ${i} round ${round}`);
        return write(page, `window ${i} round ${round}`);
      }),
    );
    if (round === 5) await stage.killServer();
    if (round === 8) await stage.startServer();
  }
  const texts = (/** @type {import('playwright-core').Page} */ page) => log(page).locator('.history .text').allTextContents();
  for (const page of windows) await until(async () => (await texts(page)).length === written.length, 'all messages are there', 40000);
  const [desk, phone, bob] = await Promise.all(windows.map(texts));
  assert.deepEqual(phone, desk);
  assert.deepEqual(bob, desk);
  assert.deepEqual([...desk].sort(), [...written].sort());
  for (const [i] of windows.entries()) {
    const own = desk.filter((text) => text.startsWith(`window ${i}`));
    assert.deepEqual(own, Array.from({ length: 12 }, (_, round) => `window ${i} round ${round}`));
  }
});

story('over plain http on another host the page says what is wrong', async (stage) => {
  const other = await launch('--host-resolver-rules=MAP chat.example 127.0.0.1');
  try {
    const page = await other.newPage();
    stage.listen(page, 'insecure');
    await page.goto(stage.link('Alice').replace('127.0.0.1', 'chat.example'));
    await page.getByRole('heading', { name: 'This address is not secure' }).waitFor();
    assert.equal(await page.getByLabel('API key').count(), 0);
    assert.equal(new URL(page.url()).hash, '', 'the credentials leave the address bar here, too');
    await stage.shot(page, 'insecure');
  } finally {
    await other.close();
  }
});
