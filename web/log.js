/** The messages of the open conversation: history above, what waits to be sent below. */

import { el, icon, iconButton } from './dom.js';
import { UNREADABLE, dayOf, timeOf, withLinks } from './text.js';

/** @typedef {import('./client.js').Client} Client */
/** @typedef {import('./model.js').Conversation} Conversation */
/** @typedef {import('./model.js').Message} Message */
/** @typedef {{ message: Message, node: HTMLElement, tick: HTMLElement | null, shown: string, day: HTMLElement | null }} Drawn */

/** Messages of a block. The browser skips layout and paint of blocks out of sight. */
const BLOCK = 40;
/** Messages that are drawn at a time when scrolling up. */
const STEP = 120;
/** Distance from the top at which older messages are fetched, and from the bottom that still counts as there, in px. */
const NEAR_TOP = 1800;
const NEAR_BOTTOM = 60;
/** Time for which viewed messages are gathered into one report, in ms. */
const GATHER = 250;

export class Log {
  /** @param {Client} client */
  constructor(client) {
    this.client = client;
    this.older = el('p', { class: 'older', hidden: true }, 'Loading older messages…');
    this.history = el('div', {});
    this.waiting = el('div', {});
    this.scroller = el('div', { class: 'log', role: 'log', 'aria-label': 'Messages', tabIndex: 0 }, this.older, this.history, this.waiting);
    this.down = iconButton('down', 'Newest messages', () => this.toBottom(), { class: 'icon-button to-newest', hidden: true });
    this.element = el('div', { class: 'log-frame' }, this.scroller, this.down);
    /** @type {Conversation | undefined} */
    this.conversation = undefined;
    this.instance = '';
    /** What `waiting` shows. */
    this.waitingShown = '[]';
    /** @type {Drawn[]} */
    this.drawn = [];
    /** ID of the first new message. */
    this.lineBefore = '';
    this.lineNode = el('div', { class: 'new-line', role: 'separator', 'aria-label': 'New messages' }, el('span', { 'aria-hidden': 'true' }, 'New messages'));
    this.loading = false;
    this.filled = false;
    this.atBottom = true;
    /** @type {Set<string>} IDs in sight that are not reported as viewed */
    this.inSight = new Set();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.report = undefined;
    this.sight = new IntersectionObserver((entries) => this.sighted(entries), { root: this.scroller, threshold: [0.02, 0.1, 0.2, 0.3, 0.4, 0.5] });
    this.scroller.addEventListener('scroll', () => this.scrolled(), { passive: true });
    new ResizeObserver(() => this.atBottom && this.toBottom()).observe(this.scroller);
    document.addEventListener('visibilitychange', () => this.reportViewed(), { signal: client.page.signal });
  }

  /** @param {Conversation | undefined} conversation */
  show(conversation) {
    this.conversation = conversation;
    this.instance = conversation?.wire.instance ?? '';
    this.sight.disconnect();
    this.inSight.clear();
    this.drawn = [];
    this.history.replaceChildren();
    this.waiting.replaceChildren();
    this.waitingShown = '[]';
    this.lineBefore = '';
    this.filled = false;
    this.atBottom = true;
    this.update();
  }

  /** Draws what has changed. */
  update() {
    const { conversation } = this;
    if (!conversation) return;
    const { messages } = conversation;
    const lost = this.drawn.length > 0 && !conversation.byId.has(this.drawn[0].message.id);
    if (lost || conversation.wire.instance !== this.instance) return this.show(conversation);
    if (conversation.loaded && !this.filled) {
      this.fill(messages);
    } else if (this.filled) {
      const last = this.drawn.at(-1)?.message;
      const from = last ? messages.indexOf(last) + 1 : 0;
      if (last && from === 0) return this.show(conversation);
      this.append(messages.slice(from));
    }
    for (const entry of this.drawn) this.drawTick(entry);
    this.drawWaiting();
    this.older.hidden = conversation.complete || !this.filled;
    if (this.atBottom) this.toBottom();
    else this.down.hidden = false;
  }

  /** @param {Message[]} messages */
  fill(messages) {
    this.filled = true;
    const unread = Math.min(this.conversation?.unread ?? 0, messages.length);
    const others = messages.filter((message) => !message.own);
    const first = unread > 0 ? others.at(-Math.min(unread, others.length)) : undefined;
    this.lineBefore = first?.id ?? '';
    const start = first ? Math.min(messages.indexOf(first), messages.length - STEP) : messages.length - STEP;
    this.append(messages.slice(Math.max(0, start)));
    if (first) {
      this.atBottom = false;
      this.lineNode.scrollIntoView({ block: 'start' });
      this.scrolled();
    }
  }

  /** @param {Message[]} messages */
  append(messages) {
    if (messages.length === 0) return;
    const unseen = messages.find((message) => !message.own && !message.seen);
    const hidden = document.visibilityState === 'hidden' || !this.atBottom;
    if (unseen && hidden && this.drawn.length > 0 && this.inSight.size === 0 && !this.waitsBefore()) this.lineBefore = unseen.id;
    for (const message of messages) {
      const previous = this.drawn.at(-1)?.message;
      const entry = this.draw(message);
      let block = this.history.lastElementChild;
      if (!block || block.childElementCount >= BLOCK) {
        block = el('div', { class: 'block' });
        this.history.append(block);
      }
      block.append(entry.node);
      this.drawn.push(entry);
      this.decorate(entry, previous);
      this.watch(entry);
    }
  }

  /** Whether a drawn message of the other has not been viewed. */
  waitsBefore() {
    return this.drawn.slice(-200).some(({ message }) => !message.own && !message.seen);
  }

  /**
   * Draws messages above all others, and keeps in place what is in sight.
   * @param {Message[]} messages oldest first
   */
  prepend(messages) {
    if (messages.length === 0) return;
    const anchor = this.drawn[0]?.node;
    const before = anchor?.getBoundingClientRect().top ?? 0;
    const entries = messages.map((message) => this.draw(message));
    for (let end = entries.length; end > 0; end -= BLOCK) {
      const part = entries.slice(Math.max(0, end - BLOCK), end);
      this.history.prepend(el('div', { class: 'block' }, ...part.map((entry) => entry.node)));
    }
    const follower = this.drawn[0];
    this.drawn.unshift(...entries);
    entries.forEach((entry, i) => this.decorate(entry, entries[i - 1]?.message));
    if (follower) this.decorate(follower, entries.at(-1)?.message);
    for (const entry of entries) this.watch(entry);
    if (anchor) this.scroller.scrollTop += anchor.getBoundingClientRect().top - before;
  }

  /**
   * @param {Message} message
   * @returns {Drawn}
   */
  draw(message) {
    const tick = message.own ? el('span', { class: 'tick' }) : null;
    const text = message.text === null ? [UNREADABLE] : withLinks(message.text);
    const time = timeOf(message.created);
    const node = el(
      'div',
      { class: `message ${message.own ? 'own' : 'other'}${message.text === null ? ' unreadable' : ''}`, 'data-id': message.id },
      el('div', { class: 'bubble' }, el('div', { class: 'text', dir: 'auto' }, ...text), el('div', { class: 'meta' }, el('time', {}, time), tick)),
    );
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
    entry.node.classList.toggle('follows', !isNew && previous?.own === entry.message.own);
    if (entry.message.id === this.lineBefore) (entry.day ?? entry.node).before(this.lineNode);
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
          : el('div', { class: 'meta' }, el('time', {}, timeOf(entry.message.Created)), el('span', { class: 'tick' }, icon(state, state)));
        const text = el('div', { class: 'text', dir: 'auto' }, ...withLinks(entry.text));
        return el('div', { class: `message own${entry.failure ? ' failed' : ''}`, 'data-id': entry.message.ID }, el('div', { class: 'bubble' }, text, meta));
      }),
    );
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    this.atBottom = scrollHeight - scrollTop - clientHeight < NEAR_BOTTOM;
    this.down.hidden = this.atBottom;
    if (scrollTop < NEAR_TOP) this.loadOlder();
  }

  toBottom() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.atBottom = true;
    this.down.hidden = true;
    if (this.filled && this.scroller.scrollHeight < this.scroller.clientHeight + NEAR_TOP) this.loadOlder();
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
    } catch (error) {
      console.warn('older messages could not be loaded', error);
      await new Promise((resolve) => setTimeout(resolve, 2000));
    } finally {
      this.loading = false;
    }
  }

  /** @returns {boolean} whether there was something to draw */
  drawEarlier() {
    const { conversation } = this;
    const first = this.drawn[0]?.message;
    if (!conversation || !first) return false;
    const end = conversation.messages.indexOf(first);
    if (end <= 0) return false;
    this.prepend(conversation.messages.slice(Math.max(0, end - STEP), end));
    if (this.atBottom) this.toBottom();
    return true;
  }

  /**
   * Shows a message that a search has found.
   * @param {string} id
   */
  reveal(id) {
    while (!this.drawn.some((entry) => entry.message.id === id) && this.drawEarlier());
    const found = this.drawn.find((entry) => entry.message.id === id);
    if (!found) return;
    this.atBottom = false;
    found.node.scrollIntoView({ block: 'center' });
    found.node.classList.add('found');
    setTimeout(() => found.node.classList.remove('found'), 2000);
  }

  /** @param {Drawn} entry */
  watch(entry) {
    if (!entry.message.own && !entry.message.seen) this.sight.observe(entry.node);
  }

  /** @param {IntersectionObserverEntry[]} entries */
  sighted(entries) {
    for (const { target, intersectionRatio, intersectionRect, rootBounds } of entries) {
      const id = /** @type {HTMLElement} */ (target).dataset.id ?? '';
      // A message higher than the window never shows half of itself.
      const fills = rootBounds !== null && intersectionRect.height > rootBounds.height / 2;
      if (intersectionRatio >= 0.5 || fills) this.inSight.add(id);
      else this.inSight.delete(id);
    }
    this.reportViewed();
  }

  /** Reports what was really seen: the page is visible, the conversation open, the message in sight. */
  reportViewed() {
    if (this.report !== undefined || this.inSight.size === 0 || document.visibilityState !== 'visible') return;
    this.report = setTimeout(async () => {
      this.report = undefined;
      const { conversation } = this;
      if (!conversation || document.visibilityState !== 'visible') return;
      const ids = [...this.inSight].filter((id) => conversation.byId.get(id)?.seen === false).slice(0, 1000);
      this.inSight.clear();
      if (ids.length === 0) return;
      try {
        await this.client.viewed(conversation, ids);
        for (const { message, node } of this.drawn) if (message.seen) this.sight.unobserve(node);
      } catch (error) {
        console.warn('messages could not be reported as viewed', error);
        await new Promise((resolve) => setTimeout(resolve, 3000));
        if (conversation === this.conversation) {
          for (const id of ids) this.inSight.add(id);
          this.reportViewed();
        }
      }
    }, GATHER);
  }
}
