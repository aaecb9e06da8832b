/**
 * Sends messages: one after another in each conversation, the same five fields under the same ID until the server
 * acknowledges them. What waits survives a reload, sealed.
 */

import { NoAnswer, Refused } from './api.js';
import { MAX_DATA, open, seal } from './crypto.js';

/** @typedef {import('./api.js').Api} Api */
/** @typedef {import('./model.js').Model} Model */
/** @typedef {import('./model.js').Outgoing} Outgoing */
/** @typedef {import('./model.js').Conversation} Conversation */
/** @typedef {import('./sync.js').Sync} Sync */

const MAX_BACKOFF = 15000;
/** Acknowledged messages that are kept for the case of a restore. */
const KEPT = 200;
/** Refusals that pass, so the message is sent again by itself. */
const PASSING = new Set(['rate_limited', 'unavailable', 'storage_full', 'internal']);
const CLEARED = 'Not sent: the conversation was cleared';

export class TooLong extends Error {}

export class Outbox {
  /**
   * @param {Model} model
   * @param {Api} api
   * @param {Sync} sync
   * @param {(conversationid: string) => void} sent called for each acknowledged message
   */
  constructor(model, api, sync, sent) {
    this.model = model;
    this.api = api;
    this.sync = sync;
    this.sent = sent;
    this.storage = `outbox:${model.me}`;
    /**
     * What waited when the page was left, until the conversations are known.
     * @type {Omit<Outgoing, 'text'>[]}
     */
    this.stored = JSON.parse(sessionStorage.getItem(this.storage) ?? '[]');
    /** Conversations in which a message is being sent. */
    this.busy = new Set();
    /** @type {Set<() => void>} waiting attempts */
    this.waiting = new Set();
    /** @type {Pick<Outgoing, 'conversationid' | 'instance' | 'message'>[]} */
    this.recent = [];
    this.sealing = Promise.resolve();
    this.stopped = false;
  }

  /** Takes up what waited when the page was left. */
  async restore() {
    const { stored } = this;
    this.stored = [];
    for (const entry of stored) {
      const conversation = this.model.conversations.get(entry.conversationid);
      if (!conversation) continue;
      const place = { conversationid: entry.conversationid, instance: entry.instance, id: entry.message.ID };
      const text = await open(await this.sync.keyOf(conversation), place, this.model.me, entry.message.Data).catch(() => '');
      this.model.outbox.push({ ...entry, text });
      this.model.changed(`messages:${conversation.id}`);
      this.run(conversation.id);
    }
  }

  save() {
    const sealed = this.model.outbox.map(({ text: _, ...entry }) => entry);
    sessionStorage.setItem(this.storage, JSON.stringify([...this.stored, ...sealed]));
  }

  /**
   * Takes a message in. Sealing is quick for a short text and slow for a long one; the order stays.
   * @param {Conversation} conversation
   * @param {string} text
   * @returns {Promise<void>}
   * @throws {TooLong}
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
    if (Data.length > MAX_DATA) throw new TooLong('The message is too long: at most about 190,000 bytes.');
    const message = { ID, Type: 'Message', Created: this.api.clock.timestamp(), ValidUntil: '', Data };
    this.model.outbox.push({ conversationid: conversation.id, instance, message, text, acknowledged: false, failure: '', cleared: false });
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
      this.changed(entry.conversationid);
      this.run(entry.conversationid);
      return;
    }
    const conversation = this.model.conversations.get(entry.conversationid);
    this.discard(entry);
    if (conversation) await this.send(conversation, entry.text);
  }

  /** @param {Outgoing} entry */
  discard(entry) {
    this.model.outbox = this.model.outbox.filter((each) => each !== entry);
    this.changed(entry.conversationid);
  }

  /** @param {string} conversationid */
  changed(conversationid) {
    this.save();
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

  /** Sends this tab's recent messages again after a restore, which may have lost them. What the server has stays as it is. */
  async resendRecent() {
    for (const entry of this.recent) {
      const { conversationid, instance, message } = entry;
      await this.api.conversation({ action: 'add', conversationid, instance, message }).catch(() => {});
    }
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
      this.recent = [...this.recent, { conversationid, instance, message }].slice(-KEPT);
    } catch (error) {
      if (error instanceof NoAnswer) return 0;
      if (!(error instanceof Refused)) throw error;
      if (PASSING.has(error.code) || error.code.startsWith('timestamp')) return error.retryAfter * 1000;
      entry.cleared = error.code === 'instance_changed' || error.code === 'message_conflict';
      entry.failure = this.explain(error, conversationid);
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
