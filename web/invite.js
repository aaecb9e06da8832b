/**
 * The page of an invitation: a person chooses a nick and a password, and the browser makes the keys. The server gets the
 * public key and the encrypted private key, never the password.
 */

import { Refused, post } from './api.js';
import { el } from './dom.js';
import { FEWEST, generatePassword, makeKeys, objection } from './newkey.js';
import { BASE, explain, signIn } from './session.js';

/** @typedef {{ invitation: string, email: string, nick: string }} Invitation */
/** @typedef {{ nick: string, fullname: string, password: string }} Choice */

/** @param {...import('./dom.js').Child} children */
function show(...children) {
  const logo = el('img', { class: 'logo', src: 'icon.svg', alt: '' });
  const heading = /** @type {HTMLElement | undefined} */ (children.find((child) => child instanceof HTMLHeadingElement));
  document.body.replaceChildren(el('main', { class: 'invite' }, el('div', { class: 'card' }, logo, ...children)));
  heading?.setAttribute('tabindex', '-1');
  heading?.focus();
}

/**
 * @param {string} title
 * @param {...string} sentences
 */
function tell(title, ...sentences) {
  show(el('h1', {}, title), ...sentences.map((sentence) => el('p', { role: 'status' }, sentence)));
}

/**
 * @param {string} action
 * @param {Record<string, string>} fields
 */
function call(action, fields) {
  return post(BASE, 'chatregister', {}, JSON.stringify({ action, ...fields }));
}

/** Takes the token out of the link, the address bar and the history. */
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get('invite') ?? '';
  history.replaceState(null, '', location.pathname + location.search);
  return token;
}

/**
 * A secret with a button that copies it.
 * @param {string} name
 * @param {string} text
 */
function secret(name, text) {
  const code = el('code', {}, text);
  const copy = el('button', { type: 'button', 'aria-label': `Copy ${name}` }, 'Copy');
  copy.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(code.textContent ?? '');
      copy.textContent = 'Copied';
    } catch {
      // Without the permission, the text is selected to be copied by hand.
      getSelection()?.selectAllChildren(code);
    }
  });
  return { code, view: el('div', { class: 'secret' }, code, copy) };
}

/**
 * @param {string} id
 * @param {string} label
 * @param {Record<string, unknown>} props
 */
function field(id, label, props) {
  const input = el('input', { id, ...props });
  return { input, parts: [el('label', { htmlFor: id }, label), input] };
}

/**
 * @param {string} id
 * @param {string} label
 * @param {Record<string, unknown>} props
 */
function check(id, label, props) {
  const input = el('input', { id, type: 'checkbox', ...props });
  return { input, view: el('label', { class: 'check', htmlFor: id }, input, label) };
}

/** The choice of a password: a generated one, or one of at least 16 characters. */
function passwordChoice() {
  const generated = generatePassword();
  const radio = (/** @type {string} */ id, /** @type {string} */ label, /** @type {boolean} */ checked) => {
    const input = el('input', { id, type: 'radio', name: 'kind', checked, onchange: update });
    return { input, view: el('label', { class: 'check', htmlFor: id }, input, label) };
  };
  const given = radio('generated', 'Use this generated password', true);
  const own = radio('own', 'Choose a password', false);
  const shown = secret('password', generated);
  const first = field('password', 'Encryption password', { type: 'password', autocomplete: 'new-password' });
  const again = field('again', 'The same password again', { type: 'password', autocomplete: 'new-password' });
  const hint = el('p', { class: 'hint', id: 'rules' }, `At least ${FEWEST} characters. Several random words are better than one word with digits.`);
  first.input.setAttribute('aria-describedby', 'rules');
  const chosen = el('fieldset', {}, ...first.parts, ...again.parts, hint);
  function update() {
    shown.view.hidden = own.input.checked;
    chosen.hidden = !own.input.checked;
  }
  update();
  const view = el('fieldset', {}, el('legend', {}, 'Encryption password'), given.view, shown.view, own.view, chosen);
  return {
    view,
    /** @returns {{ password: string } | { problem: string, at: HTMLElement }} */
    read() {
      if (given.input.checked) return { password: generated };
      const password = first.input.value;
      const problem = objection(password);
      if (problem) return { problem, at: first.input };
      if (again.input.value !== password) return { problem: 'The two passwords differ.', at: again.input };
      return { password };
    },
  };
}

/** @param {Invitation} invitation */
function showForm(invitation) {
  const alert = el('p', { role: 'alert', class: 'alert' });
  const nick = field('nick', 'Nick, which others see', { value: invitation.nick, required: true, maxLength: 64, autocomplete: 'nickname' });
  const fullname = field('fullname', 'Full name (optional)', { maxLength: 256, autocomplete: 'name' });
  const choice = passwordChoice();
  const saved = check('saved', 'I have saved the password. Nobody can restore it.', { required: true });
  const button = el('button', { type: 'submit', class: 'primary' }, 'Create the account');
  const register = registration(invitation);

  /** @param {SubmitEvent} event */
  const submit = async (event) => {
    event.preventDefault();
    alert.textContent = '';
    const read = choice.read();
    if ('problem' in read) {
      alert.textContent = read.problem;
      read.at.focus();
      return;
    }
    button.disabled = true;
    button.textContent = 'Making the keys…';
    try {
      const { apikey } = await register({ nick: nick.input.value, fullname: fullname.input.value, password: read.password });
      showKeys(apikey, read.password);
    } catch (error) {
      if (isOver(error)) return showOver();
      alert.textContent = explain(error);
      // The account may exist by now: only the same keys get its answer again.
      choice.view.disabled = !(error instanceof Refused);
      if (error instanceof Refused && error.message.startsWith('nick')) nick.input.focus();
    } finally {
      button.disabled = false;
      button.textContent = 'Create the account';
    }
  };
  const about = 'The encryption password opens the key that decrypts your messages. It stays in this browser: the server never gets it, so keep it in a password manager.';
  const form = el('form', { onsubmit: submit }, ...nick.parts, ...fullname.parts, choice.view, el('p', { class: 'hint' }, about), saved.view, button, alert);
  show(el('h1', {}, 'Join the chat'), el('p', {}, 'You are invited as ', el('strong', {}, invitation.email), '.'), form);
}

/**
 * Registers. A second attempt with the same password sends the same keys, so that the server knows it again if the first
 * answer was lost.
 * @param {Invitation} invitation
 */
function registration({ invitation }) {
  /** @type {{ password: string, keys: { publickey: string, rsakey: string } } | undefined} */
  let made;
  return async (/** @type {Choice} */ { nick, fullname, password }) => {
    if (made?.password !== password) made = { password, keys: await makeKeys(password) };
    return call('register', { invitation, nick, fullname, ...made.keys });
  };
}

/** Whether the page shows an API key, which another link must not replace. */
let hasAccount = false;

/**
 * @param {string} apikey
 * @param {string} password
 */
function showKeys(apikey, password) {
  hasAccount = true;
  const alert = el('p', { role: 'alert', class: 'alert' });
  const shown = secret('API key', apikey);
  const saved = check('saved', 'I have saved the API key and the password.', { required: true });
  const stay = check('stay', 'Stay signed in on this device', {});
  const button = el('button', { type: 'submit', class: 'primary' }, 'Start chatting');
  /** @param {SubmitEvent} event */
  const submit = async (event) => {
    event.preventDefault();
    alert.textContent = '';
    button.disabled = true;
    try {
      await signIn(apikey, password, stay.input.checked);
      location.replace('./');
    } catch (error) {
      alert.textContent = explain(error);
      button.disabled = false;
    }
  };
  const about = 'This is your API key. On another device, or after signing out, you sign in with it and your encryption password. It is not shown again.';
  const form = el('form', { onsubmit: submit }, shown.view, saved.view, stay.view, button, alert);
  show(el('h1', {}, 'Your account is ready'), el('p', {}, about), form);
}

/** @param {unknown} error */
function isOver(error) {
  return error instanceof Refused && error.code === 'invalid_invitation';
}

function showOver() {
  tell('This invitation can’t be used', 'It was used already, has expired, was revoked, or the link is not complete.', 'Ask whoever invited you for a new link.');
}

/** @param {string} invitation */
async function start(invitation) {
  if (!isSecureContext) {
    tell('This address is not secure', `This page came over plain http from ${location.host}. Open the link with https: browsers make keys only there, or on localhost.`);
    return;
  }
  if (!invitation) return showOver();
  tell('Join the chat', 'Looking at the invitation…');
  try {
    const { email, nick } = await call('invitation', { invitation });
    showForm({ invitation, email, nick });
  } catch (error) {
    if (isOver(error)) return showOver();
    const again = el('button', { type: 'button', class: 'primary', onclick: () => start(invitation) }, 'Try again');
    show(el('h1', {}, 'Join the chat'), el('p', { role: 'alert', class: 'alert' }, explain(error)), again);
  }
}

// First of all, so that no error leaves the token in the address bar.
start(takeToken());
addEventListener('hashchange', () => location.hash && !hasAccount && start(takeToken()));
