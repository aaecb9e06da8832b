/**
 * Keys, signatures and payloads of a chat client, on WebCrypto alone. Runs in browsers, in a secure context, and in Node
 * 20 or newer; needs no DOM. The rules are in docs/protocol.md: "Signature", "Opening `secret`", and profile 1 for the
 * payload.
 */

import { md5 } from './md5.js';

const PROFILE = 1;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
/** Default bound of `Data`, in characters. */
export const MAX_DATA = 262144;

/** The payload does not open: show no text. */
export class CannotOpen extends Error {}

/**
 * The place of a payload: it opens nowhere else.
 * @typedef {object} Place
 * @property {string} conversationid
 * @property {string} instance
 * @property {string} id the message's `ID`, as the server returns it
 */

/**
 * @param {Uint8Array} bytes
 * @returns {string} two lower-case digits for each byte
 */
export function toHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/**
 * @param {Uint8Array} bytes
 * @returns {string} padded standard base64 on one line
 */
export function toBase64(bytes) {
  let text = '';
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

/**
 * @param {string} text standard base64; white space is ignored
 * @returns {Uint8Array<ArrayBuffer>}
 * @throws {DOMException} `InvalidCharacterError` for a text that is no base64
 */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}

/**
 * @param {number} bytes 1 to 65,536
 * @returns {string} two digits for each byte
 */
export function randomHex(bytes) {
  return toHex(crypto.getRandomValues(new Uint8Array(bytes)));
}

/**
 * The user id of an e-mail address: the MD5 of the trimmed address with its ASCII letters in lower case.
 * @param {string} email
 * @returns {string} 32 lower-case hexadecimal characters
 */
export function userIdOf(email) {
  const normal = email.trim().replace(/[A-Z]/g, (letter) => letter.toLowerCase());
  return toHex(md5(new TextEncoder().encode(normal)));
}

/**
 * The id of the conversation of two users.
 * @param {string} one user id
 * @param {string} other user id
 * @returns {string} 32 lower-case hexadecimal characters
 */
export function conversationIdOf(one, other) {
  return toHex(md5(new TextEncoder().encode([one, other].sort().join(';'))));
}

/**
 * Makes the key that signs requests: the 64 characters of the API key, not the bytes that they encode.
 * @param {string} apikey 64 lower-case hexadecimal characters
 * @returns {Promise<CryptoKey>} non-extractable HMAC-SHA256 key
 */
export function importApiKey(apikey) {
  const bytes = new TextEncoder().encode(apikey);
  return crypto.subtle.importKey('raw', bytes, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
}

/**
 * Signs the parts, joined by LF.
 * @param {CryptoKey} key of `importApiKey`
 * @param {string[]} parts srv, api, userid, stationid, body; or more lines for the listener
 * @returns {Promise<string>} 64 lower-case hexadecimal characters
 */
export async function sign(key, ...parts) {
  const signature = await crypto.subtle.sign('HMAC', key, new TextEncoder().encode(parts.join('\n')));
  return toHex(new Uint8Array(signature));
}

/**
 * Unwraps the key of a conversation. Its bytes never reach the script.
 * @param {CryptoKey} privateKey of `openPrivateKey`
 * @param {string} secret `secret` of the conversation
 * @returns {Promise<CryptoKey>} non-extractable AES-256-GCM key
 * @throws {DOMException} `OperationError` for a `secret` of another key pair
 */
export function unwrapConversationKey(privateKey, secret) {
  const usages = /** @type {KeyUsage[]} */ (['encrypt', 'decrypt']);
  return crypto.subtle.unwrapKey('raw', fromBase64(secret), privateKey, 'RSA-OAEP', 'AES-GCM', false, usages);
}

/** @param {Place} place */
function additionalData({ conversationid, instance, id }) {
  return new TextEncoder().encode(`${conversationid}\n${instance}\n${id}`);
}

/**
 * Seals a text as the `Data` of a message (profile 1), under a new nonce. Seal a message once: sent again, it must keep
 * its `Data`.
 * @param {CryptoKey} key of `unwrapConversationKey`
 * @param {Place} place
 * @param {string} from the sender's user id
 * @param {string} text an unpaired surrogate becomes U+FFFD; a text of more than about 190,000 bytes gives more than `MAX_DATA` characters, which the server refuses
 * @returns {Promise<string>} base64
 */
export async function seal(key, place, from, text) {
  const iv = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
  const plain = new TextEncoder().encode(JSON.stringify({ v: 1, from, text: text.toWellFormed() }));
  const algorithm = { name: 'AES-GCM', iv, additionalData: additionalData(place) };
  const sealed = new Uint8Array(await crypto.subtle.encrypt(algorithm, key, plain));
  const data = new Uint8Array(1 + iv.length + sealed.length);
  data[0] = PROFILE;
  data.set(iv, 1);
  data.set(sealed, 1 + iv.length);
  return toBase64(data);
}

/**
 * Opens the `Data` of a message (profile 1).
 * @param {CryptoKey} key of `unwrapConversationKey`
 * @param {Place} place
 * @param {string} sender the sender's user id, as the server names it in `UserID` of an extended answer
 * @param {string} data `Data` of the message
 * @param {string} [reader] a deleted sender has another id
 * @returns {Promise<string>} the text, plain: never markup
 * @throws {CannotOpen}
 */
export async function open(key, place, sender, data, reader = sender) {
  try {
    const bytes = fromBase64(data);
    if (bytes[0] !== PROFILE || bytes.length < 1 + NONCE_BYTES + TAG_BYTES) throw new CannotOpen('no payload of profile 1');
    const iv = bytes.slice(1, 1 + NONCE_BYTES);
    const algorithm = { name: 'AES-GCM', iv, additionalData: additionalData(place) };
    const plain = await crypto.subtle.decrypt(algorithm, key, bytes.slice(1 + NONCE_BYTES));
    const content = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(plain));
    if (content?.v !== 1 || typeof content.text !== 'string') throw new CannotOpen('the payload has no text');
    if (!content.text.isWellFormed()) throw new CannotOpen('the text has an unpaired surrogate');
    const former = sender !== reader && conversationIdOf(content.from, reader) === place.conversationid;
    if (content.from !== sender && !former) throw new CannotOpen('the server names another sender');
    return content.text;
  } catch (error) {
    if (error instanceof CannotOpen) throw error;
    throw new CannotOpen('the payload does not open');
  }
}
