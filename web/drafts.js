/** Drafts: unsent text by conversation. They are kept sealed, so that a reload does not lose them. */

import { open, seal } from './crypto.js';

/** @typedef {import('./kept.js').Kept} Kept */
/** @typedef {import('./sync.js').Sync} Sync */
/** @typedef {import('./model.js').Conversation} Conversation */

export class Drafts {
  /**
   * @param {import('./model.js').Model} model
   * @param {Sync} sync
   * @param {Pick<Kept, 'put' | 'drop' | 'all'>} kept
   */
  constructor(model, sync, kept) {
    this.model = model;
    this.sync = sync;
    this.kept = kept;
    /** @type {Map<string, string>} by conversation */
    this.texts = new Map();
    /** Conversations whose draft is being stored. */
    this.storing = new Set();
  }

  /** @param {Conversation} conversation */
  place(conversation) {
    return { conversationid: conversation.id, instance: '', id: 'draft' };
  }

  /** Reads what was kept, once the conversations are known. */
  async restore() {
    for (const { conversationid, data } of await this.kept.all('draft')) {
      const conversation = this.model.conversations.get(conversationid);
      if (!conversation || this.texts.has(conversationid)) continue;
      const key = await this.sync.keyOf(conversation).catch(() => null);
      const text = key && (await open(key, this.place(conversation), this.model.me, data).catch(() => ''));
      if (text) this.texts.set(conversationid, text);
    }
    this.model.changed('drafts');
  }

  /** @param {Conversation} conversation */
  read(conversation) {
    return this.texts.get(conversation.id) ?? '';
  }

  /** Whether there is any. */
  get some() {
    return [...this.texts.values()].some((text) => text.trim() !== '');
  }

  /**
   * @param {Conversation} conversation
   * @param {string} text
   */
  async write(conversation, text) {
    const { id } = conversation;
    this.texts.set(id, text);
    if (this.storing.has(id)) return;
    this.storing.add(id);
    try {
      // Text typed during the store is stored after it.
      for (let stored; stored !== this.texts.get(id); ) {
        stored = this.texts.get(id) ?? '';
        if (stored.trim() === '') await this.kept.drop('draft', id);
        else {
          const data = await seal(await this.sync.keyOf(conversation), this.place(conversation), this.model.me, stored);
          await this.kept.put('draft', id, { conversationid: id, data });
        }
      }
    } catch (error) {
      console.warn('a reload would lose this draft', error);
    } finally {
      this.storing.delete(id);
    }
  }
}
