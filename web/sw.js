/**
 * Caches the shell, so that the chat opens offline. The network comes first: what is cached is shown only without it.
 * Calls are POST and never pass through here.
 */

const CACHE = 'shell';
const worker = /** @type {any} */ (self);
const INDEX = new URL('./', worker.location.href).href;

worker.addEventListener('install', (/** @type {any} */ event) => {
  event.waitUntil(cacheShell().then(() => worker.skipWaiting()));
});

worker.addEventListener('activate', (/** @type {any} */ event) => {
  event.waitUntil(worker.clients.claim());
});

worker.addEventListener('fetch', (/** @type {any} */ event) => {
  const { request } = event;
  if (request.method === 'GET' && request.url.startsWith(INDEX)) event.respondWith(answer(request));
});

/** Caches the page and what its `href` and `src` name. */
async function cacheShell() {
  const cache = await caches.open(CACHE);
  const page = await fetch(INDEX, { cache: 'no-cache' });
  const html = await page.clone().text();
  const names = [...html.matchAll(/(?:href|src)="([^"]+)"/g)].map((found) => new URL(found[1], INDEX).href);
  await Promise.all([cache.put(INDEX, page), cache.addAll([...new Set(names), new URL('install.html', INDEX).href, new URL('install.js', INDEX).href])]);
}

/** @param {Request} request */
async function answer(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const cached = await cache.match(request, { ignoreSearch: true });
    if (cached) return cached;
    throw error;
  }
}
