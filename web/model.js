/**
 * The knowledge of this tab: friends, conversations, messages. The server is the truth; this is a copy that views draw.
 */

/** @typedef {import('./wire.js').WireConversation} WireConversation */
/** @typedef {import('./wire.js').WireMessage} WireMessage */
/** @typedef {import('./wire.js').WireReport} WireReport */
/** @typedef {'available' | 'away' | 'busy' | 'offline'} Availability */
/** @typedef {'connecting' | 'online' | 'offline' | 'elsewhere'} Status of the listener */
/** @typedef {'Sending' | 'Sent' | 'Delivered' | 'Viewed'} Tick */

/**
 * @typedef {object} Message
 * @property {string} id
 * @property {boolean} own
 * @property {string} created
 * @property {string | null} text null where the message can't be opened
 * @property {Tick} tick of an own message
 * @property {boolean} seen whether this user has viewed it
 */

/**
 * @typedef {object} Outgoing a message that the server has not acknowledged
 * @property {string} conversationid
 * @property {string} instance
 * @property {Omit<WireMessage, 'UserID'>} message the five fields, the same in each attempt
 * @property {string} text
 * @property {number} position orders the outbox
 * @property {boolean} acknowledged the server has it, but it has not been downloaded yet
 * @property {string} failure why it is not sent again by itself; empty while it is
 * @property {boolean} cleared its instance has ended, so it needs a new ID
 */

/** One conversation as this user sees it. */
export class Conversation {
  /**
   * @param {string} me
   * @param {WireConversation} wire
   */
  constructor(me, wire) {
    this.me = me;
    this.id = wire.id;
    this.wire = wire;
    this.other = wire.participants.find((person) => person.userid !== me) ?? wire.participants[0];
    /** @type {Promise<CryptoKey> | undefined} */
    this.key = undefined;
    /** @type {Message[]} oldest first, without gaps */
    this.messages = [];
    /** @type {Map<string, Message>} */
    this.byId = new Map();
    /** Whether the newest messages are here. */
    this.loaded = false;
    /** Whether the first message is here. */
    this.complete = false;
    /** ID of the report up to which reports are known. */
    this.reportCursor = '';
    /** Counts the copies: an answer for an earlier one is outdated. */
    this.copy = 0;
    this.unread = 0;
    this.update(wire);
  }

  /** @param {WireConversation} wire */
  update(wire) {
    const renewed = wire.instance !== this.wire.instance;
    if (wire.secret !== this.wire.secret) this.key = undefined;
    this.wire = wire;
    this.other = wire.participants.find((person) => person.userid !== this.me) ?? this.other;
    this.unread = this.own.unread ?? this.unread;
    if (renewed) this.forget();
    // Retention may remove the oldest.
    const first = this.messages.findIndex(({ id }) => id === wire.firstmessageid);
    for (const { id } of this.messages.splice(0, Math.max(first, 0))) this.byId.delete(id);
    this.complete ||= first >= 0;
  }

  forget() {
    this.copy++;
    this.messages = [];
    this.byId.clear();
    this.loaded = false;
    this.complete = false;
    this.reportCursor = '';
  }

  get own() {
    return this.wire.properties.find((entry) => entry.userid === this.me) ?? this.wire.properties[0];
  }

  get name() {
    return this.other.username || this.other.userid;
  }

  get muted() {
    return this.own.ismuted;
  }

  get favourite() {
    return this.own.isfavorite;
  }

  get colour() {
    return this.own.listitembackgroundcolor;
  }

  /** The marker that hides the conversation until a newer message arrives. */
  get hideMarker() {
    return `${this.wire.instance};${this.wire.lastmessageid}`;
  }

  get hidden() {
    return this.wire.hiddenby.includes(this.me) || (this.own.hideid !== '' && this.own.hideid === this.hideMarker);
  }

  /** Whether no message is left: the server keeps `lastaccess`. */
  get cleared() {
    return this.wire.lastmessageid === '' && this.wire.lastaccess > 0;
  }

  /** Whether the copy has the newest message and report that the server named. */
  get current() {
    const { lastmessageid, lastreportid } = this.wire;
    return this.loaded && (this.last?.id ?? '') === lastmessageid && this.reportCursor.replaceAll('-', '') === lastreportid;
  }

  get last() {
    return this.messages.at(-1);
  }

  /** @param {Message} message */
  append(message) {
    if (this.byId.has(message.id)) return;
    this.byId.set(message.id, message);
    this.messages.push(message);
  }

  /** @param {Message[]} page oldest first */
  prepend(page) {
    const fresh = page.filter((message) => !this.byId.has(message.id));
    for (const message of fresh) this.byId.set(message.id, message);
    this.messages.unshift(...fresh);
  }

  /** @param {WireReport[]} reports */
  applyReports(reports) {
    for (const report of reports) {
      const message = this.byId.get(report.MessageID);
      if (!message) continue;
      if (report.UserID === this.me) message.seen ||= report.Type === 'viewed';
      else if (report.Type === 'viewed') message.tick = 'Viewed';
      else if (message.tick !== 'Viewed') message.tick = 'Delivered';
    }
  }
}

/** The changed part: the list, the people, the connection, which conversation is open, the drafts, or one conversation. */
/** @typedef {'list' | 'friends' | 'status' | 'open' | 'drafts' | `messages:${string}`} Topic */

export class Model {
  /** @param {import('./keystore.js').Account} account */
  constructor(account) {
    this.account = account;
    this.me = account.userid;
    /** @type {Map<string, Conversation>} */
    this.conversations = new Map();
    /** @type {Map<string, { name: string, availability: Availability }>} */
    this.friends = new Map();
    /** @type {{ userid: string, nick: string }[]} */
    this.incoming = [];
    /** @type {{ userid: string, nick: string }[]} */
    this.outgoing = [];
    /** @type {Set<string>} */
    this.blocked = new Set();
    /** @type {Outgoing[]} */
    this.outbox = [];
    /** @type {Status} */
    this.status = 'connecting';
    /** Whether the server has a newer release of this page. */
    this.outdated = false;
    /** Whether the lists have been read. */
    this.ready = false;
    /** @type {string | null} */
    this.openId = null;
    /** @type {Set<(topics: Set<Topic>) => void>} */
    this.views = new Set();
    /** @type {Set<Topic>} */
    this.pending = new Set();
  }

  /**
   * Has the views drawn, once for all changes of one turn. A timer and not an animation frame: the title of a hidden
   * tab must follow, too.
   * @param {...Topic} topics
   */
  changed(...topics) {
    if (this.pending.size === 0) {
      queueMicrotask(() => {
        const drawn = this.pending;
        this.pending = new Set();
        for (const view of this.views) view(drawn);
      });
    }
    for (const topic of topics) this.pending.add(topic);
  }

  get open() {
    return this.openId === null ? undefined : this.conversations.get(this.openId);
  }

  /** Favourites first, then the newest. */
  sorted() {
    const all = [...this.conversations.values()];
    return all.sort(
      (a, b) =>
        Number(b.favourite) - Number(a.favourite) || b.wire.lastaccess - a.wire.lastaccess || (a.id < b.id ? -1 : 1),
    );
  }

  totalUnread() {
    let total = 0;
    for (const conversation of this.conversations.values()) {
      if (!conversation.muted && !conversation.hidden) total += conversation.unread;
    }
    return total;
  }

  /** @param {Conversation} conversation */
  availabilityOf(conversation) {
    return this.friends.get(conversation.other.userid)?.availability;
  }

  /**
   * Why nothing can be written, or an empty string.
   * @param {Conversation} conversation
   */
  closedBecause(conversation) {
    if (this.blocked.has(conversation.other.userid)) return `You have blocked ${conversation.name}. Unblock in the menu (⋮) above.`;
    if (this.ready && !this.friends.has(conversation.other.userid)) return `You and ${conversation.name} are no longer friends.`;
    return '';
  }

  /** @param {string} conversationid */
  outgoingOf(conversationid) {
    return this.outbox.filter((entry) => entry.conversationid === conversationid);
  }
}
