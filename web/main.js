/** Starts the page: the session of this tab, a link with credentials, or the sign-in form. */

import { appView } from './app.js';
import { Client } from './client.js';
import { el } from './dom.js';
import { Kept } from './kept.js';
import { wipeClosedTabs } from './keystore.js';
import { claimTab, explain, resume, signIn, signOut, takeLink } from './session.js';
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
async function enter(account, signedIn) {
  const kept = new Kept(account.userid, await claimTab());
  const current = new Client(account, kept, (reason) => leave(reason));
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
 * @param {string} reason why it ended; empty where the user signed out, here or in another tab
 */
async function leave(reason) {
  const left = client;
  client = null;
  if (!left) return;
  left.stop();
  history.replaceState(null, '');
  await signOut(left.account, reason !== '');
  showSignIn(reason);
}

async function start() {
  // First of all, so that no error leaves the credentials in the address bar.
  const link = takeLink();
  if (!isSecureContext) return showSignIn('');
  wipeClosedTabs().catch((error) => console.warn('keys of closed tabs are still there', error));
  if (link) {
    client?.stop();
    client = null;
    show(el('main', { class: 'signin' }, el('p', { role: 'status' }, 'Signing in…')));
    try {
      await enter(await signIn(link.apikey, link.password, false), true);
    } catch (error) {
      showSignIn(explain(error));
    }
    return;
  }
  const account = await resume();
  const signedIn = sessionStorage.getItem(ARRIVING) !== null;
  sessionStorage.removeItem(ARRIVING);
  if (account) await enter(account, signedIn);
  else showSignIn('');
}

/** @param {unknown} error */
function failed(error) {
  console.error(error);
  showSignIn(`This browser does not let the page store keys: ${explain(error)}`);
}

addEventListener('hashchange', () => location.hash && start().catch(failed));
start().catch(failed);
