// web/crypto.js, web/pem.js and web/md5.js against openssl, node:crypto and the examples of docs/protocol.md.
// Run: node --test tests/web/crypto.test.mjs

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import nodeCrypto from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import * as crypto from '../../web/crypto.js';
import { md5 } from '../../web/md5.js';
import { WrongPassword, decryptPem, deriveKey, openPrivateKey } from '../../web/pem.js';

const ALICE = 'c160f8cc69a4f0bf2b0362752353d060';
const BOB = '4b9bb80620f03eb3719e0a061c14283d';
const PLACE = { conversationid: 'b08a32f44191bdb3d491c93409cb425b', instance: 'EE1hviQj6l', id: 'fc2515cb-e483-4f64-936b-98f680565c96' };

const folder = mkdtempSync(join(tmpdir(), 'chat-web-'));
after(() => rmSync(folder, { recursive: true }));

/** @param {string} password */
function makePem(password) {
  const plain = join(folder, 'plain.pem');
  execFileSync('openssl', ['genrsa', '-traditional', '-out', plain, '2048'], { stdio: 'pipe' });
  const out = join(folder, 'key.pem');
  const options = ['rsa', '-traditional', '-aes-256-cfb', '-passout', `pass:${password}`, '-in', plain, '-out', out];
  execFileSync('openssl', options, { stdio: 'pipe' });
  return { plain: readFileSync(plain, 'utf8'), pem: readFileSync(out, 'utf8').replace(/\r?\n/g, '\r\n') };
}

function newKey() {
  return globalThis.crypto.subtle.importKey('raw', nodeCrypto.randomBytes(32), 'AES-GCM', false, ['encrypt', 'decrypt']);
}

test('md5 agrees with node for every length around a block', () => {
  for (let length = 0; length < 200; length++) {
    const bytes = nodeCrypto.randomBytes(length);
    assert.equal(crypto.toHex(md5(bytes)), nodeCrypto.createHash('md5').update(bytes).digest('hex'));
  }
});

test('user and conversation ids are those of the protocol', () => {
  assert.equal(crypto.userIdOf('admin@ozeki.hu'), 'd574638619cbff603bf857164c47e850');
  assert.equal(crypto.userIdOf(' Alice@Example.com '), ALICE);
  assert.equal(crypto.conversationIdOf(ALICE, BOB), PLACE.conversationid);
  assert.equal(crypto.conversationIdOf(BOB, ALICE), PLACE.conversationid);
});

test('the example of a signature is reproduced', async () => {
  const key = await crypto.importApiKey('00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff');
  const body = '{"action":"list","clientversioncode":3,"timestamp":"2024-03-08 13:55:47"}';
  const signature = await crypto.sign(key, 'chatserver', 'chatconversation', ALICE, '0123456789abcdef0123456789abcdef', body);
  assert.equal(signature, '163cdc3595f45e8ba390440bd720c6db3e5e7ad9928e70040a38e326468d620f');
});

test('a PEM that openssl encrypted opens to the same key', async () => {
  for (const password of ['pass word', 'pässwörd-日本語', 'a'.repeat(64)]) {
    const { plain, pem } = makePem(password);
    const der = nodeCrypto.createPrivateKey(plain).export({ type: 'pkcs1', format: 'der' });
    assert.deepEqual(Buffer.from(await decryptPem(pem, password)), der);
  }
});

test('a conversation key that openssl wrapped unwraps, and cannot be extracted', async () => {
  const { plain, pem } = makePem('secret');
  const raw = nodeCrypto.randomBytes(32);
  const publicKey = join(folder, 'public.pem');
  writeFileSync(publicKey, nodeCrypto.createPublicKey(plain).export({ type: 'spki', format: 'pem' }));
  const padding = ['rsa_padding_mode:oaep', 'rsa_oaep_md:sha256', 'rsa_mgf1_md:sha256'].flatMap((option) => ['-pkeyopt', option]);
  const wrapped = execFileSync('openssl', ['pkeyutl', '-encrypt', '-pubin', '-inkey', publicKey, ...padding], { input: raw });

  const privateKey = await openPrivateKey(pem, 'secret');
  const key = await crypto.unwrapConversationKey(privateKey, wrapped.toString('base64'));

  const reference = await globalThis.crypto.subtle.importKey('raw', raw, 'AES-GCM', false, ['encrypt', 'decrypt']);
  assert.equal(await crypto.open(key, PLACE, ALICE, await crypto.seal(reference, PLACE, ALICE, 'Hello')), 'Hello');
  assert.equal(privateKey.extractable, false);
  assert.equal(key.extractable, false);
});

test('a wrong password is told as such', async () => {
  const { pem } = makePem('right');
  for (const wrong of ['wrong', '', 'Right', 'right ']) await assert.rejects(openPrivateKey(pem, wrong), WrongPassword);
  await assert.rejects(openPrivateKey('no PEM', 'right'), WrongPassword);
});

test('a sealed text opens to the same text', async () => {
  const key = await newKey();
  for (const text of ['', 'Hello, Bob', '<b>&amp;</b>', '👩‍👩‍👧 שלום', '\u0000\u2028\ufeff', 'x'.repeat(190000)]) {
    const data = await crypto.seal(key, PLACE, ALICE, text);
    assert.equal(await crypto.open(key, PLACE, ALICE, data), text);
  }
});

test('the payload has the form of profile 1', async () => {
  const raw = nodeCrypto.randomBytes(32);
  const key = await globalThis.crypto.subtle.importKey('raw', raw, 'AES-GCM', false, ['encrypt', 'decrypt']);
  const bytes = Buffer.from(await crypto.seal(key, PLACE, ALICE, 'Hi'), 'base64');
  assert.equal(bytes[0], 1);
  const opener = nodeCrypto.createDecipheriv('aes-256-gcm', raw, bytes.subarray(1, 13));
  opener.setAAD(Buffer.from(`${PLACE.conversationid}\n${PLACE.instance}\n${PLACE.id}`));
  opener.setAuthTag(bytes.subarray(-16));
  const plain = Buffer.concat([opener.update(bytes.subarray(13, -16)), opener.final()]).toString();
  assert.deepEqual(JSON.parse(plain), { v: 1, from: ALICE, text: 'Hi' });
});

test('a payload opens only in its place, under its key and for its sender', async () => {
  const key = await newKey();
  const data = await crypto.seal(key, PLACE, ALICE, 'Hello');
  const changed = Buffer.from(data, 'base64');
  changed[20] ^= 1;
  /** @type {[CryptoKey, typeof PLACE, string, string][]} */
  const cases = [
    [await newKey(), PLACE, ALICE, data],
    [key, { ...PLACE, conversationid: '0'.repeat(32) }, ALICE, data],
    [key, { ...PLACE, instance: 'aaaaaaaaaa' }, ALICE, data],
    [key, { ...PLACE, id: PLACE.id.toUpperCase() }, ALICE, data],
    [key, PLACE, BOB, data],
    [key, PLACE, ALICE, changed.toString('base64')],
    [key, PLACE, ALICE, ''],
    [key, PLACE, ALICE, 'SGVsbG8='],
    [key, PLACE, ALICE, 'no base64!'],
  ];
  for (const [withKey, place, sender, sealed] of cases) {
    await assert.rejects(crypto.open(withKey, place, sender, sealed), crypto.CannotOpen);
  }
});

test('a payload of a deleted user opens for the other participant alone', async () => {
  const [key, deleted] = [await newKey(), 'd'.repeat(32)];
  const place = { ...PLACE, conversationid: crypto.conversationIdOf(ALICE, BOB) };
  const data = await crypto.seal(key, place, ALICE, 'Hello');
  assert.equal(await crypto.open(key, place, deleted, data, BOB), 'Hello');
  for (const [sender, reader] of [[deleted, ALICE], [BOB, BOB], [deleted, deleted]]) {
    await assert.rejects(crypto.open(key, place, sender, data, reader), crypto.CannotOpen);
  }
  const posing = await crypto.seal(key, place, deleted, 'Hello');
  await assert.rejects(crypto.open(key, place, 'e'.repeat(32), posing, BOB), crypto.CannotOpen);
});

test('unknown fields of a payload are ignored, and another version does not open', async () => {
  const key = await newKey();
  /** @param {unknown} content */
  const sealed = async (content) => {
    const iv = nodeCrypto.randomBytes(12);
    const additionalData = Buffer.from(`${PLACE.conversationid}\n${PLACE.instance}\n${PLACE.id}`);
    const algorithm = { name: 'AES-GCM', iv, additionalData };
    const cipher = await globalThis.crypto.subtle.encrypt(algorithm, key, Buffer.from(JSON.stringify(content)));
    return Buffer.concat([Buffer.of(1), iv, Buffer.from(cipher)]).toString('base64');
  };
  const open = (/** @type {string} */ data) => crypto.open(key, PLACE, ALICE, data);
  assert.equal(await open(await sealed({ v: 1, from: ALICE, text: 'Hi', reply: 'x' })), 'Hi');
  for (const content of [{ v: 2, from: ALICE, text: 'Hi' }, { v: 1, from: ALICE }, { v: 1, text: 'Hi' }, null, 'Hi']) {
    await assert.rejects(open(await sealed(content)), crypto.CannotOpen);
  }
});

const VECTORS = process.env.VECTORS ?? fileURLToPath(new URL('../../docs/vectors.json', import.meta.url));
const skip = !existsSync(VECTORS) && `${VECTORS} does not exist`;
const vectors = skip ? {} : JSON.parse(readFileSync(VECTORS, 'utf8'));
const { subtle } = globalThis.crypto;

/** @param {string} hex */
const importKey = (hex) => subtle.importKey('raw', Buffer.from(hex, 'hex'), 'AES-GCM', false, ['encrypt', 'decrypt']);

test('vectors: signatures and ids are reproduced', { skip }, async () => {
  for (const vector of vectors.signatures) {
    const key = await crypto.importApiKey(vector.apikey);
    const signature = await crypto.sign(key, vector.srv, vector.api, vector.userid, vector.stationid, vector.body_utf8);
    assert.equal(signature, vector.signature_hex);
  }
  for (const vector of vectors.userids) assert.equal(crypto.userIdOf(vector.email_utf8), vector.userid);
  for (const vector of vectors.conversationids) {
    assert.equal(crypto.conversationIdOf(vector.userids[0], vector.userids[1]), vector.conversationid);
  }
});

test('vectors: private keys open, and unwrap what was wrapped for them', { skip }, async () => {
  for (const vector of vectors.privatekeys) {
    const password = vector.encryptionpassword_utf8;
    const salt = Buffer.from(vector.iv_hex, 'hex').subarray(0, 8);
    assert.equal(crypto.toHex(deriveKey(new TextEncoder().encode(password), salt)), vector.aes_key_hex);
    const der = await decryptPem(vector.rsakey, password);
    assert.equal(nodeCrypto.createHash('sha256').update(der).digest('hex'), vector.der_sha256_hex);
    const privateKey = await openPrivateKey(vector.rsakey, password);
    for (const { what, wrapped_base64, plain_hex } of vectors.wrapped) {
      const plain = await subtle.decrypt('RSA-OAEP', privateKey, crypto.fromBase64(wrapped_base64));
      assert.equal(crypto.toHex(new Uint8Array(plain)), plain_hex);
      if (what === 'secret') {
        const key = await crypto.unwrapConversationKey(privateKey, wrapped_base64);
        const data = await crypto.seal(key, PLACE, ALICE, 'Hello');
        assert.equal(await crypto.open(await importKey(plain_hex), PLACE, ALICE, data), 'Hello');
      }
    }
  }
});

test('vectors: payloads open where they belong, and nowhere else', { skip }, async () => {
  /** @param {any} vector */
  const open = async (vector) => {
    const place = { conversationid: vector.conversationid, instance: vector.instance, id: vector.messageid };
    return crypto.open(await importKey(vector.key_hex), place, vector.sender, vector.data_base64);
  };
  for (const vector of vectors.payloads) assert.equal(await open(vector), vector.text_utf8);
  for (const vector of vectors.payloads_that_do_not_open) await assert.rejects(open(vector), crypto.CannotOpen, vector.why);
});
