/**
 * Caches the shell, so that the chat opens offline. The page comes from the network where that answers in time, so a new
 * release is shown at once; scripts and styles have names that change with their content, so the cache answers first.
 * Calls are POST and never pass through here.
 */

const CACHE = 'shell';
const worker = /** @type {any} */ (self);
const INDEX = new URL('./', worker.location.href).href;
const EXTRAS = ['install.html', 'install.js'].map((name) => new URL(name, INDEX).href);
/** Scripts and styles below the hash of a release. */
const HASHED = new RegExp(`^${INDEX}[0-9a-f]{16}/`);
/** Time that the network has before the cached page is shown, in ms. */
const PATIENCE = 4000;

worker.addEventListener('install', (/** @type {any} */ event) => {
  const page = fetch(INDEX, { cache: 'no-cache' });
  event.waitUntil(page.then(renew).then(() => worker.skipWaiting()));
});

worker.addEventListener('activate', (/** @type {any} */ event) => {
  event.waitUntil(worker.clients.claim());
});

worker.addEventListener('fetch', (/** @type {any} */ event) => {
  const { request } = event;
  if (request.method === 'GET' && request.url.startsWith(INDEX)) event.respondWith(answer(event));
});

// A click on a notification of the page leads to its conversation.
worker.addEventListener('notificationclick', (/** @type {any} */ event) => {
  event.notification.close();
  event.waitUntil(show(event.notification.data));
});

/** @param {{ open: string }} wanted */
async function show(wanted) {
  const [page] = await worker.clients.matchAll({ type: 'window' });
  if (!page) return worker.clients.openWindow(INDEX);
  page.postMessage(wanted);
  return page.focus();
}

/**
 * Takes over a release: the page, and what its `href` and `src` name. What it no longer names is removed.
 * @param {Response} page
 */
async function renew(page) {
  const cache = await caches.open(CACHE);
  const html = await page.clone().text();
  const names = [...html.matchAll(/(?:href|src)="([^"]+)"/g)].map((found) => new URL(found[1], INDEX).href);
  const wanted = new Set([...names, ...EXTRAS]);
  const before = (await cache.keys()).map((request) => request.url);
  // The page last: it is never cached without its scripts.
  await cache.addAll([...wanted].filter((url) => !HASHED.test(url) || !before.includes(url)));
  await cache.put(INDEX, page);
  await Promise.all(before.filter((url) => url !== INDEX && !wanted.has(url)).map((url) => cache.delete(url)));
}

/** @param {any} event of a request */
async function answer(event) {
  const { request } = event;
  // A fragment may hold credentials. It goes no further.
  const url = request.url.replace(/[?#].*/, '');
  const cache = await caches.open(CACHE);
  const cached = await cache.match(url);
  if (cached && HASHED.test(url)) return cached;
  const fetched = fetch(request).then((response) => {
    if (response.ok && url === INDEX) event.waitUntil(renew(response.clone()));
    return response;
  });
  if (!cached) return fetched;
  const late = new Promise((resolve) => setTimeout(() => resolve(cached), PATIENCE));
  // A proxy's 502 stands for a server that is away.
  const response = fetched.then((given) => (given.status >= 500 ? cached : given));
  return Promise.race([response.catch(() => cached), late]);
}
