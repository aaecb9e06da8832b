/** The open conversation: its head with the menu, the messages, and the field to write in. */

import { Avatar, paint } from './avatar.js';
import { confirm, el, icon, iconButton, openDialog, setText } from './dom.js';
import { Log } from './log.js';
import { menuButton } from './menu.js';
import { availabilityText } from './text.js';

/** @typedef {import('./client.js').Client} Client */
/** @typedef {import('./model.js').Conversation} Conversation */

/** Names of the colours that the list offers. White stands for none. */
const COLOURS = [
  ['None', '#ffffff'],
  ['Red', '#ffb3ba'],
  ['Orange', '#ffdfba'],
  ['Yellow', '#ffffba'],
  ['Green', '#baffc9'],
  ['Blue', '#bae1ff'],
  ['Violet', '#d9baff'],
];

export class ConversationView {
  /**
   * @param {Client} client
   * @param {{ back: () => void, complain: (error: unknown) => void }} options
   */
  constructor(client, { back, complain }) {
    this.client = client;
    this.complain = complain;
    /** @type {Conversation | undefined} */
    this.conversation = undefined;
    this.log = new Log(client);
    this.avatar = new Avatar();
    this.name = el('h2', { dir: 'auto' });
    this.presence = el('span', { class: 'presence quiet' });
    this.menu = menuButton('Conversation actions', () => this.actions());
    this.head = el(
      'header',
      { class: 'conversation-head' },
      iconButton('back', 'Back', back, { class: 'icon-button narrow-only' }),
      this.avatar.element,
      el('div', { class: 'who' }, this.name, this.presence),
      this.menu,
    );
    this.field = el('textarea', { 'aria-label': 'Message', rows: 1, placeholder: 'Message', dir: 'auto' });
    this.closed = el('p', { class: 'closed quiet', hidden: true });
    this.form = el('form', { class: 'composer' }, this.field, el('button', { type: 'submit', class: 'primary send', 'aria-label': 'Send', title: 'Send' }, icon('send')));
    this.form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.send();
    });
    this.field.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    this.field.addEventListener('input', () => this.keepDraft());
    this.hint = el('p', { class: 'quiet' });
    this.welcome = el('div', { class: 'welcome' }, icon('chat'), this.hint);
    this.open = el('div', { class: 'open', hidden: true }, this.head, this.log.element, this.closed, this.form);
    this.element = el('section', { class: 'conversation', 'aria-label': 'Conversation' }, this.welcome, this.open);
  }

  /** Draws what has changed, and the other conversation where another one was opened. */
  update() {
    const { model } = this.client;
    const conversation = model.open;
    this.welcome.hidden = conversation !== undefined;
    this.open.hidden = conversation === undefined;
    if (!conversation) {
      this.conversation = undefined;
      const some = model.conversations.size > 0;
      const hint = some ? 'Choose a conversation.' : 'No conversations yet: add a friend to begin one.';
      setText(this.hint, model.ready ? hint : 'Loading…');
      return;
    }
    const other = conversation !== this.conversation;
    this.conversation = conversation;
    setText(this.name, conversation.name);
    const availability = model.availabilityOf(conversation);
    setText(this.presence, availabilityText(availability));
    this.avatar.update(conversation.other.userid, conversation.name, availability);
    paint(this.head, conversation.colour);
    const closed = model.closedBecause(conversation);
    setText(this.closed, closed);
    this.closed.hidden = closed === '';
    this.form.hidden = closed !== '';
    if (other) this.showDraft();
    if (other) this.log.show(conversation);
    else this.log.update();
  }

  showDraft() {
    if (!this.conversation) return;
    this.field.value = this.client.drafts.read(this.conversation);
    this.grow();
  }

  keepDraft() {
    if (this.conversation) this.client.drafts.write(this.conversation, this.field.value);
    this.grow();
  }

  /** Makes the field as high as its text. */
  grow() {
    this.field.style.height = 'auto';
    this.field.style.height = `${this.field.scrollHeight + 2}px`;
  }

  async send() {
    const { conversation, field } = this;
    const text = field.value;
    if (!conversation || text.trim() === '') return;
    field.value = '';
    this.keepDraft();
    this.log.toBottom();
    try {
      await this.client.outbox.send(conversation, text);
    } catch (error) {
      if (field.value === '' && conversation === this.conversation) {
        field.value = text;
        this.keepDraft();
      }
      this.complain(error);
    }
  }

  /** @returns {import('./menu.js').Item[]} */
  actions() {
    const { client, conversation } = this;
    if (!conversation) return [];
    const userid = conversation.other.userid;
    const blocked = client.model.blocked.has(userid);
    /**
     * @param {string} label
     * @param {() => Promise<unknown>} act
     */
    const item = (label, act) => ({ label, act: () => void act().catch(this.complain) });
    /** @param {Parameters<Client['change']>[1]} action */
    const mark = (action, fields = {}) => client.change(conversation, action, fields);
    const hide = async () => {
      await mark('hide', { hideid: conversation.hideMarker });
      client.model.openId = null;
      client.model.changed('open');
    };
    const confirmClear = async () => {
      const warning = `All messages disappear for you and for ${conversation.name}. This can’t be undone.`;
      confirm('Clear messages', warning, () => mark('clear', { instance: conversation.wire.instance }).catch(this.complain));
    };
    const confirmRemove = async () => {
      const warning = `You and ${conversation.name} can no longer write to each other. The messages stay readable.`;
      confirm('Remove friend', warning, () => client.befriend({ action: 'remove', friendid: userid }).catch(this.complain));
    };
    return [
      conversation.muted ? item('Unmute', () => mark('unmute')) : item('Mute', () => mark('mute')),
      conversation.favourite ? item('Unfavourite', () => mark('unfavorite')) : item('Favourite', () => mark('favorite')),
      conversation.hidden ? item('Unhide', () => mark('unhide')) : item('Hide', hide),
      item('Colour', async () => this.chooseColour(conversation)),
      { ...item('Clear messages', confirmClear), danger: true },
      blocked ? item('Unblock', () => client.setBlocked('unblock', userid)) : { ...item('Block', () => client.setBlocked('block', userid)), danger: true },
      { ...item('Remove friend', confirmRemove), danger: true },
    ];
  }

  /** @param {Conversation} conversation */
  chooseColour(conversation) {
    const choices = COLOURS.map(([name, color]) => {
      const onchange = () => this.client.change(conversation, 'setlistitembackgroundcolor', { color }).catch(this.complain);
      const swatch = el('span', { class: 'swatch' });
      swatch.style.setProperty('--colour', color);
      const radio = el('input', { type: 'radio', name: 'colour', value: color, checked: conversation.colour === color, onchange });
      return el('label', { class: 'check' }, radio, swatch, name);
    });
    openDialog('Colour', el('fieldset', {}, el('legend', { class: 'quiet' }, `Colour of ${conversation.name}`), ...choices));
  }
}
