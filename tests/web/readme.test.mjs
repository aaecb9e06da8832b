// Makes the two pictures of the README. With IMAGES, the folder that they are written into: npm run images

import { log, openConversation, until } from './stage.mjs';
import { story } from './story.mjs';

const NICKS = ['Alice', 'Bob', 'Carol', 'Dávid', 'Erin', 'Farid', 'Grace'];

story(
  'pictures for the README',
  async (stage) => {
    const says = async (/** @type {string} */ nick, /** @type {string[]} */ texts) => (await stage.client(nick)).send(texts, { minutes: 3 });
    await says('Grace', ['See you on Thursday.']);
    await says('Farid', ['The build is green again 🎉']);
    await says('Erin', ['Could you look at my draft?', 'No hurry.']);
    await says('Dávid', ['Köszönöm!']);
    await says('Carol', ['Lunch at noon?']);
    const bob = await stage.page('Bob');
    const alice = await stage.page('Alice');
    await stage.page('Carol');
    const busy = await stage.page('Farid');
    await busy.getByLabel('Availability').selectOption('Busy');
    for (const nick of ['Grace', 'Farid', 'Carol', 'Dávid']) {
      await openConversation(alice, nick);
      await alice.getByRole('button', { name: nick }).getByLabel('unread').waitFor({ state: 'hidden' });
    }
    await openConversation(bob, 'Alice');
    await openConversation(alice, 'Bob');
    // Off the list, whose rows change their colour below it.
    await alice.mouse.move(600, 150);
    const talk = [
      [bob, 'Hi Alice! Did the server survive the weekend?'],
      [alice, 'It did. I even pulled the plug once.'],
      [bob, 'And?'],
      [alice, 'Nothing lost. Every message that had a tick was on the disk.'],
      [bob, 'Nice. Where are the docs again?'],
      [alice, 'Here: https://chat.example.com/docs\nThe page on backups is worth a read.'],
      [bob, 'Reading it now 👀'],
    ];
    for (const [page, text] of /** @type {[import('playwright-core').Page, string][]} */ (talk)) {
      await page.getByRole('textbox', { name: 'Message' }).fill(text);
      await page.keyboard.press('Enter');
      for (const each of [alice, bob]) await log(each).getByText(text.split('\n')[0].slice(0, 20)).first().waitFor();
    }
    await until(async () => (await log(alice).getByRole('img', { name: 'Viewed' }).count()) === 3, 'Bob has seen all');
    await alice.locator('.dot[data-availability="busy"]').waitFor();
    await alice.getByRole('textbox', { name: 'Message' }).fill('Tell me what you think');
    await alice.getByRole('button', { name: 'Bob' }).getByLabel('unread').waitFor({ state: 'hidden' });
    await stage.picture(alice, 'chat-light');
    const phone = await stage.page('Bob', await stage.newContext({ colorScheme: 'dark', viewport: { width: 390, height: 720 } }));
    await openConversation(phone, 'Alice');
    await log(phone).getByText('Reading it now').waitFor();
    await stage.picture(phone, 'chat-phone-dark');
  },
  (stage) => {
    stage.addPeople(...NICKS);
    for (const nick of NICKS.slice(1)) stage.befriend('Alice', nick);
  },
);
