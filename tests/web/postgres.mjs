// A PostgreSQL cluster of a test's own.

import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { chownSync, existsSync, mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';

import { freePort, until } from './stage.mjs';

/** Started by root, PostgreSQL runs as `nobody`: it refuses to run as root. */
const USER = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};

/** Runs the server until stdin ends, as it does with this process, however that ends. Then removes the folder. */
const SERVE = '"$1/postgres" -D "$2/data" -c fsync=off -c listen_addresses=127.0.0.1 -c port="$3" -c unix_socket_directories= & read -r _; kill -QUIT $!; wait; rm -rf "$2"';

/**
 * Returns the first folder that has these programs: of `PATH`, or of these others.
 * @param {string[]} programs
 * @param {string[]} others
 */
export function find(programs, others) {
  const folders = [...(process.env.PATH ?? '').split(delimiter), ...others];
  return folders.find((folder) => programs.every((program) => existsSync(join(folder, program))));
}

/** Debian's packages keep the programs of each version in a folder of its own. */
const DEBIAN = '/usr/lib/postgresql';
const VERSIONS = existsSync(DEBIAN) ? readdirSync(DEBIAN).sort((a, b) => Number(b) - Number(a)) : [];

/** Folder of PostgreSQL's programs, if the machine has them. */
export const POSTGRES = find(['initdb', 'postgres', 'pg_isready'], VERSIONS.map((version) => join(DEBIAN, version, 'bin')));

/** A running cluster. */
export class Postgres {
  /**
   * @param {import('node:child_process').ChildProcess} server
   * @param {string} url
   */
  constructor(server, url) {
    this.server = server;
    this.url = url;
  }

  static async start() {
    assert.ok(POSTGRES);
    const folder = mkdtempSync(join(tmpdir(), 'chat-postgres-'));
    if (USER.uid) chownSync(folder, USER.uid, USER.gid);
    const settings = { ...USER, cwd: folder };
    const data = ['-D', join(folder, 'data'), '-U', 'chat', '--auth=trust', '--encoding=UTF8', '--locale=C.UTF-8', '--no-sync'];
    execFileSync(join(POSTGRES, 'initdb'), data, { ...settings, stdio: 'ignore' });
    const port = String(await freePort());
    const args = ['-c', SERVE, 'postgres', POSTGRES, folder, port];
    const server = spawn('sh', args, { ...settings, detached: true, stdio: ['pipe', 'ignore', process.env.VERBOSE ? 'inherit' : 'ignore'] });
    const postgres = new Postgres(server, `postgres://chat@127.0.0.1:${port}/postgres?sslmode=disable`);
    const isReady = () => spawnSync(join(POSTGRES, 'pg_isready'), ['-q', '-h', '127.0.0.1', '-p', port]).status === 0;
    await until(isReady, 'PostgreSQL is ready').catch(async (error) => {
      await postgres.stop();
      throw error;
    });
    return postgres;
  }

  async stop() {
    const ended = new Promise((resolve) => this.server.once('exit', resolve));
    this.server.stdin?.end();
    await ended;
  }
}
