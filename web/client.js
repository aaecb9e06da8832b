/**
 * One signed-in user in this tab: ties the listener, the other tabs, the model and the outbox together, and carries
 * out what the views ask for.
 */

import { Api, Refused } from './api.js';
import { Drafts } from './drafts.js';
import { Listener } from './listener.js';
import { Model } from './model.js';
import { Outbox } from './outbox.js';
import { BASE, availabilityKey } from './session.js';
import { Sync } from './sync.js';
import { Tabs } from './tabs.js';

/** @typedef {import('./model.js').Conversation} Conversation */
/** @typedef {import('./model.js').Availability} Availability */

/** Longest wait between two attempts, in ms. */
const MAX_BACKOFF = 15000;
const ACTIONS = { available: 'useravailable', away: 'useraway', busy: 'userbusy', offline: 'useroffline' };

export class Client {
  /**
   * @param {import('./keystore.js').Account} account
   * @param {import('./kept.js').Kept} kept
   * @param {(reason: string) => void} ended the session is over: signed out elsewhere, or the key is no longer valid
   */
  constructor(account, kept, ended) {
    this.account = account;
    this.kept = kept;
    this.ended = ended;
    this.model = new Model(account);
    this.api = new Api({ base: BASE, userid: account.userid, station: account.station, key: account.signingKey });
    this.sync = new Sync(this.model, this.api);
    this.outbox = new Outbox(this.model, this.api, this.sync, kept, (id) => this.did(id));
    this.drafts = new Drafts(this.model, this.sync, kept);
    this.sync.listed = () => this.restore();
    this.tabs = new Tabs(account, {
      heard: (said) => this.hear(said),
      lead: () => this.listener.start(),
      lost: () => this.lost(),
    });
    this.listener = new Listener(this.api, {
      connected: (epoch) => this.connected(epoch),
      notified: async (event) => {
        this.tabs.say({ kind: 'notified', event });
        this.enterEpoch(event.epoch);
        await this.sync.follow(event);
      },
      disconnected: (reason) => this.setStatus(reason),
      denied: (error) => this.deny(error),
    });
    this.attempts = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.retry = undefined;
    this.stopped = false;
    this.page = new AbortController();
    this.availabilityKey = availabilityKey(account.userid);
    /** Whether the server has not been told the user's choice. */
    this.availabilityDue = false;
    this.choosing = Promise.resolve();
    this.restored = false;
    /** @type {string | undefined} entity tag of the page */
    this.release = undefined;
  }

  /** @param {boolean} signedIn whether the user has just signed in, and not reloaded the page */
  start(signedIn) {
    const { signal } = this.page;
    const wake = () => this.wake();
    addEventListener('online', wake, { signal });
    addEventListener('offline', () => this.listener.interrupt(), { signal });
    addEventListener('pageshow', wake, { signal });
    document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && wake(), { signal });
    addEventListener(
      'beforeunload',
      (event) => this.outbox.unsent.some((entry) => !entry.failure) && event.preventDefault(),
      { signal },
    );
    this.tabs.start();
    this.catchUp();
    this.availabilityDue = signedIn;
    this.announce();
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.retry);
    this.page.abort();
    this.listener.stop();
    this.outbox.stop();
    this.tabs.close();
  }

  /** @returns {Promise<string>} what a sign-out would delete, in all tabs of this user */
  async unsaved() {
    const kinds = new Set((await this.kept.keys().catch(() => [])).map(([, , kind]) => kind));
    const messages = (this.outbox.unsent.length > 0 || kinds.has('outbox')) && 'messages that were not sent';
    const drafts = (this.drafts.some || kinds.has('draft')) && 'drafts';
    return [messages, drafts].filter((each) => each).join(' and ');
  }

  wake() {
    this.listener.wake();
    this.outbox.wake();
    this.tabs.ask();
    if (!this.tabs.leads || !this.model.ready) this.catchUp();
  }

  /** Takes up what this user's tabs kept, once the conversations are known. */
  async restore() {
    if (this.restored) return;
    this.restored = true;
    try {
      await this.kept.adopt();
      await this.drafts.restore();
      await this.outbox.restore();
    } catch (error) {
      console.warn('what was kept could not be read', error);
    }
  }

  /** Another tab took the listener, because this one was frozen. */
  lost() {
    this.listener.stop();
    this.showStatus('connecting');
    this.tabs.ask();
  }

  /** Reads everything anew; tries again until it succeeds. */
  async catchUp() {
    clearTimeout(this.retry);
    if (this.stopped) return;
    try {
      await this.sync.refresh();
      this.attempts = 0;
    } catch (error) {
      if (error instanceof Refused && error.code === 'invalid_signature') return this.deny(error);
      console.warn('catching up failed', error);
      const wait = Math.min(MAX_BACKOFF, 500 * 2 ** this.attempts++);
      clearTimeout(this.retry);
      this.retry = setTimeout(() => this.catchUp(), wait);
    }
  }

  /** @param {string} epoch */
  connected(epoch) {
    this.giveUpHanging('online');
    this.setStatus('online');
    this.tabs.say({ kind: 'epoch', epoch });
    this.enterEpoch(epoch);
    this.outbox.wake();
    this.announce();
    this.catchUp();
    this.checkRelease().catch(console.warn);
  }

  /** After a restart, the server may have another release of this page. */
  async checkRelease() {
    const page = await fetch('./', { method: 'HEAD', cache: 'no-store' });
    const tag = page.ok ? page.headers.get('ETag') : null;
    if (tag === null) return;
    this.release ??= tag;
    this.model.outdated = this.release !== tag;
    if (this.model.outdated) this.model.changed('status');
  }

  /** @param {string} epoch */
  enterEpoch(epoch) {
    if (!this.sync.enterEpoch(epoch)) return;
    this.outbox.resendRecent();
    this.catchUp();
  }

  /**
   * Gives up calls that were made before the connection was lost, or while it was: no answer of theirs may ever come.
   * @param {import('./model.js').Status} status
   */
  giveUpHanging(status) {
    if (status === 'offline' || (status === 'online' && this.model.status === 'offline')) this.api.abort();
  }

  /** @param {'online' | 'offline' | 'elsewhere'} status */
  setStatus(status) {
    // A tab that has lost the lock closes its listener, too; the state of the leader's counts.
    if (!this.tabs.leads) return;
    this.model.status = status;
    this.model.changed('status');
    this.tabs.say({ kind: 'status', status });
  }

  /** Takes the listener back after another connection of this station took it. */
  listenHere() {
    this.listener.start();
  }

  /** @param {Refused} error */
  deny(error) {
    console.warn('the key is no longer valid', error);
    this.ended('The server no longer accepts this key: it was replaced, or the user was disabled. Sign in again.');
  }

  /** @param {import('./tabs.js').Said} said */
  hear(said) {
    const failed = (/** @type {unknown} */ error) => {
      console.warn('what another tab said could not be processed', error);
      this.catchUp();
    };
    if (said.kind === 'notified') this.sync.follow(said.event).catch(failed);
    else if (said.kind === 'did') {
      const none = { sequence: 0, epoch: '', friendavailabilitesof: [] };
      const lists = said.lists ? [this.model.me] : [];
      this.sync.follow({ ...none, conversationchangedof: said.conversations, conversationlistchangedof: lists }).catch(failed);
    } else if (said.kind === 'epoch') {
      this.enterEpoch(said.epoch);
      this.catchUp();
    } else if (said.kind === 'leading') {
      if (said.epoch !== '') this.enterEpoch(said.epoch);
      this.showStatus(said.status);
    } else if (said.kind === 'status') this.showStatus(said.status);
    else if (said.kind === 'hello' && this.tabs.leads) this.tabs.say({ kind: 'leading', epoch: this.sync.epoch, status: this.model.status });
    else if (said.kind === 'availability') this.model.changed('friends');
    else if (said.kind === 'signed-out') this.ended('');
  }

  /**
   * Shows the state of the tab that listens.
   * @param {import('./model.js').Status} status
   */
  showStatus(status) {
    if (this.tabs.leads || this.model.status === status) return;
    this.giveUpHanging(status);
    this.model.status = status;
    this.model.changed('status');
    if (status === 'online') this.outbox.wake();
  }

  /**
   * Tells the other tabs of this user what this tab did.
   * @param {string} [conversationid]
   * @param {boolean} [lists]
   */
  did(conversationid, lists = false) {
    this.tabs.say({ kind: 'did', conversations: conversationid ? [conversationid] : [], lists });
  }

  /**
   * Sets a mark of a conversation.
   * @param {Conversation} conversation
   * @param {'mute' | 'unmute' | 'favorite' | 'unfavorite' | 'hide' | 'unhide' | 'setlistitembackgroundcolor' | 'clear'} action
   * @param {Record<string, unknown>} [fields]
   */
  async change(conversation, action, fields = {}) {
    try {
      const answer = await this.api.conversation({ action, conversationid: conversation.id, ...fields });
      this.sync.take(answer.conversation);
    } catch (error) {
      if (!(error instanceof Refused) || !error.conversation) throw error;
      this.sync.take(error.conversation);
      if (error.code !== 'replayed') throw error;
    }
    this.did(conversation.id);
    await this.sync.catchUp(conversation.id);
  }

  /**
   * Reports messages as viewed, and takes the new number of unread ones along.
   * @param {Conversation} conversation
   * @param {string[]} messageids
   */
  async viewed(conversation, messageids) {
    const { id, wire } = conversation;
    const fields = { action: 'viewed', conversationid: id, instance: wire.instance, messageids };
    await this.api.call('chatreports', { ...fields, firstmessagedate: '', lastmessagedate: '' });
    for (const messageid of messageids) {
      const message = conversation.byId.get(messageid);
      if (message) message.seen = true;
    }
    this.did(id);
    await this.sync.catchUp(id);
  }

  /** @param {Record<string, unknown>} fields */
  async befriend(fields) {
    await this.api.friends(fields);
    await this.peopleChanged();
  }

  /**
   * @param {'block' | 'unblock'} action
   * @param {string} userid
   */
  async setBlocked(action, userid) {
    await this.api.blocks({ action, userid });
    await this.peopleChanged();
  }

  async peopleChanged() {
    this.did(undefined, true);
    await Promise.all([this.sync.readPeople(), this.sync.readList()]);
    await this.sync.readPreviews();
  }

  /** The last choice of this user in this browser. The server does not tell one's own choice. */
  get availability() {
    return /** @type {Availability} */ (localStorage.getItem(this.availabilityKey) ?? 'available');
  }

  /** @param {Availability} value */
  setAvailability(value) {
    return this.choose(() => value);
  }

  /** @param {() => Availability | false} chosen told after the choices before it */
  choose(chosen) {
    const told = this.choosing.then(() => this.tell(chosen()));
    this.choosing = told.catch(() => {});
    return told;
  }

  /** @param {Availability | false} value */
  async tell(value) {
    if (!value) return;
    await this.api.call('chatavailability', { action: ACTIONS[value] });
    this.availabilityDue = false;
    localStorage.setItem(this.availabilityKey, value);
    this.tabs.say({ kind: 'availability', value });
    this.model.changed('friends');
  }

  /** Tells the server the user's choice after signing in; once more when the connection is back. */
  announce() {
    this.choose(() => this.availabilityDue && this.availability).catch(console.warn);
  }
}
