/**
 * Makes the key pair of a new account: RSA-2048, the private key in the traditional encrypted PEM of docs/protocol.md, "The
 * private key". Neither the password nor the private key leaves the browser in the clear.
 */

import { toBase64, toHex } from './crypto.js';
import { decryptPem, deriveKey, openPrivateKey } from './pem.js';

/** Symbols of a generated password, 5 bits each. None looks like another. */
const SYMBOLS = 'abcdefghijkmnpqrstuvwxyz23456789';
/** 28 symbols are 140 bits. */
const LENGTH = 28;
const GROUP = 4;

/** Fewest characters of a password that a person chooses: its key is derived by one round of MD5. */
export const FEWEST = 16;
/** Most bytes of a password, as OpenSSL reads them. */
const MOST = 1023;

/** The octets of a PKCS#8 key that stand before its PKCS#1 key of 256 to 65,535 bytes. */
const PKCS8_HEAD = 26;
const PKCS1_TAG = 0x30;

/** @returns {string} 140 random bits, in groups of four characters */
export function generatePassword() {
  const symbols = Array.from(crypto.getRandomValues(new Uint8Array(LENGTH)), (byte) => SYMBOLS[byte % SYMBOLS.length]);
  return (symbols.join('').match(new RegExp(`.{${GROUP}}`, 'g')) ?? []).join('-');
}

/**
 * @param {string} password that a person has chosen
 * @returns {string} what is wrong with it; empty where nothing is
 */
export function objection(password) {
  const characters = [...password].length;
  if (characters < FEWEST) return `The password has ${characters} characters; it needs at least ${FEWEST}.`;
  if (new TextEncoder().encode(password).length > MOST) return `The password is longer than ${MOST} bytes.`;
  if (/\p{Cc}/u.test(password)) return 'The password must be on one line, without control characters.';
  if (password.trim() !== password) return 'The password must not begin or end with a space.';
  if (new Set(password).size < 5) return 'The password repeats a few characters; choose another one.';
  return '';
}

/**
 * @param {string} password
 * @returns {Promise<{ publickey: string, rsakey: string }>} the public key as base64 of its SPKI, and the encrypted PEM
 */
export async function makeKeys(password) {
  const algorithm = { name: 'RSA-OAEP', modulusLength: 2048, publicExponent: Uint8Array.of(1, 0, 1), hash: 'SHA-256' };
  const pair = await crypto.subtle.generateKey(algorithm, true, ['encrypt', 'decrypt']);
  const publickey = toBase64(new Uint8Array(await crypto.subtle.exportKey('spki', pair.publicKey)));
  const pkcs8 = new Uint8Array(await crypto.subtle.exportKey('pkcs8', pair.privateKey));
  const pkcs1 = pkcs8.slice(PKCS8_HEAD);
  try {
    if (pkcs1[0] !== PKCS1_TAG) throw new Error('this browser writes private keys in an unknown form');
    const rsakey = await encryptPem(pkcs1, password);
    await check(rsakey, password, pkcs1);
    return { publickey, rsakey };
  } finally {
    pkcs8.fill(0);
    pkcs1.fill(0);
  }
}

/**
 * Opens the PEM as a login will. A key that does not open would lose the account.
 * @param {string} rsakey
 * @param {string} password
 * @param {Uint8Array} pkcs1
 */
async function check(rsakey, password, pkcs1) {
  const opened = await decryptPem(rsakey, password);
  const isSame = opened.length === pkcs1.length && opened.every((byte, i) => byte === pkcs1[i]);
  opened.fill(0);
  if (!isSame) throw new Error('the new key does not open: try another browser');
  await openPrivateKey(rsakey, password);
}

/**
 * @param {Uint8Array<ArrayBuffer>} pkcs1
 * @param {string} password
 * @returns {Promise<string>} with CR LF line ends
 */
async function encryptPem(pkcs1, password) {
  const iv = crypto.getRandomValues(new Uint8Array(16));
  const body = toBase64(await encryptCfb(deriveKey(new TextEncoder().encode(password), iv.subarray(0, 8)), iv, pkcs1));
  return [
    '-----BEGIN RSA PRIVATE KEY-----',
    'Proc-Type: 4,ENCRYPTED',
    `DEK-Info: AES-256-CFB,${toHex(iv).toUpperCase()}`,
    '',
    ...(body.match(/.{1,64}/g) ?? []),
    '-----END RSA PRIVATE KEY-----',
    '',
  ].join('\r\n');
}

/**
 * AES-256-CFB with 128-bit feedback: the encryption of the last ciphertext block is the counter block that encrypts the next
 * one.
 * @param {Uint8Array<ArrayBuffer>} key
 * @param {Uint8Array<ArrayBuffer>} iv
 * @param {Uint8Array<ArrayBuffer>} plain
 */
async function encryptCfb(key, iv, plain) {
  const aes = await crypto.subtle.importKey('raw', key, 'AES-CTR', false, ['encrypt']);
  const ciphertext = new Uint8Array(plain.length);
  let counter = iv;
  for (let start = 0; start < plain.length; start += 16) {
    const block = await crypto.subtle.encrypt({ name: 'AES-CTR', counter, length: 128 }, aes, plain.slice(start, start + 16));
    ciphertext.set(new Uint8Array(block), start);
    counter = ciphertext.slice(start, start + 16);
  }
  return ciphertext;
}
