/**
 * Keeps the model true: reads the lists, follows notifications, and loads pages of messages.
 */

import { Refused } from './api.js';
import { open, unwrapConversationKey } from './crypto.js';
import { Conversation } from './model.js';

/** @typedef {import('./api.js').Api} Api */
/** @typedef {import('./model.js').Model} Model */
/** @typedef {import('./model.js').Message} Message */
/** @typedef {import('./wire.js').WireMessage} WireMessage */
/** @typedef {import('./wire.js').WireConversation} WireConversation */

/** Messages of a page: the first one fills a screen, later ones are read while scrolling. */
const FIRST_PAGE = 50;
const PAGE = 200;
/** Conversations that are read at the same time. */
const READERS = 4;
/** Conversations whose last messages are read at once, before they are opened. The list asks for others as they come in sight. */
const PREVIEWS = 30;
/** Conversations in one notification above which the list is read first. */
const MANY = 8;

export class Sync {
  /**
   * @param {Model} model
   * @param {Api} api
   */
  constructor(model, api) {
    this.model = model;
    this.api = api;
    this.epoch = '';
    /** One reader per conversation; a request that comes meanwhile runs once more after it. */
    /** @type {Map<string, { running: Promise<void>, again: boolean }>} */
    this.readers = new Map();
    /** Called for each conversation in which messages of the other participant arrived. */
    this.arrived = (/** @type {Conversation} */ _conversation) => {};
    /** Called when the lists have been read, before anything else. */
    this.listed = async () => {};
    /** @type {Promise<void> | null} */
    this.refreshing = null;
    this.refreshAgain = false;
  }

  /**
   * Reads everything that may have changed while nothing was told. A call that comes meanwhile runs once more after it.
   * @returns {Promise<void>}
   */
  refresh() {
    this.refreshAgain = true;
    this.refreshing ??= this.refreshAll().finally(() => {
      this.refreshing = null;
    });
    return this.refreshing;
  }

  async refreshAll() {
    while (this.refreshAgain) {
      this.refreshAgain = false;
      await Promise.all([this.readPeople(), this.readList()]);
      await this.listed();
      this.model.ready = true;
      this.model.changed('list', 'friends', 'open');
      const stale = this.model.sorted().filter((each) => this.isStale(each));
      await eachOf(stale, READERS, (each) => this.catchUp(each.id, true));
      await this.readPreviews();
    }
  }

  /**
   * The name of the database. After a restore nothing from before may be trusted.
   * @param {string} epoch
   * @returns {boolean} whether it differs from the one before
   */
  enterEpoch(epoch) {
    const restored = this.epoch !== '' && this.epoch !== epoch;
    this.epoch = epoch;
    if (restored) for (const conversation of this.model.conversations.values()) conversation.forget();
    return restored;
  }

  /** @param {import('./listener.js').Notification} event */
  async follow(event) {
    const { conversations } = this.model;
    const before = new Map([...conversations.values()].map((each) => [each.id, each.unread]));
    const { ready } = this.model;
    const lists = event.conversationlistchangedof.length > 0;
    // A new station is told of everything. The list is one call, and says which conversations have to be read.
    const many = lists || event.conversationchangedof.length > MANY;
    await Promise.all([
      many && this.readList(),
      lists ? this.readPeople() : event.friendavailabilitesof.length > 0 && this.readFriends(),
    ]);
    const named = event.conversationchangedof.filter((id) => !many || this.isStale(conversations.get(id)));
    await eachOf(named, READERS, (id) => this.catchUp(id, many));
    if (!ready) return;
    for (const conversation of conversations.values()) {
      if (conversation.unread > (before.get(conversation.id) ?? 0)) this.arrived(conversation);
    }
  }

  /**
   * Whether a conversation has to be read after the list: the copy is behind, or messages wait that the server does not
   * call delivered before they are read.
   * @param {Conversation | undefined} conversation
   */
  isStale(conversation) {
    if (!conversation || conversation.current) return false;
    return conversation.loaded || conversation.unread > 0 || conversation.id === this.model.openId;
  }

  async readFriends() {
    const { availabilities } = await this.api.friends({ action: 'list' });
    this.model.friends = new Map(
      availabilities.map((/** @type {any} */ friend) => [friend.friendid, { name: friend.friendname, availability: friend.availability }]),
    );
    this.model.changed('friends', 'list');
  }

  async readPeople() {
    const [requests, blocks] = await Promise.all([
      this.api.friends({ action: 'requests' }),
      this.api.blocks({ action: 'blocklist' }),
      this.readFriends(),
    ]);
    const { model } = this;
    model.incoming = requests.incoming;
    model.outgoing = requests.outgoing;
    model.blocked = new Set(blocks.blockedusers);
    model.changed('friends', 'list');
  }

  async readList() {
    const { conversations } = await this.api.conversation({ action: 'list', extended: true });
    const known = new Set(conversations.map((/** @type {WireConversation} */ wire) => wire.id));
    for (const id of this.model.conversations.keys()) if (!known.has(id)) this.model.conversations.delete(id);
    for (const wire of conversations) this.take(wire);
    this.model.changed('list');
  }

  /**
   * @param {WireConversation} wire
   * @returns {Conversation}
   */
  take(wire) {
    const { model } = this;
    let conversation = model.conversations.get(wire.id);
    if (conversation) {
      conversation.update(wire);
    } else {
      conversation = new Conversation(model.me, wire);
      model.conversations.set(wire.id, conversation);
    }
    model.changed('list', `messages:${wire.id}`);
    return conversation;
  }

  /**
   * Reads the last messages of conversations, for the list.
   * @param {Conversation[]} [conversations] those of the head of the list where left out
   */
  async readPreviews(conversations = this.model.sorted().slice(0, PREVIEWS)) {
    const missing = conversations.filter((each) => !each.loaded && each.wire.lastmessageid !== '' && !this.readers.has(each.id));
    await eachOf(missing, READERS, (each) => this.catchUp(each.id, true));
  }

  /**
   * Reads what is new in one conversation.
   * @param {string} id
   * @param {boolean} [listed] whether the list has just been read
   * @returns {Promise<void>}
   */
  catchUp(id, listed = false) {
    const reader = this.readers.get(id);
    if (reader) {
      reader.again = true;
      return reader.running;
    }
    const entry = { running: Promise.resolve(), again: false };
    const read = async () => {
      try {
        do {
          entry.again = false;
          await this.readNew(id, listed);
          listed = false;
        } while (entry.again);
      } finally {
        this.readers.delete(id);
      }
    };
    this.readers.set(id, entry);
    entry.running = read();
    return entry.running;
  }

  /**
   * @param {string} id
   * @param {boolean} listed
   * @returns {Promise<void>}
   */
  async readNew(id, listed) {
    let conversation = this.model.conversations.get(id);
    try {
      if (!conversation || !listed) {
        // Before the messages, so that `lastreportid` is no newer than the reports that come with them.
        const answer = await this.api.conversation({ action: 'show', conversationid: id, extended: true });
        conversation = this.take(answer.conversation);
      }
      if (!conversation.loaded) await this.readLatest(conversation);
      else if (!conversation.current) await this.readNewer(conversation);
    } catch (error) {
      if (this.renewed(error)) return this.readNew(id, true);
      if (!(error instanceof Refused) || error.code !== 'conversation_not_found') throw error;
      this.model.conversations.delete(id);
    }
    this.model.changed('list', `messages:${id}`);
  }

  /**
   * Takes the present state along where the conversation was cleared.
   * @param {unknown} error
   */
  renewed(error) {
    if (!(error instanceof Refused) || error.code !== 'instance_changed' || !error.conversation) return false;
    this.take(error.conversation);
    return true;
  }

  /** @param {Conversation} conversation */
  async readLatest(conversation) {
    const { copy } = conversation;
    const { instance, lastreportid } = conversation.wire;
    // All that is unread, and some before it.
    const limit = FIRST_PAGE + conversation.unread;
    const answer = await this.api.conversation({
      action: 'downloadpartial',
      conversationid: conversation.id,
      instance,
      limit,
      extended: true,
    });
    const page = await this.openAll(conversation, answer.messages);
    if (conversation.copy !== copy) return;
    conversation.forget();
    conversation.prepend(page);
    conversation.applyReports(answer.reports);
    conversation.reportCursor = lastreportid;
    // `more` speaks of the server's limits alone: a page that `limit` ended has `"more":false`.
    conversation.complete = !answer.more && page.length < limit;
    conversation.loaded = true;
  }

  /** @param {Conversation} conversation */
  async readNewer(conversation) {
    const { copy } = conversation;
    const { instance } = conversation.wire;
    for (let more = true; more; ) {
      const cursor = conversation.last?.id ?? '';
      const { reportCursor } = conversation;
      const answer = await this.api.conversation({
        action: 'download',
        conversationid: conversation.id,
        instance,
        firstmessageid: cursor,
        firstreportid: reportCursor,
        extended: true,
      });
      if (answer.unknowncursor) {
        conversation.forget();
        return this.readLatest(conversation);
      }
      const fresh = answer.messages.filter((/** @type {WireMessage} */ message) => !conversation.byId.has(message.ID));
      const page = await this.openAll(conversation, fresh);
      if (conversation.copy !== copy) return;
      for (const message of page) conversation.append(message);
      conversation.applyReports(answer.reports);
      conversation.reportCursor = answer.reports.at(-1)?.ID ?? reportCursor;
      more = answer.more === true;
      this.model.changed(`messages:${conversation.id}`);
    }
  }

  /**
   * Loads the page before the first message that is here.
   * @param {Conversation} conversation
   * @returns {Promise<boolean>} whether there is more
   */
  async readOlder(conversation) {
    const first = conversation.messages[0];
    if (!conversation.loaded || conversation.complete || !first) return false;
    const { copy } = conversation;
    const { instance } = conversation.wire;
    try {
      const answer = await this.api.conversation({
        action: 'downloadpartial',
        conversationid: conversation.id,
        instance,
        lastmessageid: first.id,
        limit: PAGE,
        extended: true,
      });
      if (answer.unknowncursor) {
        await this.catchUp(conversation.id);
        return true;
      }
      const page = await this.openAll(conversation, answer.messages);
      if (conversation.copy !== copy) return true;
      conversation.prepend(page);
      conversation.applyReports(answer.reports);
      conversation.complete = !answer.more && answer.messages.length < PAGE;
      return !conversation.complete;
    } catch (error) {
      if (!this.renewed(error)) throw error;
      await this.catchUp(conversation.id);
      return true;
    } finally {
      this.model.changed(`messages:${conversation.id}`);
    }
  }

  /** @param {Conversation} conversation */
  keyOf(conversation) {
    conversation.key ??= unwrapConversationKey(this.model.account.privateKey, conversation.wire.secret).catch(() => {
      throw new Error('Your private key does not open this conversation. Ask your operator.');
    });
    return conversation.key;
  }

  /**
   * @param {Conversation} conversation
   * @param {WireMessage[]} messages
   * @returns {Promise<Message[]>}
   */
  async openAll(conversation, messages) {
    const key = await this.keyOf(conversation).catch(() => null);
    const { instance } = conversation.wire;
    return Promise.all(
      messages.map(async (message) => {
        const place = { conversationid: conversation.id, instance, id: message.ID };
        const text = key ? await open(key, place, message.UserID, message.Data, this.model.me).catch(() => null) : null;
        const own = message.UserID === this.model.me;
        return { id: message.ID, own, created: message.Created, text, tick: /** @type {const} */ ('Sent'), seen: false };
      }),
    );
  }
}

/**
 * @template T
 * @param {T[]} items
 * @param {number} width tasks at a time
 * @param {(item: T) => Promise<unknown>} act
 */
async function eachOf(items, width, act) {
  const queue = [...items];
  const work = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await act(item);
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, work));
}
