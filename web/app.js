/** The page of a signed-in user: the list at the left, the open conversation at the right; one of them on a phone. */

import { Avatar } from './avatar.js';
import { ConversationView } from './conversation.js';
import { confirm, el, icon, iconButton, setText } from './dom.js';
import { ConversationList } from './list.js';
import { Notifier } from './notifier.js';
import { addFriend, blockList, friendRequests } from './people.js';
import { explain } from './session.js';
import { availabilityText } from './text.js';

/** @typedef {import('./client.js').Client} Client */
/** @typedef {import('./model.js').Availability} Availability */

const CHOICES = /** @type {const} */ (['available', 'away', 'busy', 'offline']);
const WIDE = matchMedia('(min-width: 700px)');
/** Time for which a complaint is shown, in ms. */
const SHOWN = 8000;
const MINUTE = 60000;

/**
 * @param {Client} client
 * @param {() => void} signOut
 */
export function appView(client, signOut) {
  const { model } = client;
  const toast = el('div', { class: 'toast', role: 'alert' });
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let toastTimer;
  /** @param {unknown} error */
  const complain = (error) => {
    console.warn(error);
    toast.textContent = explain(error);
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => (toast.textContent = ''), SHOWN);
  };

  /**
   * @param {string | null} id
   * @param {string} [messageid]
   */
  const open = (id, messageid) => {
    model.openId = id;
    draw(new Set(['open']));
    if (id === null) return;
    if (messageid) view.log.reveal(messageid);
    (WIDE.matches ? view.field : view.log.scroller).focus();
    // In one column, the Back button of a phone leads to the list. In two, a reload opens the conversation again.
    if (WIDE.matches) history.replaceState({ reopen: id }, '');
    else if (!history.state?.open) history.pushState({ open: true }, '');
    if (!model.open?.loaded) client.sync.catchUp(id).catch(complain);
  };
  const close = () => {
    const left = model.openId;
    open(null);
    if (left) list.rows.get(left)?.button.focus();
  };
  const back = () => (history.state?.open ? history.back() : close());
  /** @type {string | undefined} */
  let reopen = history.state?.reopen;
  history.replaceState(null, '');
  addEventListener('popstate', () => model.open && !history.state?.open && close(), { signal: client.page.signal });
  const view = new ConversationView(client, { back, complain });
  const list = new ConversationList(client, open);
  const notifier = new Notifier(client, open);

  const banner = el('div', { class: 'banner', role: 'status' });
  const avatar = new Avatar();
  const name = el('span', { class: 'my-name', dir: 'auto' }, model.account.nick);
  const availability = el('select', { 'aria-label': 'Availability', onchange: () => choose() }, ...CHOICES.map((value) => el('option', { value }, availabilityText(value))));
  const choose = () => client.setAvailability(/** @type {Availability} */ (availability.value)).catch(complain);
  const requests = iconButton('requests', 'Friend requests', () => friendRequests(client));
  const count = el('span', { class: 'badge count', 'aria-hidden': 'true', hidden: true });
  requests.append(count);
  const bell = iconButton('bell', 'Notifications', () => notifier.toggle().then(drawBell, complain));
  const drawBell = () => bell.setAttribute('aria-pressed', String(notifier.on));
  drawBell();
  const leave = async () => {
    const unsaved = await client.unsaved();
    if (unsaved === '') signOut();
    else confirm('Sign out', `Signing out deletes ${unsaved}.`, signOut);
  };
  const toolbar = el(
    'div',
    { class: 'toolbar' },
    iconButton('add', 'Add friend', () => addFriend(client)),
    requests,
    iconButton('blocked', 'Block list', () => blockList(client)),
    bell,
    iconButton('leave', 'Sign out', leave),
  );
  const sidebar = el(
    'nav',
    { class: 'sidebar', 'aria-label': 'Chats' },
    el('div', { class: 'me' }, avatar.element, name, availability),
    toolbar,
    el('div', { class: 'search' }, icon('search'), list.search),
    list.element,
  );
  const root = el('main', { class: 'app' }, el('h1', { class: 'for-readers' }, 'Chat'), banner, sidebar, view.element, toast);

  /** @param {Set<import('./model.js').Topic>} topics */
  const draw = (topics) => {
    root.classList.toggle('is-open', model.open !== undefined);
    list.update();
    if (topics.has('drafts')) view.showDraft();
    if (topics.has('open') || topics.has('friends') || topics.has('list') || topics.has(`messages:${model.openId}`)) view.update();
    if (topics.has('friends')) drawAvailability();
    count.hidden = model.incoming.length === 0;
    setText(count, String(model.incoming.length));
    drawBanner();
    notifier.updateTitle();
    if (!model.ready || reopen === undefined) return;
    const before = reopen;
    reopen = undefined;
    if (model.openId === null && model.conversations.has(before)) open(before);
  };
  const drawBanner = () => {
    const texts = { connecting: '', online: '', offline: 'Offline. Messages are sent when the connection is back.', elsewhere: 'Another window has taken over this connection.' };
    const drawn = `${model.status} ${model.outdated}`;
    if (banner.dataset.drawn === drawn) return;
    banner.dataset.drawn = drawn;
    drawAvailability();
    banner.replaceChildren(texts[model.status]);
    if (model.status === 'online' && model.outdated) {
      banner.append('A newer version of this page is ready.', el('button', { type: 'button', onclick: () => location.reload() }, 'Reload'));
    }
    if (model.status === 'elsewhere' && client.tabs.leads) banner.append(el('button', { type: 'button', onclick: () => client.listenHere() }, 'Use this one'));
  };
  const drawAvailability = () => {
    availability.value = client.availability;
    avatar.update(model.me, model.account.nick, model.status === 'online' ? client.availability : 'offline');
  };
  model.views.add(draw);
  // At midnight, "Today" is another day.
  const clock = setInterval(() => draw(new Set(['open'])), MINUTE);
  client.page.signal.addEventListener('abort', () => clearInterval(clock));
  drawAvailability();

  addEventListener(
    'keydown',
    (event) => {
      if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === 'k') {
        event.preventDefault();
        if (!WIDE.matches) open(null);
        list.search.focus();
        list.search.select();
      } else if (event.key === 'Escape' && !event.defaultPrevented && model.open && !document.querySelector('dialog')) {
        const row = list.rows.get(model.open.id);
        if (WIDE.matches) row?.button.focus();
        else back();
      }
    },
    { signal: client.page.signal },
  );
  draw(new Set(['open']));
  return root;
}
