/** Starts the page: the session of this tab, a link with credentials, or the sign-in form. */

import { appView } from './app.js';
import { Client } from './client.js';
import { el } from './dom.js';
import { wipeClosedTabs } from './keystore.js';
import { explain, resume, signIn, signOut, takeLink } from './session.js';
import { signInView } from './signin.js';

/** Marks the way from signing in over the page that registers the service worker. */
const ARRIVING = 'arriving';

/** @type {Client | null} */
let client = null;

/** @param {HTMLElement} view */
function show(view) {
  document.body.replaceChildren(view);
}

/** @param {string} notice */
function showSignIn(notice) {
  document.title = 'Chat';
  show(
    signInView(notice, (account, stay) => {
      if (stay && navigator.serviceWorker && !navigator.serviceWorker.controller) {
        // The page that registers the service worker; it comes back here. See install.js.
        sessionStorage.setItem(ARRIVING, 'yes');
        location.assign('install.html');
      } else {
        enter(account, true);
      }
    }),
  );
  /** @type {HTMLElement | null} */ (document.querySelector('input'))?.focus();
}

/**
 * @param {import('./keystore.js').Account} account
 * @param {boolean} signedIn
 */
function enter(account, signedIn) {
  const current = new Client(account, (reason) => leave(reason));
  client = current;
  show(
    appView(current, () => {
      current.tabs.say({ kind: 'signed-out' });
      leave('');
    }),
  );
  current.start(signedIn);
}

/**
 * Ends the session: wipes its keys, and shows the sign-in form.
 * @param {string} reason
 */
async function leave(reason) {
  const left = client;
  client = null;
  if (!left) return;
  left.stop();
  await signOut(left.account);
  showSignIn(reason);
}

async function start() {
  if (!isSecureContext) return showSignIn('');
  wipeClosedTabs().catch((error) => console.warn('keys of closed tabs are still there', error));
  const link = takeLink();
  if (link) {
    client?.stop();
    client = null;
    show(el('main', { class: 'signin' }, el('p', { role: 'status' }, 'Signing in…')));
    try {
      enter(await signIn(link.apikey, link.password, false), true);
    } catch (error) {
      showSignIn(explain(error));
    }
    return;
  }
  const account = await resume();
  const signedIn = sessionStorage.getItem(ARRIVING) !== null;
  sessionStorage.removeItem(ARRIVING);
  if (account) enter(account, signedIn);
  else showSignIn('');
}

addEventListener('hashchange', () => location.hash && start());
start();
