/** Dialogs about people: add a friend, answer requests, the block list. */

import { el, openDialog } from './dom.js';
import { explain } from './session.js';

/** @typedef {import('./client.js').Client} Client */

/** @param {Client} client */
export function addFriend(client) {
  const field = el('input', { id: 'friend', required: true, autocomplete: 'off', spellcheck: false, maxLength: 254 });
  const status = el('p', { role: 'status' });
  const alert = el('p', { role: 'alert', class: 'alert' });
  const button = el('button', { type: 'submit', class: 'primary' }, 'Send request');
  /** @param {SubmitEvent} event */
  const onsubmit = async (event) => {
    event.preventDefault();
    const friend = field.value.trim();
    button.disabled = true;
    alert.textContent = '';
    status.textContent = '';
    try {
      await client.befriend({ action: 'add', friend });
      field.value = '';
      status.textContent = `Request sent to ${friend}. The conversation appears when they accept.`;
    } catch (error) {
      alert.textContent = explain(error);
    } finally {
      button.disabled = false;
      field.focus();
    }
  };
  const form = el('form', { onsubmit }, el('label', { htmlFor: 'friend' }, 'E-mail address or user ID'), field, button, status, alert);
  openDialog('Add friend', form);
}

/** @param {Client} client */
export function friendRequests(client) {
  const { model } = client;
  const content = el('div', {});
  const alert = el('p', { role: 'alert', class: 'alert' });
  /**
   * @param {string} name
   * @param {string} friendid
   * @param {[string, string][]} actions
   */
  const person = (name, friendid, actions) => {
    const buttons = actions.map(([label, action]) => {
      const onclick = () => client.befriend({ action, friendid }).catch((error) => (alert.textContent = explain(error)));
      return el('button', { type: 'button', class: action === 'accept' ? 'primary' : '', onclick, title: `${label}: ${name}` }, label);
    });
    return el('li', { class: 'person' }, el('span', { class: 'name', dir: 'auto' }, name), ...buttons);
  };
  const draw = () => {
    const incoming = model.incoming.map(({ userid, nick }) => person(nick || userid, userid, [['Accept', 'accept'], ['Decline', 'decline']]));
    const outgoing = model.outgoing.map(({ userid }) => person(userid, userid, [['Withdraw', 'remove']]));
    content.replaceChildren(
      incoming.length > 0 ? el('ul', { class: 'people' }, ...incoming) : el('p', { class: 'quiet' }, 'No requests to you.'),
      ...(outgoing.length > 0 ? [el('h3', {}, 'Sent by you'), el('ul', { class: 'people' }, ...outgoing)] : []),
    );
  };
  liveDialog(client, 'Friend requests', draw, content, alert);
}

/** @param {Client} client */
export function blockList(client) {
  const { model } = client;
  const content = el('div', {});
  const alert = el('p', { role: 'alert', class: 'alert' });
  const draw = () => {
    const names = new Map([...model.conversations.values()].map((each) => [each.other.userid, each.name]));
    const people = [...model.blocked].map((userid) => {
      const onclick = () => client.setBlocked('unblock', userid).catch((error) => (alert.textContent = explain(error)));
      const name = names.get(userid) ?? userid;
      return el('li', { class: 'person' }, el('span', { class: 'name', dir: 'auto' }, name), el('button', { type: 'button', onclick }, 'Unblock'));
    });
    content.replaceChildren(people.length > 0 ? el('ul', { class: 'people' }, ...people) : el('p', { class: 'quiet' }, 'Your block list is empty.'));
  };
  liveDialog(client, 'Block list', draw, content, alert);
}

/**
 * A dialog that follows the model while it is open.
 * @param {Client} client
 * @param {string} title
 * @param {() => void} draw
 * @param {...HTMLElement} content
 */
function liveDialog(client, title, draw, ...content) {
  draw();
  const view = (/** @type {Set<import('./model.js').Topic>} */ topics) => topics.has('friends') && draw();
  client.model.views.add(view);
  openDialog(title, ...content).addEventListener('close', () => client.model.views.delete(view));
}
