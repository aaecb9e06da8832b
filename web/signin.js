/** The page before signing in. */

import { el } from './dom.js';
import { explain, signIn } from './session.js';

/** @typedef {import('./keystore.js').Account} Account */

/**
 * @param {string} notice why the last session ended
 * @param {(account: Account, stay: boolean) => void} done
 */
export function signInView(notice, done) {
  if (!isSecureContext) return insecureView();
  const alert = el('p', { role: 'alert', class: 'alert' }, notice);
  const apikey = el('input', { id: 'apikey', type: 'password', required: true, autocomplete: 'off', spellcheck: false });
  const password = el('input', { id: 'password', type: 'password', required: true, autocomplete: 'current-password' });
  const stay = el('input', { id: 'stay', type: 'checkbox' });
  const button = el('button', { type: 'submit', class: 'primary' }, 'Sign in');

  /** @param {SubmitEvent} event */
  const submit = async (event) => {
    event.preventDefault();
    alert.textContent = '';
    button.disabled = true;
    try {
      const account = await signIn(apikey.value.trim(), password.value, stay.checked);
      done(account, stay.checked);
    } catch (error) {
      alert.textContent = explain(error);
      (alert.textContent.includes('password') ? password : apikey).focus();
    } finally {
      button.disabled = false;
    }
  };
  const form = el(
    'form',
    { onsubmit: submit },
    el('label', { htmlFor: 'apikey' }, 'API key'),
    apikey,
    el('label', { htmlFor: 'password' }, 'Encryption password'),
    password,
    el('label', { class: 'check', htmlFor: 'stay' }, stay, 'Stay signed in on this device'),
    button,
    alert,
  );
  const about = 'Your operator gave you an API key and an encryption password. The password stays in this browser: it opens the key that decrypts your messages.';
  const logo = el('img', { class: 'logo', src: 'icon.svg', alt: '' });
  return el('main', { class: 'signin' }, el('div', { class: 'card' }, logo, el('h1', {}, 'Sign in to chat'), el('p', { class: 'quiet' }, about), form));
}

function insecureView() {
  return el(
    'main',
    { class: 'signin' },
    el(
      'div',
      { class: 'card', role: 'alert' },
      el('h1', {}, 'This address is not secure'),
      el('p', {}, `This page came over plain http from ${location.host}. Browsers offer encryption only over https, or from localhost.`),
      el('p', {}, 'Open the https address of this server. Its operator puts a proxy with TLS in front of it, see docs/install.md. On the server itself, http://127.0.0.1 works, too.'),
    ),
  );
}
