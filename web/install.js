/**
 * Registers the service worker, then goes to the chat. A page of its own: `register` takes a TrustedScriptURL, which
 * the chat's `trusted-types 'none'` never makes, so only this page, which handles no message, goes without that rule.
 */

try {
  await navigator.serviceWorker.register('sw.js');
} catch (error) {
  console.warn('the chat works, but not offline', error);
}
location.replace('./');

export {};
