// web/api.js, web/outbox.js and web/model.js without a browser: the server is a function that answers.
// Run: node --test tests/web/client.test.mjs

import assert from 'node:assert/strict';
import nodeCrypto from 'node:crypto';
import { beforeEach, test } from 'node:test';

import { Api, Clock, NoAnswer, formatDate } from '../../web/api.js';
import { importApiKey, open } from '../../web/crypto.js';
import { Drafts } from '../../web/drafts.js';
import { Conversation, Model } from '../../web/model.js';
import { Outbox } from '../../web/outbox.js';
import { Sync } from '../../web/sync.js';

const ALICE = 'c160f8cc69a4f0bf2b0362752353d060';
const BOB = '4b9bb80620f03eb3719e0a061c14283d';
const ID = 'b08a32f44191bdb3d491c93409cb425b';
const APIKEY = '0'.repeat(64);
const STATION = '0123456789abcdef0123456789abcdef';
const OK = { status: 'OK', errormessage: '' };

/** @param {string} errorcode @param {object} [more] */
const refusal = (errorcode, more = {}) => ({ status: 'ERROR', errormessage: errorcode, errorcode, ...more });

/** @type {any[]} bodies of the requests */
let asked = [];
/** @type {((body: any) => any)} */
let answer = () => OK;

/** @type {Map<string, any>} what the tab keeps over a reload */
const stored = new Map();
const kept = {
  put: async (/** @type {string} */ kind, /** @type {string} */ id, /** @type {any} */ value) => void stored.set(`${kind} ${id}`, structuredClone(value)),
  drop: async (/** @type {string} */ kind, /** @type {string} */ id) => void stored.delete(`${kind} ${id}`),
  all: async (/** @type {string} */ kind) => [...stored].filter(([key]) => key.startsWith(kind)).map(([, value]) => structuredClone(value)),
};
Object.assign(globalThis, {
  fetch: async (/** @type {URL} */ url, /** @type {any} */ { headers, body, signal }) => {
    const api = url.searchParams.get('api');
    const signed = ['chatserver', api, headers['Ozeki-User'], headers['Ozeki-Station'], body].join('\n');
    assert.equal(headers['Ozeki-Signature'], nodeCrypto.createHmac('sha256', APIKEY).update(signed).digest('hex'));
    asked.push(JSON.parse(body));
    const given = new Promise((resolve) => signal.addEventListener('abort', () => resolve(null)));
    const answered = await Promise.race([answer(JSON.parse(body)), given]);
    if (answered instanceof Response) return answered;
    if (answered === null) throw new TypeError('network error');
    if (answered === 'bare') return new Response('', { status: 408 });
    return new Response(JSON.stringify(answered), { status: answered.status === 'OK' ? 200 : 400 });
  },
});

beforeEach(() => {
  asked = [];
  answer = () => OK;
  stored.clear();
});

/** @param {Clock} [clock] */
async function newApi(clock) {
  return new Api({ base: 'http://chat.example/', userid: ALICE, station: STATION, key: await importApiKey(APIKEY), clock });
}

/** @returns {import('../../web/wire.js').WireConversation} */
function wire(instance = 'EE1hviQj6l') {
  const properties = [{ userid: ALICE, ismuted: false, isfavorite: false, hideid: '', listitembackgroundcolor: '#ffffff', unread: 0 }];
  const participants = [{ userid: BOB, username: 'Bob' }, { userid: ALICE, username: 'Alice' }];
  return { id: ID, participantids: [BOB, ALICE], participants, lastmessageid: '', lastreportid: '', lastaccess: 0, secret: '', instance, hiddenby: [], properties };
}

async function newOutbox() {
  const api = await newApi();
  const key = await crypto.subtle.importKey('raw', nodeCrypto.randomBytes(32), 'AES-GCM', false, ['encrypt', 'decrypt']);
  const model = new Model(/** @type {any} */ ({ userid: ALICE }));
  const conversation = new Conversation(ALICE, wire());
  model.conversations.set(ID, conversation);
  const sync = /** @type {any} */ ({ keyOf: async () => key, catchUp: async () => {}, take: (/** @type {any} */ changed) => conversation.update(changed) });
  const outbox = new Outbox(model, api, sync, kept, () => {});
  outbox.pause = async () => {};
  return { model, conversation, outbox, key, sync, api };
}

/** @param {() => unknown} claim */
async function until(claim) {
  const end = Date.now() + 10000;
  while (!claim() && Date.now() < end) await new Promise((resolve) => setTimeout(resolve, 1));
  assert.ok(claim());
}

test('a clock that is wrong is corrected by servertime, and the call is made again', async () => {
  const clock = new Clock(() => Date.parse('2026-11-28T10:00:00Z'));
  const api = await newApi(clock);
  answer = ({ timestamp }) => (timestamp.startsWith('2026-11-28 12:30') ? OK : refusal('timestamp_out_of_range', { servertime: '2026-11-28 12:30:00' }));
  await api.call('chatconversation', { action: 'list' });
  await api.call('chatconversation', { action: 'list' });
  assert.equal(asked.length, 3);
  assert.equal(formatDate(clock.now()), '2026-11-28 12:30:00');
});

test('two equal calls in one second differ in their bytes', async () => {
  const api = await newApi(new Clock(() => 0));
  await api.call('chatconversation', { action: 'mute', conversationid: ID });
  await api.call('chatconversation', { action: 'mute', conversationid: ID });
  assert.notEqual(asked[0].nonce, asked[1].nonce);
});

test('a read waits where the rate is exceeded, a change is told', async () => {
  const api = await newApi();
  answer = () => (asked.length === 1 ? refusal('rate_limited') : OK);
  await api.call('chatconversation', { action: 'list' });
  assert.equal(asked.length, 2);
  answer = () => refusal('rate_limited');
  await assert.rejects(api.call('chatfriends', { action: 'add', friend: 'bob@example.com' }), { code: 'rate_limited' });
});

test('the wait that a proxy names is followed up to a minute, and a date counts as none', async () => {
  const api = await newApi();
  for (const [named, expected] of [['7', 7], ['86400', 60], ['Wed, 21 Oct 2099 07:28:00 GMT', 0], ['-5', 0]]) {
    answer = () => new Response(JSON.stringify(refusal('unavailable')), { status: 503, headers: { 'Retry-After': String(named) } });
    await assert.rejects(api.call('chatconversation', { action: 'add' }), { code: 'unavailable', status: 503, retryAfter: expected });
  }
});

test('a call that is given up throws NoAnswer, and the next one is made', async () => {
  const api = await newApi();
  answer = () => new Promise(() => {});
  const running = api.call('chatconversation', { action: 'list' });
  await until(() => asked.length === 1);
  api.abort();
  await assert.rejects(running, NoAnswer);
  answer = () => OK;
  await api.call('chatconversation', { action: 'list' });
});

test('a page that the own limit ended does not end the history, although the server knows no more of its own', async () => {
  const { conversation, api, model } = await newOutbox();
  const sync = new Sync(model, api);
  const all = Array.from({ length: 300 }, (_, i) => ({ ID: `m${i}`, Type: 'Message', Created: '', ValidUntil: '', Data: '', UserID: BOB }));
  answer = ({ lastmessageid, limit }) => {
    const end = lastmessageid ? all.findIndex((each) => each.ID === lastmessageid) : all.length;
    return { ...OK, messages: all.slice(Math.max(0, end - limit), end), reports: [], more: false };
  };
  await sync.readLatest(conversation);
  assert.equal(conversation.complete, false);
  assert.equal(await sync.readOlder(conversation), true);
  assert.equal(await sync.readOlder(conversation), false);
  assert.deepEqual(conversation.messages.map((each) => each.id), all.map((each) => each.ID));
});

test('after a restore the messages of this page are sent again, with the same five fields', async () => {
  const { outbox, conversation, model } = await newOutbox();
  await outbox.send(conversation, 'after the backup');
  await until(() => model.outbox[0]?.acknowledged);
  conversation.append({ id: asked[0].message.ID, own: true, created: '', text: 'after the backup', tick: 'Sent', seen: false });
  conversation.loaded = true;
  await outbox.settle(ID);
  assert.equal(model.outbox.length, 0);

  conversation.forget();
  outbox.resendRecent();
  await until(() => asked.length === 2 && model.outbox[0]?.acknowledged);
  assert.deepEqual(asked[1].message, asked[0].message);
});

test('a message that meets a replaced key waits for the next sign-in', async () => {
  const { outbox, conversation, model } = await newOutbox();
  answer = () => (asked.length < 3 ? refusal('invalid_signature') : OK);
  await outbox.send(conversation, 'still here');
  await until(() => model.outbox[0]?.acknowledged);
  for (const body of asked) assert.deepEqual(body.message, asked[0].message);
});

test('a missing answer and a bare one are told apart from a refusal', async () => {
  const api = await newApi();
  answer = () => null;
  await assert.rejects(api.call('chatconversation', { action: 'list' }), NoAnswer);
  answer = () => 'bare';
  await assert.rejects(api.call('chatconversation', { action: 'list' }), NoAnswer);
  answer = () => refusal('blocked');
  await assert.rejects(api.call('chatconversation', { action: 'add' }), { code: 'blocked', status: 400 });
});

test('a message is sent again with the same five fields until it is acknowledged', async () => {
  const { outbox, conversation, model, key } = await newOutbox();
  const answers = [null, 'bare', refusal('unavailable'), refusal('storage_full'), refusal('rate_limited'), OK];
  answer = () => answers[asked.length - 1];
  await outbox.send(conversation, 'Hello');
  await until(() => model.outbox[0]?.acknowledged);
  assert.equal(asked.length, answers.length);
  for (const body of asked) assert.deepEqual(body.message, asked[0].message);
  assert.deepEqual(Object.keys(asked[0].message).sort(), ['Created', 'Data', 'ID', 'Type', 'ValidUntil']);
  const place = { conversationid: ID, instance: asked[0].instance, id: asked[0].message.ID };
  assert.equal(await open(key, place, ALICE, asked[0].message.Data), 'Hello');
});

test('messages of a conversation are sent in order, one at a time', async () => {
  const { outbox, conversation, model } = await newOutbox();
  const texts = ['one'.repeat(50000), 'two', 'three'];
  let running = 0;
  answer = async () => {
    assert.equal(++running, 1);
    await new Promise((resolve) => setTimeout(resolve, 5));
    running--;
    return asked.length === 2 ? null : OK;
  };
  await Promise.all(texts.map((text) => outbox.send(conversation, text)));
  await until(() => model.outbox.length === 3 && asked.length >= 1);
  for (let i = 0; i < 100 && model.outbox.some((each) => !each.acknowledged); i++) await new Promise((resolve) => setTimeout(resolve, 10));
  assert.deepEqual(model.outbox.map((each) => each.text), texts);
  const order = model.outbox.map((each) => each.message.ID);
  assert.deepEqual([...new Set(asked.map((body) => body.message.ID))], order);
});

test('after instance_changed a message waits for Send again, and then has a new ID in the new instance', async () => {
  const { outbox, conversation, model, key } = await newOutbox();
  answer = (body) => (body.instance === 'umOlyo1mEw' ? OK : refusal('instance_changed', { conversation: wire('umOlyo1mEw') }));
  await outbox.send(conversation, 'about the old words');
  await until(() => model.outbox[0]?.failure);
  assert.equal(model.outbox[0].failure, 'Not sent: the conversation was cleared');
  outbox.wake();
  assert.equal(asked.length, 1);

  await outbox.sendAgain(model.outbox[0]);
  await until(() => model.outbox[0]?.acknowledged);
  assert.equal(asked.length, 2);
  assert.notEqual(asked[1].message.ID, asked[0].message.ID);
  const place = { conversationid: ID, instance: 'umOlyo1mEw', id: asked[1].message.ID };
  assert.equal(await open(key, place, ALICE, asked[1].message.Data), 'about the old words');
});

test('a conversation that begins anew takes its new key', async () => {
  const { conversation, model, outbox } = await newOutbox();
  conversation.key = Promise.resolve(/** @type {CryptoKey} */ ({}));
  conversation.update(wire('umOlyo1mEw'));
  assert.notEqual(conversation.key, undefined, 'a clear keeps the key');
  conversation.update({ ...wire('gG3bJ0aAbc'), secret: 'bmV3' });
  assert.equal(conversation.key, undefined);

  // Its text was sealed under the former key.
  const message = { ID: 'm-1', Type: 'Message', Created: '', ValidUntil: '', Data: '' };
  const entry = { conversationid: ID, instance: 'umOlyo1mEw', message, text: '', position: 1, failure: '', cleared: true, acknowledged: false };
  model.outbox = [/** @type {any} */ (entry)];
  await outbox.sendAgain(model.outbox[0]);
  assert.deepEqual([asked, model.outbox], [[], []]);
});

test('what waits survives a reload, sealed', async () => {
  const { outbox, conversation, model, api, sync } = await newOutbox();
  /** @type {(value: unknown) => void} */
  let release = () => {};
  answer = () => new Promise((resolve) => (release = resolve));
  await outbox.send(conversation, 'in a tunnel');
  await until(() => asked.length === 1);
  outbox.stopped = true;
  assert.equal(stored.size, 1);
  assert.ok(!JSON.stringify([...stored]).includes('tunnel'));

  answer = () => OK;
  model.outbox = [];
  const reloaded = new Outbox(model, api, sync, kept, () => {});
  await reloaded.restore();
  assert.equal(model.outbox[0].text, 'in a tunnel');
  await until(() => asked.length === 2);
  assert.deepEqual(asked[1].message, asked[0].message);
  await until(() => stored.size === 0);
  release(null);
});

test('a draft is kept sealed, the last text wins, and an empty one is dropped', async () => {
  const { model, conversation, sync } = await newOutbox();
  const drafts = new Drafts(model, sync, kept);
  const texts = ['h', 'ha', 'half a thought'];
  await Promise.all(texts.map((text) => drafts.write(conversation, text)));
  await until(() => drafts.storing.size === 0);
  assert.equal(stored.size, 1);
  assert.ok(!JSON.stringify([...stored]).includes('thought'));

  const reloaded = new Drafts(model, sync, kept);
  await reloaded.restore();
  assert.equal(reloaded.read(conversation), 'half a thought');
  await reloaded.write(conversation, '');
  assert.equal(stored.size, 0);
});

test('ticks only rise, and the reports of this user mark what was seen', () => {
  const conversation = new Conversation(ALICE, wire());
  const message = { created: '', text: '', tick: /** @type {const} */ ('Sent'), seen: false };
  conversation.prepend([{ ...message, id: 'a', own: true }, { ...message, id: 'b', own: false }]);
  const report = (/** @type {any} */ Type, /** @type {string} */ MessageID, /** @type {string} */ UserID) => ({ ID: 'r', Type, MessageID, UserID });
  conversation.applyReports([report('viewed', 'a', BOB), report('delivered', 'a', BOB), report('delivered', 'b', ALICE), report('viewed', 'unknown', BOB)]);
  assert.deepEqual(conversation.messages.map(({ tick, seen }) => [tick, seen]), [['Viewed', false], ['Sent', false]]);
  conversation.applyReports([report('viewed', 'b', ALICE)]);
  assert.equal(conversation.byId.get('b')?.seen, true);
});

test('favourites come first, then the newest; a marker hides until a newer message', () => {
  const model = new Model(/** @type {any} */ ({ userid: ALICE }));
  const make = (/** @type {string} */ id, /** @type {number} */ lastaccess, favourite = false) => {
    const made = wire();
    made.properties[0].isfavorite = favourite;
    model.conversations.set(id, new Conversation(ALICE, { ...made, id, lastaccess }));
  };
  make('1', 10);
  make('2', 30);
  make('3', 20, true);
  assert.deepEqual(model.sorted().map((each) => each.id), ['3', '2', '1']);

  const hidden = new Conversation(ALICE, { ...wire(), lastmessageid: 'm1', properties: [{ ...wire().properties[0], hideid: 'EE1hviQj6l;m1' }] });
  assert.equal(hidden.hidden, true);
  hidden.update({ ...hidden.wire, lastmessageid: 'm2' });
  assert.equal(hidden.hidden, false);
});

test('messages before the first one that the server has are dropped', () => {
  const conversation = new Conversation(ALICE, wire());
  const make = (/** @type {string} */ id) => ({ id, own: true, created: '', text: '', tick: /** @type {const} */ ('Sent'), seen: false });
  conversation.prepend(['a', 'b', 'c'].map(make));
  const ids = () => conversation.messages.map(({ id }) => id);
  conversation.update({ ...wire(), firstmessageid: 'older' });
  assert.deepEqual([ids(), conversation.complete], [['a', 'b', 'c'], false]);
  conversation.update(wire());
  assert.deepEqual(ids(), ['a', 'b', 'c'], 'documented answers do not say');
  conversation.update({ ...wire(), firstmessageid: 'b' });
  assert.deepEqual([ids(), [...conversation.byId.keys()], conversation.complete], [['b', 'c'], ['b', 'c'], true]);
});

test('a new instance drops the copy of the messages', () => {
  const conversation = new Conversation(ALICE, wire());
  conversation.prepend([{ id: 'a', own: true, created: '', text: '', tick: 'Sent', seen: false }]);
  conversation.loaded = true;
  conversation.update(wire('umOlyo1mEw'));
  assert.deepEqual([conversation.messages.length, conversation.loaded, conversation.byId.size], [0, false, 0]);
});
