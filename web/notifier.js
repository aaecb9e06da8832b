/** The title with the unread total, and the notifications of the system. */

import { UNREADABLE } from './text.js';

/** @typedef {import('./client.js').Client} Client */
/** @typedef {import('./model.js').Conversation} Conversation */

const CHOICE = 'notifications';

export class Notifier {
  /**
   * @param {Client} client
   * @param {(id: string) => void} open
   */
  constructor(client, open) {
    this.client = client;
    this.open = open;
    client.sync.arrived = (conversation) => this.arrived(conversation);
  }

  get on() {
    return 'Notification' in window && Notification.permission === 'granted' && localStorage.getItem(CHOICE) === 'on';
  }

  async toggle() {
    if (this.on) {
      localStorage.setItem(CHOICE, 'off');
    } else if (!('Notification' in window) || (await Notification.requestPermission()) !== 'granted') {
      throw new Error('this browser does not allow notifications here; its settings for this page can change that');
    } else {
      localStorage.setItem(CHOICE, 'on');
    }
  }

  updateTitle() {
    const { model } = this.client;
    const total = model.totalUnread();
    const title = `${total > 0 ? `(${total >= 100 ? '99+' : total}) ` : ''}${model.open ? `${model.open.name} – ` : ''}Chat`;
    if (document.title !== title) document.title = title;
  }

  /** @param {Conversation} conversation */
  arrived(conversation) {
    const { last } = conversation;
    const looking = document.visibilityState === 'visible' && document.hasFocus() && this.client.model.openId === conversation.id;
    if (!this.on || !this.client.tabs.leads || conversation.muted || looking || !last || last.own) return;
    try {
      const shown = new Notification(conversation.name, { body: last.text ?? UNREADABLE, tag: conversation.id, icon: 'icon.svg' });
      shown.onclick = () => {
        window.focus();
        this.open(conversation.id);
        shown.close();
      };
    } catch (error) {
      // Some phones allow notifications only from a service worker.
      console.warn('a notification could not be shown', error);
    }
  }
}
