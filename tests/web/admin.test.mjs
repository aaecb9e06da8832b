// The admin page in a browser without JavaScript. axe, which needs it, looks from a second context.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

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
  const alice = await stage.page('Alice');
  await openConversation(alice, 'Bob');
  await write(alice, 'hello');
  const operator = await enter(stage);
  await operator.getByText('The server is ready.').waitFor();
  assert.equal(new URL(operator.url()).search, '', 'the token is in no address that stays');

  await go(operator, 'Users');
  await operator.getByLabel('Address, nick or name').fill('bob');
  await operator.getByRole('button', { name: 'Search' }).click();
  await operator.getByRole('link', { name: 'bob@example.com' }).click();
  await operator.getByRole('heading', { name: 'bob@example.com' }).waitFor();
  await operator.getByRole('button', { name: 'Disable' }).click();
  await operator.getByRole('status').getByText('bob@example.com is disabled.').waitFor();
  await operator.getByRole('button', { name: 'Enable' }).click();
  await operator.getByRole('status').getByText('bob@example.com is enabled.').waitFor();

  const download = operator.waitForEvent('download');
  await operator.getByRole('button', { name: 'Export' }).click();
  const exported = JSON.parse(readFileSync(await (await download).path(), 'utf8'));
  assert.equal(exported.user.email, 'bob@example.com');
  assert.equal(exported.conversations[0].messages.length, 1);

  await operator.getByRole('link', { name: 'Delete' }).click();
  await operator.getByLabel('E-mail address of the user').fill('alice@example.com');
  await operator.getByRole('button', { name: 'Delete for good' }).click();
  await operator.getByRole('alert').getByText('Nothing was deleted').waitFor();
  assert.equal(await operator.getByLabel('E-mail address of the user').inputValue(), 'alice@example.com');
  await operator.getByLabel('E-mail address of the user').fill('bob@example.com');
  await operator.getByRole('button', { name: 'Delete for good' }).click();
  await operator.getByRole('status').getByText('bob@example.com is deleted.').waitFor();
  await alice.getByText('Deleted user').first().waitFor();

  await operator.getByRole('link', { name: 'alice@example.com' }).click();
  await operator.getByRole('button', { name: /^Revoke station/ }).click();
  await operator.getByRole('status').waitFor();

  await go(operator, 'Usage');
  await operator.getByRole('table', { name: /^Users/ }).getByRole('link', { name: 'alice@example.com' }).waitFor();
  await operator.getByRole('table', { name: /^Conversations/ }).getByRole('link').first().click();
  await operator.getByLabel('for this many days').check();
  await operator.getByLabel('Days', { exact: true }).fill('30');
  await operator.getByRole('button', { name: 'Set the rule' }).click();
  await operator.getByRole('status').waitFor();
  await operator.getByRole('button', { name: 'Count what is due' }).click();
  await operator.getByRole('heading', { name: 'Dry run of retention' }).waitFor();

  await go(operator, 'Audit');
  const rows = operator.getByRole('row', { name: /admin page, dora/ });
  for (const action of ['user disabled', 'user enabled', 'user deleted', 'station revoked', 'retention set']) await rows.filter({ hasText: action }).first().waitFor();

  await operator.getByRole('button', { name: 'Leave' }).click();
  await operator.goto(new URL('/users', operator.url()).href);
  await operator.getByRole('heading', { name: 'No entry' }).waitFor();
}, withAdminPage);

story('a person registers with the link that the admin page shows', async (stage) => {
  stage.port = await freePort();
  stage.env.CHATSERVER_HTTP__PUBLIC_URL = `http://127.0.0.1:${stage.port}/`;
  await stage.killServer();
  await stage.open();
  const operator = await enter(stage);
  await go(operator, 'Users');
  await operator.getByRole('link', { name: 'Invite' }).click();
  await operator.getByLabel('E-mail address').fill('carol');
  await operator.getByRole('button', { name: 'Invite' }).click();
  await operator.getByRole('alert').waitFor();
  assert.equal(await operator.getByLabel('E-mail address').inputValue(), 'carol');
  await operator.getByLabel('E-mail address').fill('carol@example.com');
  await operator.getByLabel('Nick').fill('Carol');
  await operator.getByRole('button', { name: 'Invite' }).click();
  const link = /http\S+#invite=[0-9a-f]+/.exec((await operator.getByRole('main').textContent()) ?? '')?.[0] ?? '';
  const guest = await (await stage.newContext()).newPage();
  await guest.goto(link);
  await guest.getByText('carol@example.com').waitFor();
  await guest.getByLabel(/I have saved/).check();
  await guest.getByRole('button', { name: 'Create the account' }).click();
  await guest.getByRole('heading', { name: 'Your account is ready' }).waitFor();
  await go(operator, 'Users');
  await operator.getByRole('link', { name: 'carol@example.com' }).waitFor();
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
    for (const path of ['/', '/users', '/users?search=nobody', '/users/alice@example.com', '/users/alice@example.com/delete', '/invitations', '/usage', '/retention', '/audit', '/nowhere']) {
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
