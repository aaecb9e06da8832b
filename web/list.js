/** The list of conversations, and the search in what this tab has. */

import { Avatar, paint } from './avatar.js';
import { el, icon, setText } from './dom.js';
import { moveFocus } from './menu.js';
import { UNREADABLE, listTime } from './text.js';

/** @typedef {import('./client.js').Client} Client */
/** @typedef {import('./model.js').Conversation} Conversation */
/** @typedef {import('./model.js').Message} Message */

/** Most messages that a search shows. */
const MAX_FOUND = 50;

export class ConversationList {
  /**
   * @param {Client} client
   * @param {(id: string, messageid?: string) => void} open
   */
  constructor(client, open) {
    this.client = client;
    this.open = open;
    this.showHidden = false;
    this.foundDrawn = '';
    /** @type {Map<string, Row>} */
    this.rows = new Map();
    const placeholder = matchMedia('(min-width: 700px)').matches ? 'Search (Ctrl K)' : 'Search';
    this.search = el('input', { type: 'search', 'aria-label': 'Search', placeholder, autocomplete: 'off', oninput: () => this.update() });
    this.list = el('ul', { class: 'list', 'aria-label': 'Conversations', role: 'list' });
    this.empty = el('p', { class: 'quiet empty' });
    this.hiddenButton = el('button', { type: 'button', class: 'hidden-toggle quiet', hidden: true, onclick: () => this.toggleHidden() });
    this.found = el('ul', { class: 'list found', 'aria-label': 'Messages found', role: 'list' });
    this.foundHead = el('h2', { class: 'found-head', hidden: true }, 'Messages');
    this.element = el('div', { class: 'lists' }, this.list, this.empty, this.hiddenButton, this.foundHead, this.found);
    this.sight = new IntersectionObserver((entries) => this.sighted(entries), { root: this.element, rootMargin: '400px' });
    this.element.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && this.search.value !== '') {
        event.preventDefault();
        this.endSearch();
      } else moveFocus(event, this.targets());
    });
    this.search.addEventListener('keydown', (event) => {
      if (event.key === 'ArrowDown') {
        event.preventDefault();
        this.targets()[0]?.focus();
      } else if (event.key === 'Enter') {
        this.targets()[0]?.click();
      } else if (event.key === 'Escape') {
        event.preventDefault();
        this.endSearch();
      }
    });
  }

  /**
   * Reads the last messages of the rows that come in sight.
   * @param {IntersectionObserverEntry[]} entries
   */
  sighted(entries) {
    const { model, sync } = this.client;
    const shown = entries.filter((entry) => entry.isIntersecting).map(({ target }) => /** @type {HTMLElement} */ (target).dataset.id ?? '');
    const conversations = shown.map((id) => model.conversations.get(id)).filter((each) => each !== undefined);
    if (model.ready) sync.readPreviews(conversations).catch((error) => console.warn('last messages could not be read', error));
  }

  toggleHidden() {
    this.showHidden = !this.showHidden;
    this.update();
  }

  endSearch() {
    this.search.value = '';
    this.update();
    document.querySelector('textarea')?.focus();
  }

  targets() {
    return /** @type {HTMLElement[]} */ ([...this.element.querySelectorAll('.row')]);
  }

  update() {
    const { model } = this.client;
    const query = this.search.value.trim().toLowerCase();
    const all = model.sorted();
    const hidden = all.filter((each) => each.hidden);
    const shown = all.filter((each) =>
      query ? each.name.toLowerCase().includes(query) : this.showHidden || !each.hidden || each.id === model.openId,
    );
    const ids = new Set(shown.map((each) => each.id));
    for (const [id, row] of this.rows) {
      if (ids.has(id)) continue;
      this.sight.unobserve(row.element);
      row.element.remove();
      this.rows.delete(id);
    }
    shown.forEach((conversation, i) => {
      let row = this.rows.get(conversation.id);
      if (!row) {
        row = new Row(this.client, conversation, () => this.choose(conversation.id));
        this.rows.set(conversation.id, row);
        row.element.dataset.id = conversation.id;
        this.sight.observe(row.element);
      }
      row.update(conversation);
      if (this.list.children[i] !== row.element) this.list.insertBefore(row.element, this.list.children[i] ?? null);
    });
    this.hiddenButton.hidden = hidden.length === 0 || query !== '';
    setText(this.hiddenButton, this.showHidden ? 'Leave out hidden conversations' : `Show ${hidden.length} hidden`);
    const searched = query.length < 2 ? 'No conversation has this name.' : 'Nothing found. Only messages that are loaded are searched.';
    const nothing = query ? searched : 'No conversations.';
    setText(this.empty, model.ready ? nothing : 'Loading…');
    this.updateFound(query);
    this.empty.hidden = shown.length > 0 || !this.found.hidden;
    const current = model.openId !== null && this.rows.has(model.openId) ? model.openId : shown[0]?.id;
    for (const [id, row] of this.rows) row.button.tabIndex = id === current ? 0 : -1;
  }

  /**
   * @param {string} id
   * @param {string} [messageid]
   */
  choose(id, messageid) {
    this.search.value = '';
    this.open(id, messageid);
  }

  /** @param {string} query */
  updateFound(query) {
    const found = query.length < 2 ? [] : this.find(query);
    // Drawn anew only where it differs, so that a focused result stays.
    const drawn = `${query} ${found.map(({ message }) => message.id).join()}`;
    if (drawn === this.foundDrawn) return;
    this.foundDrawn = drawn;
    this.foundHead.hidden = found.length === 0;
    this.found.hidden = found.length === 0;
    this.found.replaceChildren(
      ...found.map(({ conversation, message, text, at }) => {
        const end = at + query.length;
        const snippet = el('span', { class: 'preview' }, leadIn(text.slice(0, at)), el('mark', {}, text.slice(at, end)), text.slice(end, end + 200));
        const button = el('button', { type: 'button', class: 'row', onclick: () => this.choose(conversation.id, message.id) });
        button.append(el('span', { class: 'body' }, el('span', { class: 'name' }, conversation.name), snippet));
        return el('li', {}, button);
      }),
    );
  }

  /** @param {string} query in lower case */
  find(query) {
    /** @type {{ conversation: Conversation, message: Message, text: string, at: number }[]} */
    const found = [];
    for (const conversation of this.client.model.sorted()) {
      for (let i = conversation.messages.length - 1; i >= 0 && found.length < MAX_FOUND; i--) {
        const message = conversation.messages[i];
        const at = message.text?.toLowerCase().indexOf(query) ?? -1;
        if (at >= 0) found.push({ conversation, message, text: message.text ?? '', at });
      }
    }
    return found;
  }
}

/** One conversation of the list. */
class Row {
  /**
   * @param {Client} client
   * @param {Conversation} conversation
   * @param {() => void} onclick
   */
  constructor(client, conversation, onclick) {
    this.client = client;
    this.avatar = new Avatar();
    this.name = el('span', { class: 'name', dir: 'auto' }, conversation.name);
    this.marks = el('span', { class: 'marks' });
    this.time = el('time', { class: 'quiet' });
    this.preview = el('span', { class: 'preview', dir: 'auto' });
    this.badge = el('span', { class: 'badge', role: 'img', hidden: true });
    this.button = el(
      'button',
      { type: 'button', class: 'row', onclick },
      this.avatar.element,
      el('span', { class: 'body' }, el('span', { class: 'top' }, this.name, this.marks, this.time), el('span', { class: 'bottom' }, this.preview, this.badge)),
    );
    this.element = el('li', {}, this.button);
    this.drawnMarks = '';
  }

  /** @param {Conversation} conversation */
  update(conversation) {
    const { model } = this.client;
    setText(this.name, conversation.name);
    this.avatar.update(conversation.other.userid, conversation.name, model.availabilityOf(conversation));
    setText(this.time, conversation.wire.lastaccess > 0 ? listTime(conversation.wire.lastaccess * 1000) : '');
    setText(this.preview, this.lastText(conversation));
    const unread = conversation.unread >= 100 ? '99+' : String(conversation.unread);
    this.badge.hidden = conversation.unread === 0;
    this.badge.setAttribute('aria-label', `${unread} unread`);
    setText(this.badge, unread);
    const marks = `${conversation.favourite} ${conversation.muted}`;
    if (marks !== this.drawnMarks) {
      this.drawnMarks = marks;
      const icons = [conversation.favourite && icon('star', 'Favourite'), conversation.muted && icon('muted', 'Muted')];
      this.marks.replaceChildren(...icons.filter((each) => each !== false));
    }
    this.button.classList.toggle('unread', conversation.unread > 0);
    this.button.classList.toggle('muted', conversation.muted);
    this.button.classList.toggle('is-hidden', conversation.hidden);
    paint(this.button, conversation.colour);
    if (conversation.id === model.openId) this.button.setAttribute('aria-current', 'true');
    else this.button.removeAttribute('aria-current');
  }

  /** @param {Conversation} conversation */
  lastText(conversation) {
    const waiting = this.client.model.outgoingOf(conversation.id).at(-1);
    if (waiting && !conversation.byId.has(waiting.message.ID)) return `You: ${firstLine(waiting.text)}`;
    const { last } = conversation;
    if (!last) return conversation.wire.lastmessageid !== '' ? '' : conversation.cleared ? 'Messages cleared' : 'No messages yet';
    return (last.own ? 'You: ' : '') + (last.text === null ? UNREADABLE : firstLine(last.text));
  }
}

/**
 * @param {string} text before a hit
 * @returns {string} its end from the start of a word, or all of it where a cut would save little
 */
function leadIn(text) {
  return text.length <= 32 ? text : `…${text.slice(-24).replace(/^\S*\s+|^[\udc00-\udfff]/, '')}`;
}

/** @param {string} text */
function firstLine(text) {
  return text.slice(0, 200).replace(/\s+/g, ' ');
}
