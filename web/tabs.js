/**
 * Tabs of one user share a station. One of them holds its listener, elected by a Web Lock; it hands notifications to
 * the others, and each tab tells the others what it did, because the server does not tell a station of its own actions.
 * The lock of a closed or crashed tab is free at once. A frozen tab keeps its lock and answers nothing, so another tab
 * takes the lock from it.
 */

/** @typedef {import('./listener.js').Notification} Notification */

/**
 * @typedef {{ kind: 'notified', event: Notification }
 *   | { kind: 'epoch', epoch: string }
 *   | { kind: 'status', status: import('./model.js').Status }
 *   | { kind: 'did', conversations: string[], lists: boolean }
 *   | { kind: 'availability', value: string }
 *   | { kind: 'hello' }
 *   | { kind: 'leading', epoch: string, status: import('./model.js').Status }
 *   | { kind: 'signed-out' }} Said
 */

/** Least time in which the leader answers, and time between two questions of a visible tab, in ms. */
const ANSWER = 4000;
const ASK = 20000;

export class Tabs {
  /**
   * @param {import('./keystore.js').Account} account
   * @param {{ heard: (said: Said) => void, lead: () => void, lost: () => void }} handlers `lead` is called once this tab
   *   holds the listener, `lost` when another tab took it
   */
  constructor(account, { heard, lead, lost }) {
    this.name = `listener:${account.userid}:${account.station}`;
    this.lead = lead;
    this.lost = lost;
    this.leads = false;
    this.release = () => {};
    this.closed = new AbortController();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.patience = undefined;
    this.channel = new BroadcastChannel(this.name);
    this.channel.onmessage = ({ data }) => {
      if (data.kind === 'leading') this.stopWaiting();
      heard(data);
    };
  }

  start() {
    this.elect({ signal: this.closed.signal });
    this.ask();
    const timer = setInterval(() => document.visibilityState === 'visible' && this.ask(), ASK);
    this.closed.signal.addEventListener('abort', () => clearInterval(timer));
  }

  /** @param {Said} said */
  say(said) {
    if (!this.closed.signal.aborted) this.channel.postMessage(said);
  }

  /** Asks whether the leader is alive, and takes the lock from it if it does not answer. */
  ask() {
    if (this.leads || this.patience !== undefined) return;
    this.say({ kind: 'hello' });
    this.patience = setTimeout(() => {
      this.stopWaiting();
      if (!this.leads) this.elect({ steal: true });
    }, ANSWER * (1 + Math.random()));
  }

  stopWaiting() {
    clearTimeout(this.patience);
    this.patience = undefined;
  }

  /** @param {LockOptions} options */
  elect(options) {
    const hold = () => {
      if (this.leads || this.closed.signal.aborted) return undefined;
      this.leads = true;
      this.stopWaiting();
      this.say({ kind: 'leading', epoch: '', status: 'connecting' });
      this.lead();
      return new Promise((resolve) => {
        this.release = () => resolve(undefined);
      });
    };
    navigator.locks.request(this.name, options, hold).catch(() => {
      if (!this.leads || this.closed.signal.aborted) return;
      this.leads = false;
      this.lost();
      this.elect({ signal: this.closed.signal });
    });
  }

  close() {
    this.leads = false;
    this.stopWaiting();
    this.closed.abort();
    this.release();
    this.channel.close();
  }
}
