/**
 * Keeps unsent messages and drafts over a reload, a crash or the end of the browser. Each is sealed
 * under the key of its conversation before it comes here. A record belongs to a tab. Where the user stays signed in,
 * the user's next tab adopts the records of closed tabs.
 */

import { KEPT, openTabs, run } from './keystore.js';

/** @typedef {'outbox' | 'draft'} Kind */
/** @typedef {[userid: string, tab: string, kind: Kind, id: string]} Key */

/**
 * All keys that begin with some parts: in IndexedDB, an array comes behind every string.
 * @param {...string} parts
 */
function below(...parts) {
  return IDBKeyRange.bound(parts, [...parts, []]);
}

export class Kept {
  /**
   * @param {string} userid
   * @param {string} tab
   */
  constructor(userid, tab) {
    this.userid = userid;
    this.tab = tab;
  }

  /**
   * @param {Kind} kind
   * @param {string} id
   */
  key(kind, id) {
    return [this.userid, this.tab, kind, id];
  }

  /**
   * Stores a record. A browser without room for it costs no message: it is sent all the same, as long as the tab lives.
   * @param {Kind} kind
   * @param {string} id
   * @param {unknown} value
   */
  async put(kind, id, value) {
    await run(KEPT, 'readwrite', (store) => store.put(value, this.key(kind, id))).catch((error) => console.warn('a reload would lose this', error));
  }

  /**
   * @param {Kind} kind
   * @param {string} id
   */
  async drop(kind, id) {
    await run(KEPT, 'readwrite', (store) => store.delete(this.key(kind, id))).catch((error) => console.warn(error));
  }

  /**
   * @param {Kind} kind
   * @returns {Promise<any[]>}
   */
  all(kind) {
    return run(KEPT, 'readonly', (store) => store.getAll(below(this.userid, this.tab, kind)));
  }

  /** @returns {Promise<Key[]>} those of all tabs of this user */
  keys() {
    return /** @type {any} */ (run(KEPT, 'readonly', (store) => store.getAllKeys(below(this.userid))));
  }

  /** Takes over what closed tabs of this user kept. */
  async adopt() {
    const isOpen = await openTabs();
    for (const [userid, tab, kind, id] of await this.keys()) {
      if (tab === this.tab || isOpen(tab)) continue;
      await run(KEPT, 'readwrite', (store) => {
        const request = store.get([userid, tab, kind, id]);
        request.onsuccess = () => {
          // Another tab may have been quicker.
          if (request.result === undefined) return;
          store.put(request.result, this.key(kind, id));
          store.delete([userid, tab, kind, id]);
        };
        return request;
      });
    }
  }
}

/**
 * Deletes what all tabs of a user keep.
 * @param {string} userid
 */
export function wipeKept(userid) {
  return run(KEPT, 'readwrite', (store) => store.delete(below(userid)));
}
