// Keys that a browser makes for a new account, opened with the real openssl.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';

import { generatePassword, makeKeys, objection } from '../../web/newkey.js';

/**
 * @param {string} input
 * @param {...string} args
 */
function openssl(input, ...args) {
  return execFileSync('openssl', args, { input, stdio: ['pipe', 'pipe', 'ignore'] });
}

for (const password of [generatePassword(), 'correct horse battery staple', 'Zwölf Boxkämpfer jagen 🦊']) {
  test(`openssl opens a new key under a password of ${password.length} characters`, async () => {
    const { publickey, rsakey } = await makeKeys(password);
    const given = ['-passin', `pass:${password}`];
    assert.equal(openssl(rsakey, 'rsa', ...given, '-check', '-noout').toString(), 'RSA key ok\n');
    const spki = openssl(rsakey, 'rsa', ...given, '-pubout', '-outform', 'DER');
    assert.equal(publickey, spki.toString('base64'));
    assert.match(openssl(rsakey, 'rsa', ...given, '-text', '-noout').toString(), /2048 bit[^]*publicExponent: 65537/);
    assert.throws(() => openssl(rsakey, 'rsa', '-passin', 'pass:another', '-noout'));
    const lines = rsakey.split('\r\n');
    assert.match(lines[2], /^DEK-Info: AES-256-CFB,[0-9A-F]{32}$/);
    assert.ok(lines.slice(4, -3).every((line) => line.length === 64));
    assert.ok(!rsakey.replaceAll('\r\n', '').includes('\n'));
  });
}

test('generated passwords have 28 symbols of 32, and differ', () => {
  const made = new Set(Array.from({ length: 100 }, generatePassword));
  assert.equal(made.size, 100);
  const symbols = new Set([...made].join('').replaceAll('-', ''));
  assert.equal(symbols.size, 32);
  for (const password of made) {
    assert.match(password, /^([a-z2-9]{4}-){6}[a-z2-9]{4}$/);
    assert.equal(objection(password), '');
  }
});

test('a chosen password that is short, repeats itself or breaks a line is refused', () => {
  for (const good of ['sixteen letters!', 'x'.repeat(3) + 'correct horse', 'Ä'.repeat(4) + 'bcdefghijklm']) assert.equal(objection(good), '', good);
  for (const [wrong, why] of [
    ['', /has 0 characters/],
    ['fifteen letters', /has 15 characters/],
    ['🦊'.repeat(15), /has 15 characters/],
    ['abab'.repeat(10), /repeats/],
    [' correct horse battery', /space/],
    ['correct horse\nbattery', /one line/],
    ['correct horse '.repeat(80) + 'x', /longer than 1023 bytes/],
  ]) {
    assert.match(objection(String(wrong)), /** @type {RegExp} */ (why), String(wrong));
  }
});
