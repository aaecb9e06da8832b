// The admin page in a browser without JavaScript. axe, which needs it, looks from a second context.

import assert from 'node:assert/strict';

import { freePort, openConversation, write } from './stage.mjs';
import { aliceAndBob, check, story } from './story.mjs';

/** @typedef {import('playwright-core').Page} Page */
/** @typedef {import('./stage.mjs').Stage} Stage */

/** @param {Stage} stage */
async function withAdminPage(stage) {
  aliceAndBob(stage);
  stage.env.CHATSERVER_ADMIN__LISTEN = `127.0.0.1:${await freePort()}`;
  stage.env.SUDO_USER = 'dora';
}

/**
 * Enters with a new link.
 * @param {Stage} stage
 * @param {import('playwright-core').BrowserContextOptions} [options]
 */
async function enter(stage, options) {
  const { link } = JSON.parse(stage.command('admin', 'link', '--json'));
  const page = await (await stage.newContext({ javaScriptEnabled: false, ...options })).newPage();
  stage.listen(page, 'operator');
  await page.goto(link);
  await page.getByRole('button', { name: 'Enter' }).click();
  await page.getByRole('heading', { name: 'Health' }).waitFor();
  return page;
}

/**
 * @param {Page} page
 * @param {string} name
 */
async function go(page, name) {
  await page.getByRole('navigation').getByRole('link', { name }).click();
  await page.getByRole('heading', { name, level: 1 }).waitFor();
}

story('an operator without JavaScript looks after users', async (stage) => {
  const operator = await enter(stage);
  await operator.getByText('The server is ready.').waitFor();
  assert.equal(new URL(operator.url()).search, '', 'the token is in no address that stays');

  await go(operator, 'Users');
  await operator.getByLabel('Address, nick or name').fill('bob');
  await operator.getByRole('button', { name: 'Search' }).click();
  await operator.getByRole('link', { name: 'bob@example.com' }).click();
  await operator.getByRole('heading', { name: 'bob@example.com' }).waitFor();
}, withAdminPage);

for (const colorScheme of /** @type {const} */ (['light', 'dark'])) {
  story(`axe finds nothing on the admin page in the ${colorScheme} theme`, async (stage) => {
    const alice = await stage.page('Alice');
    await openConversation(alice, 'Bob');
    await write(alice, 'hello');
    const operator = await enter(stage, { colorScheme });
    const looking = await stage.newContext({ colorScheme });
    await looking.addCookies(await operator.context().cookies());
    const page = await looking.newPage();
    const { origin } = new URL(operator.url());
    for (const path of ['/', '/users', '/users?search=nobody', '/users/alice@example.com', '/audit', '/nowhere']) {
      await page.goto(origin + path);
      await check(page, path);
      const name = path.replace(/\W+/g, '-').replace(/-$/, '') || '-health';
      for (const [size, width] of /** @type {const} */ ([['', 1100], ['-phone', 380]])) {
        await page.setViewportSize({ width, height: 800 });
        await stage.shot(page, `admin${name}-${colorScheme}${size}`);
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(overflow <= 0, `${path} is ${overflow} px wider than the window`);
      }
    }
  }, withAdminPage);
}
