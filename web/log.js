/**
 * The messages of the open conversation: history above, what waits to be sent below.
 *
 * Only a window of the history is in the document, so that the time to draw a message does not grow with the history.
 * Scrolling moves the window: blocks are drawn at one end and removed at the other, out of sight.
 */

import { el, icon, iconButton, setText } from './dom.js';
import { Sight } from './sight.js';
import { UNREADABLE, dayOf, timeOf, withLinks } from './text.js';

/** @typedef {import('./client.js').Client} Client */
/** @typedef {import('./model.js').Conversation} Conversation */
/** @typedef {import('./model.js').Message} Message */
/** @typedef {{ message: Message, node: HTMLElement, tick: HTMLElement | null, shown: string, day: HTMLElement | null }} Drawn */

/** Messages of a block, messages that are drawn at a time, and messages above which blocks are removed. */
const BLOCK = 40;
const STEP = 120;
const MAX_DRAWN = 400;
/** Distance from an end of the window at which it moves, and from the bottom that still counts as there, in px. */
const NEAR = 1800;
const NEAR_BOTTOM = 60;
/** Wait after older messages could not be loaded, in ms. */
const REPEAT = 5000;
/** Maximum new messages that a screen reader is told at a time. */
const MAX_TOLD = 3;
/** Newest messages that are searched for one that was not viewed. */
const RECENT = 200;

export class Log {
  /** @param {Client} client */
  constructor(client) {
    this.client = client;
    this.note = el('p', { class: 'log-note quiet' });
    this.older = el('p', { class: 'older', hidden: true }, 'Loading older messages…');
    this.history = el('div', { class: 'history' });
    this.waiting = el('div', {});
    // Screen readers are told of new messages alone, not of the history that scrolling draws.
    this.told = el('p', { class: 'for-readers', 'aria-live': 'polite' });
    this.scroller = el('div', { class: 'log', role: 'log', 'aria-live': 'off', 'aria-label': 'Messages', tabIndex: 0 }, this.note, this.older, this.history, this.waiting);
    this.down = iconButton('down', 'Newest messages', () => this.toBottom(), { class: 'icon-button to-newest', hidden: true });
    this.element = el('div', { class: 'log-frame' }, this.scroller, this.down, this.told);
    /** @type {Conversation | undefined} */
    this.conversation = undefined;
    this.instance = '';
    this.today = '';
    /** Text of `waiting`. */
    this.waitingShown = '[]';
    /** @type {{ element: HTMLElement, entries: Drawn[] }[]} the window, oldest first */
    this.blocks = [];
    /** ID of the newest message at the last update. */
    this.newest = '';
    /** ID of the first new message. */
    this.lineBefore = '';
    this.lineNode = el('div', { class: 'new-line', role: 'separator', 'aria-label': 'New messages' }, el('span', { 'aria-hidden': 'true' }, 'New messages'));
    this.loading = false;
    this.filled = false;
    this.atBottom = true;
    this.sight = new Sight(this.scroller, (ids) => this.reportViewed(ids), client.page.signal);
    this.scroller.addEventListener('scroll', () => this.scrolled(), { passive: true });
    new ResizeObserver(() => this.atBottom && this.toBottom()).observe(this.scroller);
  }

  /** @param {Conversation | undefined} conversation */
  show(conversation) {
    this.conversation = conversation;
    this.instance = conversation?.wire.instance ?? '';
    this.today = new Date().toDateString();
    this.clear();
    this.waiting.replaceChildren();
    this.waitingShown = '[]';
    this.told.textContent = '';
    this.lineBefore = '';
    this.filled = false;
    this.atBottom = true;
    this.update();
  }

  /** Empties the window. */
  clear() {
    this.sight.clear();
    this.blocks = [];
    this.history.replaceChildren();
  }

  get drawn() {
    return this.blocks.flatMap((block) => block.entries);
  }

  get first() {
    return this.blocks[0]?.entries[0]?.message;
  }

  get last() {
    return this.blocks.at(-1)?.entries.at(-1)?.message;
  }

  /** Whether the window ends with the newest message. */
  get atEnd() {
    return this.last === this.conversation?.last;
  }

  /** Draws what has changed. */
  update() {
    const { conversation, first } = this;
    if (!conversation) return;
    const lost = first && conversation.byId.get(first.id) !== first;
    const outdated = conversation.wire.instance !== this.instance || this.today !== new Date().toDateString();
    if (lost || outdated) return this.show(conversation);
    if (conversation.loaded && !this.filled) this.fill();
    else if (this.filled) this.takeNew();
    for (const entry of this.drawn) this.drawTick(entry);
    this.drawWaiting();
    this.older.hidden = conversation.complete || !this.filled;
    const empty = conversation.messages.length === 0 && this.waiting.childElementCount === 0;
    const none = conversation.cleared ? 'The messages were cleared.' : 'No messages yet. Write the first one.';
    setText(this.note, !this.filled ? 'Loading…' : empty ? none : '');
    this.note.hidden = !empty;
    if (this.atBottom) this.toBottom();
    else this.down.hidden = false;
  }

  /** Draws the newest messages, or those from the first unread one on. */
  fill() {
    const { conversation } = this;
    if (!conversation) return;
    const { messages } = conversation;
    this.filled = true;
    this.newest = conversation.last?.id ?? '';
    const others = messages.filter((message) => !message.own);
    const first = conversation.unread > 0 ? others.at(-Math.min(conversation.unread, others.length)) : undefined;
    this.lineBefore = first?.id ?? '';
    this.drawFrom(first ? Math.min(messages.indexOf(first), messages.length - STEP) : messages.length - STEP);
    if (!first) return;
    this.atBottom = false;
    this.lineNode.scrollIntoView({ block: 'start' });
    this.scrolled();
  }

  /**
   * Draws the window anew.
   * @param {number} start index of its first message
   */
  drawFrom(start) {
    const from = Math.max(0, start);
    this.clear();
    this.append(this.conversation?.messages.slice(from, from + MAX_DRAWN) ?? []);
  }

  /** Takes new messages in. They are drawn where the window ends with the message before them. */
  takeNew() {
    const { conversation } = this;
    if (!conversation || conversation.last === undefined) return;
    const { messages } = conversation;
    const before = messages.findLastIndex((message) => message.id === this.newest);
    const fresh = messages.slice(before + 1);
    if (fresh.length === 0) return;
    this.newest = conversation.last.id;
    const heard = fresh.filter((message) => !message.own && !message.seen).slice(-MAX_TOLD);
    if (heard.length > 0) this.told.textContent = heard.map(({ text }) => `${conversation.name}: ${text ?? UNREADABLE}`).join('\n');
    const unseen = fresh.find((message) => !message.own && !message.seen);
    const away = document.visibilityState === 'hidden' || !this.atBottom;
    const recent = messages.slice(Math.max(0, before + 1 - RECENT), before + 1);
    if (unseen && away && before >= 0 && !recent.some((message) => !message.own && !message.seen)) this.lineBefore = unseen.id;
    if (this.last !== messages[before]) return;
    if (fresh.length <= STEP) this.append(fresh);
    else if (this.atBottom) this.fill();
    if (this.atBottom) this.trimTop();
  }

  /** @param {Message[]} messages oldest first */
  append(messages) {
    for (const message of messages) {
      const previous = this.last;
      const entry = this.draw(message);
      let block = this.blocks.at(-1);
      if (!block || block.entries.length >= BLOCK) {
        block = { element: el('div', {}), entries: [] };
        this.blocks.push(block);
        this.history.append(block.element);
      }
      block.element.append(entry.node);
      block.entries.push(entry);
      this.decorate(entry, previous);
      this.watch(entry);
    }
  }

  /** @param {Message[]} messages oldest first */
  prepend(messages) {
    const follower = this.blocks[0]?.entries[0];
    const entries = messages.map((message) => this.draw(message));
    for (let end = entries.length; end > 0; end -= BLOCK) {
      const part = entries.slice(Math.max(0, end - BLOCK), end);
      const block = { element: el('div', {}, ...part.map((entry) => entry.node)), entries: part };
      this.blocks.unshift(block);
      this.history.prepend(block.element);
    }
    entries.forEach((entry, i) => this.decorate(entry, entries[i - 1]?.message));
    if (follower) this.decorate(follower, entries.at(-1)?.message);
    for (const entry of entries) this.watch(entry);
  }

  trimTop() {
    while (this.blocks.length > 1 && this.count() > MAX_DRAWN) this.drop(/** @type {any} */ (this.blocks.shift()));
  }

  trimBottom() {
    while (this.blocks.length > 1 && this.count() > MAX_DRAWN) this.drop(/** @type {any} */ (this.blocks.pop()));
  }

  count() {
    return this.blocks.reduce((count, block) => count + block.entries.length, 0);
  }

  /** @param {{ element: HTMLElement, entries: Drawn[] }} block */
  drop(block) {
    for (const { node } of block.entries) this.sight.leave(node);
    block.element.remove();
  }

  /**
   * Changes the window above what is in sight, and keeps that in its place.
   * @param {HTMLElement | undefined} anchor a message that stays
   * @param {() => void} change
   */
  inPlace(anchor, change) {
    const before = anchor?.getBoundingClientRect().top ?? 0;
    change();
    if (anchor) this.scroller.scrollTop += anchor.getBoundingClientRect().top - before;
  }

  /**
   * @param {Message} message
   * @returns {Drawn}
   */
  draw(message) {
    const tick = message.own ? el('span', { class: 'tick' }) : null;
    const meta = el('span', { class: 'meta' }, el('time', {}, timeOf(message.created)), tick);
    const node = bubble(message.id, message.text, message.own, meta);
    const entry = { message, node, tick, shown: '', day: null };
    this.drawTick(entry);
    return entry;
  }

  /** @param {Drawn} entry */
  drawTick(entry) {
    const { tick } = entry.message;
    if (!entry.tick || entry.shown === tick) return;
    entry.shown = tick;
    entry.tick.replaceChildren(icon(tick, tick));
  }

  /**
   * Puts the day and the line of new messages above a message, and closes up messages of one sender.
   * @param {Drawn} entry
   * @param {Message | undefined} previous
   */
  decorate(entry, previous) {
    const day = dayOf(entry.message.created);
    const isNew = day !== '' && (!previous || dayOf(previous.created) !== day);
    if (!isNew) {
      entry.day?.remove();
      entry.day = null;
    } else if (!entry.day) {
      entry.day = el('div', { class: 'day' }, el('span', {}, day));
      entry.node.before(entry.day);
    }
    const isLine = entry.message.id === this.lineBefore;
    if (isLine) entry.node.before(this.lineNode);
    entry.node.classList.toggle('follows', !isNew && !isLine && previous?.own === entry.message.own);
  }

  drawWaiting() {
    const { client, conversation } = this;
    if (!conversation) return;
    const entries = client.model.outgoingOf(conversation.id).filter((entry) => !conversation.byId.has(entry.message.ID));
    // Drawn anew only where it differs, so that a focused button stays and nothing is announced twice.
    const shown = JSON.stringify(entries.map((entry) => [entry.message.ID, entry.acknowledged, entry.failure]));
    if (shown === this.waitingShown) return;
    this.waitingShown = shown;
    this.waiting.replaceChildren(
      ...entries.map((entry) => {
        const state = entry.acknowledged ? 'Sent' : 'Sending';
        const meta = entry.failure
          ? el(
              'div',
              { class: 'failure' },
              el('span', { role: 'alert' }, entry.failure),
              el('button', { type: 'button', onclick: () => client.outbox.sendAgain(entry) }, 'Send again'),
              el('button', { type: 'button', onclick: () => client.outbox.discard(entry) }, 'Discard'),
            )
          : el('span', { class: 'meta' }, el('time', {}, timeOf(entry.message.Created)), el('span', { class: 'tick' }, icon(state, state)));
        const node = bubble(entry.message.ID, entry.text, true, meta);
        node.classList.toggle('failed', entry.failure !== '');
        return node;
      }),
    );
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const below = scrollHeight - scrollTop - clientHeight;
    this.atBottom = below < NEAR_BOTTOM && this.atEnd;
    this.down.hidden = this.atBottom;
    if (below < NEAR && !this.atEnd) this.drawLater();
    if (scrollTop < NEAR) this.loadOlder();
  }

  toBottom() {
    if (this.filled && !this.atEnd) this.drawFrom((this.conversation?.messages.length ?? 0) - STEP);
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.atBottom = true;
    this.down.hidden = true;
    if (this.filled && this.scroller.scrollHeight < this.scroller.clientHeight + NEAR) this.loadOlder();
  }

  /** Moves the window toward the newest message. */
  drawLater() {
    const { conversation, last } = this;
    if (!conversation || !last) return;
    const from = conversation.messages.lastIndexOf(last) + 1;
    const anchor = this.blocks.at(-1)?.entries.at(-1)?.node;
    this.append(conversation.messages.slice(from, from + STEP));
    this.inPlace(anchor, () => this.trimTop());
  }

  async loadOlder() {
    const { conversation } = this;
    if (this.loading || !this.filled || !conversation) return;
    this.loading = true;
    try {
      if (!this.drawEarlier() && !conversation.complete) {
        await this.client.sync.readOlder(conversation);
        if (conversation === this.conversation) this.drawEarlier();
      }
      this.loading = false;
    } catch (error) {
      console.warn('older messages could not be loaded', error);
      await new Promise((resolve) => setTimeout(resolve, REPEAT));
      this.loading = false;
      if (!this.client.stopped) this.scrolled();
    }
  }

  /**
   * Moves the window toward the oldest message.
   * @returns {boolean} whether there was something to draw
   */
  drawEarlier() {
    const { conversation, first } = this;
    if (!conversation || !first) return false;
    const end = conversation.messages.indexOf(first);
    if (end <= 0) return false;
    this.inPlace(this.blocks[0].entries[0].node, () => this.prepend(conversation.messages.slice(Math.max(0, end - STEP), end)));
    if (this.atBottom) this.toBottom();
    else this.trimBottom();
    return true;
  }

  /**
   * Shows a message that a search has found.
   * @param {string} id
   */
  reveal(id) {
    const message = this.conversation?.byId.get(id);
    if (!message) return;
    const find = () => this.drawn.find((entry) => entry.message === message);
    if (!find()) this.drawFrom((this.conversation?.messages.indexOf(message) ?? 0) - STEP / 2);
    const found = find();
    if (!found) return;
    this.atBottom = false;
    found.node.scrollIntoView({ block: 'center' });
    found.node.classList.add('found');
    setTimeout(() => found.node.classList.remove('found'), 2000);
  }

  /** @param {Drawn} entry */
  watch(entry) {
    if (!entry.message.own && !entry.message.seen) this.sight.watch(entry.node);
  }

  /** @param {string[]} ids */
  async reportViewed(ids) {
    const { conversation } = this;
    const unseen = ids.filter((id) => conversation?.byId.get(id)?.seen === false);
    if (!conversation || unseen.length === 0) return;
    await this.client.viewed(conversation, unseen);
    for (const { message, node } of this.drawn) if (message.seen) this.sight.leave(node);
  }
}

/**
 * @param {string} id
 * @param {string | null} text
 * @param {boolean} own
 * @param {HTMLElement} meta time and tick, or a failure
 */
function bubble(id, text, own, meta) {
  const nodes = text === null ? [UNREADABLE] : withLinks(text);
  const name = `message ${own ? 'own' : 'other'}${text === null ? ' unreadable' : ''}`;
  return el('div', { class: name, 'data-id': id }, el('div', { class: 'bubble' }, el('div', { class: 'text', dir: 'auto' }, ...nodes), meta));
}
