/**
 * Sends messages: one after another in each conversation, the same five fields under the same ID until the server
 * acknowledges them. What waits survives a reload and a crash, sealed; see kept.js.
 */

import { NoAnswer, Refused } from './api.js';
import { MAX_DATA, open, seal } from './crypto.js';

/** @typedef {import('./api.js').Api} Api */
/** @typedef {import('./model.js').Model} Model */
/** @typedef {import('./model.js').Outgoing} Outgoing */
/** @typedef {import('./model.js').Conversation} Conversation */
/** @typedef {import('./sync.js').Sync} Sync */
/** @typedef {import('./kept.js').Kept} Kept */

/** Longest wait between two attempts, and longest `Retry-After` that is followed, in ms. */
const MAX_BACKOFF = 15000;
const MAX_RETRY_AFTER = 60000;
/** Acknowledged messages that are kept for the case of a restore. */
const KEPT = 200;
/**
 * Refusals that pass, so the message is sent again by itself. After `invalid_signature` the session ends; the message
 * stays, and is sent after the next sign-in.
 */
const PASSING = new Set(['rate_limited', 'unavailable', 'storage_full', 'internal', 'timestamp_out_of_range', 'invalid_signature']);
const CLEARED = 'Not sent: the conversation was cleared';

export class Outbox {
  /**
   * @param {Model} model
   * @param {Api} api
   * @param {Sync} sync
   * @param {Pick<Kept, 'put' | 'drop' | 'all'>} kept
   * @param {(conversationid: string) => void} sent called for each acknowledged message
   */
  constructor(model, api, sync, kept, sent) {
    this.model = model;
    this.api = api;
    this.sync = sync;
    this.kept = kept;
    this.sent = sent;
    /** Conversations in which a message is being sent. */
    this.busy = new Set();
    /** @type {Set<() => void>} waiting attempts */
    this.waiting = new Set();
    /** @type {Outgoing[]} acknowledged, newest last */
    this.recent = [];
    this.sealing = Promise.resolve();
    this.position = 0;
    this.stopped = false;
  }

  /** Takes up what waited when the page was left, once the conversations are known. */
  async restore() {
    const { model } = this;
    for (const entry of await this.kept.all('outbox')) {
      const conversation = model.conversations.get(entry.conversationid);
      if (!conversation || model.outbox.some((each) => each.message.ID === entry.message.ID)) continue;
      const place = { conversationid: entry.conversationid, instance: entry.instance, id: entry.message.ID };
      const key = await this.sync.keyOf(conversation).catch(() => null);
      const text = (key && (await open(key, place, model.me, entry.message.Data).catch(() => null))) ?? '';
      model.outbox.push({ ...entry, text, acknowledged: false });
    }
    model.outbox.sort((a, b) => a.position - b.position);
    for (const { conversationid } of model.outbox) {
      model.changed(`messages:${conversationid}`, 'list');
      this.run(conversationid);
    }
  }

  /** Messages that leaving would lose or delay. */
  get unsent() {
    return this.model.outbox.filter((entry) => !entry.acknowledged);
  }

  /** @param {Outgoing} entry */
  keep({ text: _, acknowledged: __, ...entry }) {
    return this.kept.put('outbox', entry.message.ID, entry);
  }

  /**
   * Takes a message in. Sealing is quick for a short text and slow for a long one; the order stays.
   * @param {Conversation} conversation
   * @param {string} text
   * @returns {Promise<void>}
   */
  send(conversation, text) {
    const sealed = this.sealing.then(() => this.seal(conversation, text));
    this.sealing = sealed.catch(() => {});
    return sealed;
  }

  /**
   * @param {Conversation} conversation
   * @param {string} text
   */
  async seal(conversation, text) {
    const { instance } = conversation.wire;
    const ID = crypto.randomUUID();
    const place = { conversationid: conversation.id, instance, id: ID };
    const Data = await seal(await this.sync.keyOf(conversation), place, this.model.me, text);
    if (Data.length > MAX_DATA) throw new Error('The message is too long: at most about 190,000 bytes.');
    const message = { ID, Type: 'Message', Created: this.api.clock.timestamp(), ValidUntil: '', Data };
    // Positions of an earlier page come first.
    this.position = Math.max(this.position + 1, Date.now());
    const entry = { conversationid: conversation.id, instance, message, text, position: this.position, acknowledged: false, failure: '', cleared: false };
    await this.keep(entry);
    this.model.outbox.push(entry);
    this.changed(conversation.id);
    this.run(conversation.id);
  }

  /**
   * `Send again`: the same message, or a new one where the old one's instance has ended.
   * @param {Outgoing} entry
   */
  async sendAgain(entry) {
    if (!entry.cleared) {
      entry.failure = '';
      this.keep(entry);
      this.changed(entry.conversationid);
      this.run(entry.conversationid);
      return;
    }
    const conversation = this.model.conversations.get(entry.conversationid);
    if (conversation && entry.text) await this.send(conversation, entry.text);
    this.discard(entry);
  }

  /** @param {Outgoing} entry */
  discard(entry) {
    this.model.outbox = this.model.outbox.filter((each) => each !== entry);
    this.kept.drop('outbox', entry.message.ID);
    this.changed(entry.conversationid);
  }

  /** @param {string} conversationid */
  changed(conversationid) {
    this.model.changed(`messages:${conversationid}`, 'list');
  }

  /** Tries again at once, for example when the connection is back. */
  wake() {
    for (const resume of this.waiting) resume();
    for (const entry of this.model.outbox) this.run(entry.conversationid);
  }

  stop() {
    this.stopped = true;
    this.wake();
  }

  /**
   * After a restore, sends this tab's recent messages again: the backup may lack them. What the server has stays as it is.
   */
  resendRecent() {
    const { model } = this;
    const settled = this.recent.filter((entry) => !model.outbox.includes(entry));
    this.recent = [];
    model.outbox = [...model.outbox, ...settled].sort((a, b) => a.position - b.position);
    for (const entry of model.outbox.filter((each) => each.acknowledged)) {
      entry.acknowledged = false;
      this.keep(entry);
    }
    this.wake();
  }

  /**
   * Sends what waits in one conversation, in order.
   * @param {string} conversationid
   */
  async run(conversationid) {
    if (this.busy.has(conversationid)) return;
    this.busy.add(conversationid);
    try {
      for (let attempts = 0; !this.stopped; ) {
        const entry = this.model.outgoingOf(conversationid).find((each) => !each.failure && !each.acknowledged);
        if (!entry) break;
        const wait = await this.attempt(entry);
        if (wait === null) attempts = 0;
        else await this.pause(Math.max(wait, Math.min(MAX_BACKOFF, 500 * 2 ** attempts++)));
      }
    } finally {
      this.busy.delete(conversationid);
    }
    await this.settle(conversationid);
  }

  /**
   * @param {Outgoing} entry
   * @returns {Promise<number | null>} least wait before the next attempt in ms; null where none is needed
   */
  async attempt(entry) {
    const { conversationid, instance, message } = entry;
    try {
      await this.api.conversation({ action: 'add', conversationid, instance, message });
      entry.acknowledged = true;
      this.kept.drop('outbox', message.ID);
      this.recent = [...this.recent.filter((each) => each.instance === instance || each.conversationid !== conversationid), entry].slice(-KEPT);
    } catch (error) {
      if (error instanceof NoAnswer) return 0;
      if (!(error instanceof Refused)) throw error;
      if (PASSING.has(error.code)) return Math.min(MAX_RETRY_AFTER, error.retryAfter * 1000);
      entry.cleared = error.code === 'instance_changed' || error.code === 'message_conflict';
      entry.failure = this.explain(error, conversationid);
      this.keep(entry);
      if (error.conversation) {
        this.sync.take(error.conversation);
        this.sync.catchUp(conversationid).catch(() => {});
      }
    }
    this.changed(conversationid);
    return null;
  }

  /**
   * @param {Refused} error
   * @param {string} conversationid
   */
  explain(error, conversationid) {
    const name = this.model.conversations.get(conversationid)?.name ?? 'the other user';
    if (error.code === 'instance_changed') return CLEARED;
    if (error.code === 'not_friends') return `Not sent: you can't write to ${name}`;
    if (error.code === 'blocked') return `Not sent: you have blocked ${name}`;
    if (error.code === 'quota_exceeded') return 'Not sent: the conversation is full';
    return `Not sent: ${error.message}`;
  }

  /**
   * Downloads what was acknowledged, so that it stands where the server put it.
   * @param {string} conversationid
   */
  async settle(conversationid) {
    if (!this.model.outgoingOf(conversationid).some((each) => each.acknowledged)) return;
    this.sent(conversationid);
    await this.sync.catchUp(conversationid).catch(() => {});
    const conversation = this.model.conversations.get(conversationid);
    if (conversation && !conversation.loaded) return;
    const { byId, wire } = conversation ?? {};
    this.model.outbox = this.model.outbox.filter(
      (each) =>
        each.conversationid !== conversationid || !each.acknowledged || !(byId?.has(each.message.ID) || each.instance !== wire?.instance),
    );
    this.changed(conversationid);
  }

  /** @param {number} time ms */
  pause(time) {
    return /** @type {Promise<void>} */ (
      new Promise((resolve) => {
        const resume = () => {
          clearTimeout(timer);
          this.waiting.delete(resume);
          resolve();
        };
        const timer = setTimeout(resume, time);
        this.waiting.add(resume);
      })
    );
  }
}
