// Networks and servers that fail in every way, in Chromium, with a gate before the real server.

import assert from 'node:assert/strict';
import { describe } from 'node:test';

import { closeFrame, textFrame } from './gate.mjs';
import { log, openConversation, until, write } from './stage.mjs';
import { story } from './story.mjs';

/** Least times from the first of six attempts to the last, in ms: each wait is at least half of 0.5, 1, 2, 4 and 8 s. */
const SIX_ATTEMPTS = 7500;

/** @param {import('playwright-core').Page} page */
function offline(page) {
  return page.getByRole('status').getByText('Offline');
}

const REFUSED = { status: 'ERROR', errormessage: 'too many', errorcode: 'rate_limited' };

/**
 * Opens the conversation of Alice, whose connections pass a gate, and of Bob.
 * @param {import('./stage.mjs').Stage} stage
 */
async function chatThroughGate(stage) {
  const { gate, base } = await stage.gate();
  const alice = await stage.page('Alice', undefined, base);
  const bob = await stage.page('Bob');
  await openConversation(alice, 'Bob');
  await openConversation(bob, 'Alice');
  return { gate, alice, bob };
}

// Two at a time: they mostly wait for clocks of the client.
describe('networks and servers that fail', { concurrency: 2 }, () => {
  for (const { name, said } of [
    { name: 'refused with rate_limited', said: (/** @type {Buffer} */ _) => Buffer.concat([textFrame(REFUSED), closeFrame(4000)]) },
    { name: 'accepted and closed with 1011', said: (/** @type {Buffer} */ accepted) => Buffer.concat([accepted, closeFrame(1011)]) },
    { name: 'accepted and closed with 4003', said: (/** @type {Buffer} */ accepted) => Buffer.concat([accepted, closeFrame(4003)]) },
  ]) {
    story(`a listener that is ${name} each time is asked for more and more rarely`, async (stage) => {
      const { gate, base } = await stage.gate();
      gate.reply = (bytes) => (bytes.includes('"status":"OK"') ? said(bytes) : bytes);
      const alice = await stage.page('Alice', undefined, base);
      await until(() => gate.listeners.length >= 6, 'six attempts are made', 40000);
      const took = gate.listeners[5] - gate.listeners[0];
      assert.ok(took >= SIX_ATTEMPTS, `six attempts take ${took} ms`);
      assert.ok(gate.calls.length <= 60, `${gate.calls.length} calls`);
      await offline(alice).waitFor();
      gate.reply = (bytes) => bytes;
      await offline(alice).waitFor({ state: 'hidden', timeout: 20000 });
    });
  }

  story('a message that gets 503 is sent again and again, not in a hot loop, until it is accepted', async (stage) => {
    const { gate, alice, bob } = await chatThroughGate(stage);
    gate.answer = (outgoing, url) => {
      if (!url.includes('chatconversation')) return false;
      outgoing.writeHead(503, { 'Content-Type': 'application/json', 'Retry-After': '1' });
      outgoing.end(JSON.stringify({ status: 'ERROR', errormessage: 'busy', errorcode: 'unavailable' }));
      return true;
    };
    gate.calls = [];
    await write(alice, 'patience');
    const attempts = () => gate.calls.filter(({ api }) => api === 'chatconversation');
    await until(() => attempts().length >= 5, 'five attempts are made', 40000);
    const took = attempts()[4].at - attempts()[0].at;
    assert.ok(took >= 7500, `five attempts take ${took} ms`);
    await log(alice).getByRole('img', { name: 'Sending' }).waitFor();
    gate.answer = () => false;
    await log(bob).getByText('patience').waitFor({ timeout: 20000 });
    await log(alice).getByRole('img', { name: 'Viewed' }).waitFor();
  });

  story('the error page of a proxy is no answer, and the message is sent again', async (stage) => {
    const { gate, alice, bob } = await chatThroughGate(stage);
    gate.answer = (outgoing) => {
      outgoing.writeHead(502, { 'Content-Type': 'text/html', 'Retry-After': 'Wed, 21 Oct 2099 07:28:00 GMT' });
      outgoing.end('<h1>Bad Gateway</h1>');
      return true;
    };
    await write(alice, 'through a bad gateway');
    await until(() => gate.calls.length >= 3, 'it is tried');
    gate.answer = () => false;
    await log(bob).getByText('through a bad gateway').waitFor({ timeout: 20000 });
  });

  story('a network that is gone without saying so is noticed, and left for the next one', async (stage) => {
    const { gate, alice, bob } = await chatThroughGate(stage);
    gate.silent = true;
    await write(alice, 'into the void');
    await write(bob, 'from the other side');
    await until(() => gate.calls.at(-1)?.api === 'chatconversation', 'the call hangs');
    // The computer is in another network: the page is told so, as by the system.
    await alice.evaluate(() => dispatchEvent(new Event('online')));
    await offline(alice).waitFor();
    gate.silent = false;
    await log(alice).getByText('from the other side').waitFor({ timeout: 20000 });
    await log(bob).getByText('into the void').waitFor({ timeout: 20000 });
    await offline(alice).waitFor({ state: 'hidden' });
  });

  story('after a sleep the page connects anew, although its old connection looks alive', async (stage) => {
    const { gate, alice, bob } = await chatThroughGate(stage);
    gate.silent = true;
    await write(bob, 'while you slept');
    await log(bob).getByRole('img', { name: 'Sent' }).waitFor();
    const before = gate.listeners.length;
    await alice.evaluate(() => {
      const { now } = Date;
      Date.now = () => now() + 200000;
    });
    await until(() => gate.listeners.length > before, 'the page connects anew');
    gate.silent = false;
    await log(alice).getByText('while you slept').waitFor({ timeout: 20000 });
  });

  story('a clock that is an hour wrong is corrected by the server', async (stage) => {
    const context = await stage.newContext();
    await context.addInitScript(() => {
      const { now } = Date;
      Date.now = () => now() - 3600000;
    });
    const alice = await stage.page('Alice', context);
    const bob = await stage.page('Bob');
    await openConversation(alice, 'Bob');
    await openConversation(bob, 'Alice');
    await write(alice, 'what time is it?');
    await log(bob).getByText('what time is it?').waitFor();
    await write(bob, 'an hour later');
    await log(alice).getByText('an hour later').waitFor();
    await until(() => alice.evaluate(() => document.querySelector('.banner')?.textContent === ''), 'the listener is connected');
    const { api } = await stage.client('Alice');
    const { conversations } = await api.conversation({ action: 'list' });
    const { messages } = await api.conversation({ action: 'download', conversationid: conversations[0].id });
    assert.ok(Math.abs(Date.parse(`${messages[0].Created.replace(' ', 'T')}Z`) - Date.now()) < 60000, messages[0].Created);
  });

  story('a frozen tab loses the listener to one that is in sight', async (stage) => {
    const context = await stage.newContext();
    const first = await stage.page('Alice', context);
    await until(() => first.evaluate(() => document.querySelector('.banner')?.textContent === ''), 'the first tab is there');
    const second = await stage.page('Alice', context);
    const bob = await stage.page('Bob');
    await openConversation(bob, 'Alice');
    await openConversation(second, 'Bob');
    const debug = await context.newCDPSession(first);
    await debug.send('Debugger.enable');
    await debug.send('Debugger.pause');
    // A pause holds from the next line that runs.
    const paused = new Promise((resolve) => debug.once('Debugger.paused', resolve));
    await write(bob, 'is anyone awake?');
    await paused;
    await log(second).getByText('is anyone awake?').waitFor({ timeout: 40000 });
    await write(bob, 'good');
    await log(second).getByText('good').waitFor();
    await debug.send('Debugger.resume');
    await debug.detach();
    await openConversation(first, 'Bob');
    await log(first).getByText('good').waitFor();
    await write(bob, 'both again');
    for (const page of [first, second]) {
      await log(page).getByText('both again').waitFor();
      assert.equal(await page.locator('.banner').textContent(), '');
    }
  });

  story('two tabs lose the network, the leader closes, and the other one sends and receives what waited', async (stage) => {
    const { gate, base } = await stage.gate();
    const context = await stage.newContext();
    const [first, second] = [await stage.page('Alice', context, base), await stage.page('Alice', context, base)];
    const bob = await stage.page('Bob');
    await openConversation(bob, 'Alice');
    await openConversation(second, 'Bob');
    gate.silent = true;
    gate.cut();
    for (const page of [first, second]) await offline(page).waitFor({ timeout: 20000 });
    await write(second, 'written without a network');
    await write(bob, 'are you there?');
    await first.close({ runBeforeUnload: false });
    gate.silent = false;
    await log(second).getByText('are you there?').waitFor({ timeout: 20000 });
    await log(bob).getByText('written without a network').waitFor({ timeout: 20000 });
    await offline(second).waitFor({ state: 'hidden' });
  });
});
