// A story of the browser tests: people, a server, and a script. Chromium is started once for each file.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';

import { Stage, Template, launch } from './stage.mjs';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** Maximum time of a story, in ms. Several stories share the cores of the machine. */
const TIMEOUT = 180000;

/** @type {import('playwright-core').Browser} */
let browser;
/** @type {Template | undefined} */
let template;
before(async () => {
  browser = await launch();
});
after(async () => {
  await browser.close();
  template?.remove();
});

/**
 * @param {string} name
 * @param {(stage: Stage) => Promise<void>} script
 * @param {(stage: Stage) => Promise<void> | void} [prepare]
 */
export function story(name, script, prepare = aliceAndBob) {
  test(name, { timeout: TIMEOUT }, async () => {
    const stage = new Stage(browser);
    try {
      await prepare(stage);
      await stage.open();
      await script(stage);
    } catch (error) {
      let i = 0;
      for (const context of stage.contexts) for (const page of context.pages()) await stage.shot(page, `failed-${name}-${i++}`).catch(() => {});
      throw error;
    } finally {
      await stage.close();
    }
  });
}

/**
 * Two friends. Each file makes them once and copies their database, which saves two RSA keys a story.
 * @param {Stage} stage
 */
export function aliceAndBob(stage) {
  if (template) return template.copyTo(stage);
  stage.addPeople('Alice', 'Bob');
  stage.befriend('Alice', 'Bob');
  template = new Template(stage);
}

/**
 * Asks axe for violations.
 * @param {import('playwright-core').Page} page
 * @param {string} where
 */
export async function check(page, where) {
  // Through the debugger, which the page's policy does not bind.
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    const { violations } = await /** @type {any} */ (globalThis).axe.run(document);
    return violations.map((/** @type {any} */ each) => `${each.id}: ${each.nodes.map((/** @type {any} */ node) => node.html + ' ' + node.failureSummary).join('\n')}`);
  });
  assert.deepEqual(found, [], where);
}
