/**
 * The storage of this browser, all of it in IndexedDB:
 *
 * - `accounts`: keys of signed-in users. They are non-extractable, so no script can read their bytes. A record belongs to
 *   a tab (`tab:…`) or, with "Stay signed in", to the device (`device`). `station` holds the station of the device.
 * - `kept`: unsent messages and drafts, sealed; see kept.js.
 */

/**
 * @typedef {object} Account
 * @property {string} userid
 * @property {string} nick
 * @property {string} station
 * @property {CryptoKey} signingKey
 * @property {CryptoKey} privateKey
 */

const NAME = 'chatserver';
const ACCOUNTS = 'accounts';
export const KEPT = 'kept';
export const DEVICE = 'device';
/** The device's station, one for all its users and tabs. */
const STATION = 'station';
/** A tab that reloads holds no lock for a moment, in ms. */
const RELOAD = 5000;

/** @type {Promise<IDBDatabase> | undefined} */
let opened;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore(ACCOUNTS);
      request.result.createObjectStore(KEPT);
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/**
 * Runs one transaction.
 * @template T
 * @param {string} name of the store
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest<T>} act
 * @returns {Promise<T>}
 */
export async function run(name, mode, act) {
  const transaction = (await database()).transaction(name, mode);
  const request = act(transaction.objectStore(name));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

/**
 * @param {string} name
 * @returns {Promise<Account | undefined>}
 */
export function load(name) {
  return run(ACCOUNTS, 'readonly', (store) => store.get(name));
}

/**
 * @param {string} name
 * @param {Account} account
 */
export async function save(name, account) {
  await run(ACCOUNTS, 'readwrite', (store) => store.put(account, name));
  await run(ACCOUNTS, 'readwrite', (store) => store.put(account.station, STATION));
}

/** @returns {Promise<string | undefined>} the station of this device, from its first sign-in to its last sign-out */
export function loadStation() {
  return run(ACCOUNTS, 'readonly', (store) => store.get(STATION));
}

/**
 * Wipes keys, and with the last of them the station.
 * @param {string} name
 */
export async function wipe(name) {
  await run(ACCOUNTS, 'readwrite', (store) => store.delete(name));
  const names = await run(ACCOUNTS, 'readonly', (store) => store.getAllKeys());
  if (names.every((each) => each === STATION)) await run(ACCOUNTS, 'readwrite', (store) => store.delete(STATION));
}

/** @returns {Promise<(name: string) => boolean>} whether a tab is open */
export async function openTabs() {
  const { held = [], pending = [] } = await navigator.locks.query();
  const open = new Set([...held, ...pending].map((lock) => lock.name));
  return (name) => open.has(name);
}

/**
 * Wipes what closed tabs left behind: their keys, and what they kept of users who are not signed in on this device.
 */
export async function wipeClosedTabs() {
  const before = await openTabs();
  await new Promise((resolve) => setTimeout(resolve, RELOAD));
  const after = await openTabs();
  const closed = (/** @type {string} */ tab) => !before(tab) && !after(tab);
  for (const name of await run(ACCOUNTS, 'readonly', (store) => store.getAllKeys())) {
    if (String(name).startsWith('tab:') && closed(String(name))) await wipe(String(name));
  }
  const device = await load(DEVICE);
  for (const key of await run(KEPT, 'readonly', (store) => store.getAllKeys())) {
    const [userid, tab] = /** @type {string[]} */ (key);
    if (userid !== device?.userid && closed(tab)) await run(KEPT, 'readwrite', (store) => store.delete(key));
  }
}
