/**
 * Keys of signed-in users in IndexedDB: non-extractable, so the database holds no key that a script could read.
 * A record belongs to a tab (`tab:…`) or, with "Stay signed in", to the device (`device`).
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
const STORE = 'accounts';
export const DEVICE = 'device';
/** The device's station, one for all its users and tabs. */
export const STATION = 'station';
/** A tab that reloads holds no lock for a moment, in ms. */
const RELOAD = 5000;

/** @type {Promise<IDBDatabase> | undefined} */
let opened;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/**
 * @template T
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest<T>} act
 * @returns {Promise<T>}
 */
async function run(mode, act) {
  const transaction = (await database()).transaction(STORE, mode);
  const request = act(transaction.objectStore(STORE));
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
  return run('readonly', (store) => store.get(name));
}

/**
 * @param {string} name
 * @param {Account} account
 */
export function save(name, account) {
  return run('readwrite', (store) => store.put(account, name));
}

/** @param {string} name */
export function wipe(name) {
  return run('readwrite', (store) => store.delete(name));
}

/** Wipes the keys of tabs that are closed, and the station where no account uses it any more. */
export async function wipeClosedTabs() {
  const before = await closedTabs();
  await new Promise((resolve) => setTimeout(resolve, RELOAD));
  const after = new Set(await closedTabs());
  for (const name of before) if (after.has(name)) await wipe(name);
  if ((await run('readonly', (store) => store.count())) === 0) localStorage.removeItem(STATION);
}

/** @returns {Promise<string[]>} */
async function closedTabs() {
  const { held = [], pending = [] } = await navigator.locks.query();
  const open = new Set([...held, ...pending].map((lock) => lock.name));
  const names = (await run('readonly', (store) => store.getAllKeys())).map(String);
  return names.filter((name) => name !== DEVICE && !open.has(name));
}
