/**
 * The title with the unread total, and the notifications of the system. Where a service worker is there, it shows them:
 * phones allow no others.
 */

import { UNREADABLE } from './text.js';

/** @typedef {import('./client.js').Client} Client */
/** @typedef {import('./model.js').Conversation} Conversation */

const CHOICE = 'notifications';
/** Time in which a message may be viewed in another tab or on another device, so that nothing is shown, in ms. */
const GRACE = 1000;

export class Notifier {
  /**
   * @param {Client} client
   * @param {(id: string) => void} open
   */
  constructor(client, open) {
    this.client = client;
    this.open = open;
    client.sync.arrived = (conversation) => void setTimeout(() => this.arrived(conversation), GRACE);
    navigator.serviceWorker?.addEventListener('message', ({ data }) => this.show(data.open), { signal: client.page.signal });
  }

  get on() {
    return 'Notification' in window && Notification.permission === 'granted' && localStorage.getItem(CHOICE) === 'on';
  }

  async toggle() {
    if (this.on) {
      localStorage.setItem(CHOICE, 'off');
    } else if (!('Notification' in window)) {
      throw new Error('This browser has no notifications for this page.');
    } else if ((await Notification.requestPermission()) !== 'granted') {
      throw new Error('This browser blocks notifications from this page. Allow them in its site settings.');
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

  /**
   * Opens the conversation of a notification.
   * @param {string} id
   */
  show(id) {
    window.focus();
    if (this.client.model.conversations.has(id)) this.open(id);
  }

  /** @param {Conversation} conversation */
  async arrived(conversation) {
    const { last, id, name } = conversation;
    const looking = document.visibilityState === 'visible' && document.hasFocus() && this.client.model.openId === id;
    if (!this.on || !this.client.tabs.leads || conversation.muted || looking || conversation.unread === 0 || !last || last.own) return;
    const options = { body: last.text ?? UNREADABLE, tag: id, icon: 'icon.svg', data: { open: id } };
    try {
      const worker = await navigator.serviceWorker?.getRegistration();
      if (worker?.active) return await worker.showNotification(name, options);
      const shown = new Notification(name, options);
      shown.onclick = () => {
        this.show(id);
        shown.close();
      };
    } catch (error) {
      console.warn('a notification could not be shown', error);
    }
  }
}
