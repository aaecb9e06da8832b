/**
 * Tabs of one user share a station. One of them holds its listener, elected by a Web Lock; it hands notifications to
 * the others, and each tab tells the others what it did, because the server does not tell a station of its own actions.
 */

/** @typedef {import('./listener.js').Notification} Notification */

/**
 * @typedef {{ kind: 'notified', event: Notification }
 *   | { kind: 'epoch', epoch: string }
 *   | { kind: 'status', status: 'online' | 'offline' | 'elsewhere' }
 *   | { kind: 'did', conversations: string[], lists: boolean }
 *   | { kind: 'availability', value: string }
 *   | { kind: 'hello' }
 *   | { kind: 'signed-out' }} Said
 */

export class Tabs {
  /**
   * @param {import('./keystore.js').Account} account
   * @param {(said: Said) => void} heard
   */
  constructor(account, heard) {
    this.name = `listener:${account.userid}:${account.station}`;
    this.channel = new BroadcastChannel(this.name);
    this.channel.onmessage = ({ data }) => heard(data);
    this.leads = false;
    this.release = () => {};
    this.given = new AbortController();
  }

  /** @param {Said} said */
  say(said) {
    this.channel.postMessage(said);
  }

  /**
   * Calls `lead` once this tab is the one that listens.
   * @param {() => void} lead
   */
  elect(lead) {
    const options = { signal: this.given.signal };
    const elected = navigator.locks.request(this.name, options, () => {
      this.leads = true;
      lead();
      return new Promise((resolve) => {
        this.release = () => resolve(undefined);
      });
    });
    elected.catch(() => {});
  }

  close() {
    this.leads = false;
    this.given.abort();
    this.release();
    this.channel.close();
  }
}
