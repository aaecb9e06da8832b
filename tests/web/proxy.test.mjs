// Over https behind nginx, with the block that packaging/nginx.conf gives and a certificate of our own.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { freePort, launch, log, openConversation, until, write } from './stage.mjs';
import { story } from './story.mjs';

const HOST = 'chat.example.com';
const BLOCK = fileURLToPath(new URL('../../packaging/nginx.conf', import.meta.url));

/**
 * Writes a certificate and the configuration of an nginx that serves the stage.
 * @param {string} folder
 * @param {number} port of https
 * @param {number} target port of the server
 */
function configure(folder, port, target) {
  const certificate = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '1', '-subj', `/CN=${HOST}`, '-addext', `subjectAltName=DNS:${HOST}`];
  execFileSync('openssl', [...certificate, '-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')], { stdio: 'ignore' });
  const block = readFileSync(BLOCK, 'utf8')
    .replace('listen 443 ssl', `listen 127.0.0.1:${port} ssl`)
    .replace(/^.*listen \[::\].*$/m, '')
    .replace(/ssl_certificate_key .*/, `ssl_certificate_key ${folder}/key.pem;`)
    .replace(/ssl_certificate  .*/, `ssl_certificate ${folder}/cert.pem;`)
    .replaceAll('http://127.0.0.1:8080', `http://127.0.0.1:${target}`);
  const folders = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${folder}/${name};`);
  const { username } = userInfo();
  const group = execFileSync('id', ['-gn'], { encoding: 'utf8' }).trim();
  writeFileSync(
    join(folder, 'nginx.conf'),
    `daemon off; user ${username} ${group}; pid ${folder}/nginx.pid; error_log ${folder}/nginx.log; events {}
     http { access_log off; ${folders.join(' ')} ${block} }`,
  );
}

story(
  'behind nginx, over https and wss, two people chat',
  async (stage) => {
    const nginx = spawn('nginx', ['-p', stage.folder, '-c', join(stage.folder, 'nginx.conf')], { stdio: ['ignore', 'ignore', 'inherit'] });
    const browser = await launch(`--host-resolver-rules=MAP ${HOST} 127.0.0.1`);
    try {
      const base = stage.env.CHATSERVER_HTTP__PUBLIC_URL ?? '';
      const pages = [];
      /** @type {string[]} */
      const sockets = [];
      for (const nick of ['Alice', 'Bob']) {
        const page = await (await browser.newContext({ ignoreHTTPSErrors: true })).newPage();
        stage.listen(page, nick);
        page.on('websocket', (socket) => sockets.push(socket.url()));
        await until(() => page.goto(stage.link(nick, base)).then(() => true, () => false), 'nginx answers');
        await page.getByRole('list', { name: 'Conversations' }).getByRole('button').waitFor();
        pages.push(page);
      }
      const [alice, bob] = pages;
      assert.equal(await alice.evaluate(() => isSecureContext), true);
      await openConversation(alice, 'Bob');
      await openConversation(bob, 'Alice');
      await write(alice, 'over https');
      await log(bob).getByText('over https').waitFor();
      await log(alice).getByRole('img', { name: 'Viewed' }).waitFor();
      assert.deepEqual([...new Set(sockets)], [`wss://${new URL(base).host}/ws`]);
      assert.equal(await alice.locator('.banner').textContent(), '');
    } finally {
      await browser.close();
      nginx.kill();
    }
  },
  async (stage) => {
    stage.addPeople('Alice', 'Bob');
    stage.befriend('Alice', 'Bob');
    const port = await freePort();
    const base = `https://${HOST}:${port}`;
    stage.port = await freePort();
    configure(stage.folder, port, stage.port);
    Object.assign(stage.env, {
      CHATSERVER_HTTP__PUBLIC_URL: `${base}/`,
      CHATSERVER_HTTP__TRUSTED_PROXIES: '127.0.0.1',
      CHATSERVER_HTTP__LISTENER_ORIGINS: base,
    });
  },
);
