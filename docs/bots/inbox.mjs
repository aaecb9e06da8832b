// The new messages of a user, for bots in Node 20 or newer on web/api.js.

import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Yields each new message of all conversations, for ever. Asking for the next one records this one as handled.
 * The first run begins with the messages that come from now on. Later runs go on at the positions in `file`.
 * @param {import('../../web/api.js').Api} api
 * @param {string} file
 */
export async function* news(api, file) {
  const list = async () => (await api.conversation({ action: 'list' })).conversations;
  // The date decides where reading goes on if a restore of the database has lost the message.
  const position = ({ instance }, id) => ({ instance, id, date: id && api.clock.timestamp() });
  if (!existsSync(file)) save(file, Object.fromEntries((await list()).map((one) => [one.id, position(one, one.lastmessageid)])));
  const positions = JSON.parse(readFileSync(file, 'utf8'));
  let sequence = 0;
  let isNews = true;
  while (true) {
    for (const conversation of isNews ? await list() : []) {
      let at = positions[conversation.id];
      if (at?.instance !== conversation.instance) at = position(conversation, '');
      if (at.id === conversation.lastmessageid) continue;
      for await (const message of messages(api, conversation, at)) {
        yield { conversation, message };
        positions[conversation.id] = position(conversation, message.ID);
        save(file, positions);
      }
    }
    await sleep(1000);
    // Acknowledges the hints of the answer before: their messages are handled now.
    const hints = await api.call('chatnotification', { action: 'download', ack: sequence });
    sequence = hints.sequence;
    isNews = hints.conversationchangedof.length > 0;
  }
}

/** Yields the messages behind the ID; those since the date if the server does not know the ID. */
async function* messages(api, { id: conversationid, instance }, { id, date }) {
  for (let more = true; more; ) {
    const page = await api.conversation({
      action: 'download', conversationid, instance, extended: true,
      firstmessageid: id, firstmessagedate: date, firstreportdate: '9999-12-31 23:59:59',
    });
    const known = id;
    for (const message of page.messages) {
      id = message.ID;
      if (id !== known) yield message;
    }
    more = page.more;
  }
}

/** Replaces a file in one step. */
function save(file, value) {
  writeFileSync(`${file}.new`, JSON.stringify(value));
  renameSync(`${file}.new`, file);
}
