/**
 * Signing in and out. A session belongs to the tab and survives a reload; "Stay signed in" gives it to the device.
 */

import { NoAnswer, Refused, login } from './api.js';
import { importApiKey, randomHex } from './crypto.js';
import { wipeKept } from './kept.js';
import { DEVICE, load, loadStation, save, wipe } from './keystore.js';
import { WrongPassword, openPrivateKey } from './pem.js';

/** @typedef {import('./keystore.js').Account} Account */

/** The server's URL: the folder that holds `app/`. */
export const BASE = new URL('../', new URL('./', location.href));

const TAB = 'tab';

/**
 * Takes the credentials out of a link such as the demo prints, and out of the address bar and the history.
 * @returns {{ apikey: string, password: string } | null}
 */
export function takeLink() {
  const fields = new URLSearchParams(location.hash.slice(1));
  if (!location.hash) return null;
  history.replaceState(null, '', location.pathname + location.search);
  const apikey = fields.get('apikey');
  return apikey === null ? null : { apikey, password: fields.get('password') ?? '' };
}

/**
 * @param {string} apikey
 * @param {string} password
 * @param {boolean} stay
 * @returns {Promise<Account>}
 */
export async function signIn(apikey, password, stay) {
  const station = (await loadStation()) ?? randomHex(16);
  const answer = await login({ base: BASE, station, apikey });
  const privateKey = await openPrivateKey(answer.rsakey, password).catch((error) => {
    // Copying often takes white space along.
    if (password.trim() === password) throw error;
    return openPrivateKey(answer.rsakey, password.trim());
  });
  const signingKey = await importApiKey(apikey);
  const account = { userid: answer.userid, nick: answer.nick, station, signingKey, privateKey };
  const tab = await claimTab();
  await save(tab, account);
  if (stay) await save(DEVICE, account);
  return account;
}

/**
 * Continues the session of this tab, or of the device.
 * @returns {Promise<Account | null>}
 */
export async function resume() {
  const before = sessionStorage.getItem(TAB);
  const account = (before ? await load(before) : undefined) ?? (await load(DEVICE));
  const tab = await claimTab();
  if (account) await save(tab, account);
  return account ?? null;
}

/**
 * Wipes the keys of this user from this tab and from the device. The user's other tabs are told by the caller.
 * @param {Account} account
 * @param {boolean} keep whether unsent messages and drafts stay, sealed, for the next sign-in of this user in this tab
 */
export async function signOut(account, keep) {
  const tab = sessionStorage.getItem(TAB);
  if (tab) await wipe(tab);
  const device = await load(DEVICE);
  if (device?.userid === account.userid) await wipe(DEVICE);
  if (keep) return;
  await wipeKept(account.userid);
  localStorage.removeItem(availabilityKey(account.userid));
}

/**
 * The name under which this browser stores the chosen availability of a user.
 * @param {string} userid
 */
export function availabilityKey(userid) {
  return `availability:${userid}`;
}

/** @type {string | undefined} */
let claimed;

/**
 * The name of this tab, held as a lock as long as the tab is open. A duplicated tab copies `sessionStorage` and takes
 * a name of its own.
 * @returns {Promise<string>}
 */
export async function claimTab() {
  if (claimed) return claimed;
  const before = sessionStorage.getItem(TAB);
  const tab = before && (await hold(before)) ? before : `tab:${randomHex(16)}`;
  if (tab !== before) await hold(tab);
  sessionStorage.setItem(TAB, tab);
  claimed = tab;
  return tab;
}

/**
 * @param {string} name
 * @returns {Promise<boolean>} whether the lock was free
 */
function hold(name) {
  return new Promise((resolve) => {
    navigator.locks.request(name, { ifAvailable: true }, (lock) => {
      resolve(lock !== null);
      return lock ? new Promise(() => {}) : undefined;
    });
  });
}

/**
 * Says why something failed.
 * @param {unknown} error
 */
export function explain(error) {
  if (error instanceof Refused && error.code === 'invalid_credentials') return 'No user has this API key.';
  if (error instanceof WrongPassword) return 'The encryption password is wrong.';
  if (error instanceof NoAnswer) return 'The server does not answer. Check the connection and try again.';
  // The server's sentences begin in lower case and end without a full stop.
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/^[a-z](?=[a-z]* )/, (letter) => letter.toUpperCase()).replace(/[^.!?]$/, '$&.');
}
