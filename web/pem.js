/**
 * Opens the private key that `login` returns: PKCS#1 in traditional encrypted PEM, AES-256-CFB (docs/protocol.md,
 * "The private key"). WebCrypto has neither MD5 nor CFB, so both are built here from what it has.
 */

import { fromBase64 } from './crypto.js';
import { md5 } from './md5.js';

/** The password does not open the key, or the text is no such key. */
export class WrongPassword extends Error {}

/**
 * Opens the private key of a login.
 * @param {string} pem `rsakey` of the login's answer
 * @param {string} password the encryption password
 * @returns {Promise<CryptoKey>} non-extractable RSA-OAEP SHA-256 key, for `unwrapConversationKey`
 * @throws {WrongPassword}
 */
export async function openPrivateKey(pem, password) {
  const pkcs1 = await decryptPem(pem, password);
  try {
    return await crypto.subtle.importKey('pkcs8', wrapPkcs8(pkcs1), { name: 'RSA-OAEP', hash: 'SHA-256' }, false, [
      'decrypt',
      'unwrapKey',
    ]);
  } catch {
    throw new WrongPassword('the encryption password does not open the private key');
  } finally {
    pkcs1.fill(0);
  }
}

/**
 * Decrypts the private key, unchecked.
 * @param {string} pem
 * @param {string} password
 * @returns {Promise<Uint8Array<ArrayBuffer>>} the DER of the key; garbage if the password is wrong
 */
export async function decryptPem(pem, password) {
  const found = /DEK-Info: AES-256-CFB,([0-9A-Fa-f]{32})\r?\n\r?\n([A-Za-z0-9+/=\s]+)-----END/.exec(pem);
  if (!found) throw new WrongPassword('rsakey is not a PEM encrypted with AES-256-CFB');
  const iv = Uint8Array.from(found[1].match(/../g) ?? [], (pair) => parseInt(pair, 16));
  return decryptCfb(deriveKey(new TextEncoder().encode(password), iv.subarray(0, 8)), iv, fromBase64(found[2].replace(/\s/g, '')));
}

/**
 * OpenSSL's EVP_BytesToKey with MD5 and one round, for 32 bytes.
 * @param {Uint8Array} password
 * @param {Uint8Array} salt 8 bytes
 */
export function deriveKey(password, salt) {
  const first = md5(Uint8Array.of(...password, ...salt));
  const second = md5(Uint8Array.of(...first, ...password, ...salt));
  return Uint8Array.of(...first, ...second);
}

/**
 * AES-256-CFB with 128-bit feedback: each block is XORed with the encryption of the ciphertext block before it.
 * One CTR block per 16 bytes encrypts that block.
 * @param {Uint8Array<ArrayBuffer>} key
 * @param {Uint8Array} iv
 * @param {Uint8Array} ciphertext
 */
async function decryptCfb(key, iv, ciphertext) {
  const aes = await crypto.subtle.importKey('raw', key, 'AES-CTR', false, ['encrypt']);
  const chain = Uint8Array.of(...iv, ...ciphertext);
  const plain = new Uint8Array(ciphertext.length);
  const blocks = Array.from({ length: Math.ceil(ciphertext.length / 16) }, async (_, block) => {
    const start = block * 16;
    const counter = chain.slice(start, start + 16);
    const input = ciphertext.slice(start, start + 16);
    plain.set(new Uint8Array(await crypto.subtle.encrypt({ name: 'AES-CTR', counter, length: 128 }, aes, input)), start);
  });
  await Promise.all(blocks);
  return plain;
}

/**
 * Wraps a PKCS#1 key into PKCS#8, the form that WebCrypto imports.
 * @param {Uint8Array} pkcs1
 */
function wrapPkcs8(pkcs1) {
  const version = [0x02, 0x01, 0x00];
  const rsaEncryption = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
  const octets = [0x04, ...derLength(pkcs1.length), ...pkcs1];
  const content = [...version, ...rsaEncryption, ...octets];
  return Uint8Array.of(0x30, ...derLength(content.length), ...content);
}

/** @param {number} length 256 to 65,535: every RSA key is longer than 255 bytes */
function derLength(length) {
  return [0x82, length >> 8, length & 0xff];
}
