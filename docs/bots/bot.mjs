// Answers each message once with "you said: …": node docs/bots/bot.mjs https://chat.example.com/ bot.json
//
// bot.json is what `chatserver user add … --json` prints. Keep it at mode 0600: it holds the keys. The bot records how far it
// has read beside it, in bot.json.mjs.positions.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Api, login, NoAnswer, Refused } from '../../web/api.js';
import { CannotOpen, importApiKey, open, seal, unwrapConversationKey } from '../../web/crypto.js';
import { openPrivateKey } from '../../web/pem.js';
import { news } from './inbox.mjs';

// Refusals after which the message stays without an answer, or has it already.
const PERMANENT = ['message_conflict', 'not_friends', 'blocked', 'quota_exceeded', 'too_large'];
const digest = (...parts) => createHash('sha256').update(parts.join('\n')).digest('hex').slice(0, 32);

async function answer(api, privateKey, { id: conversationid, instance, secret }, message) {
  if (message.UserID === api.userid) return;
  const key = await unwrapConversationKey(privateKey, secret);
  // The ID follows from the message: a repeat after a crash is a message_conflict, and the answer is stored once.
  const ID = digest(conversationid, instance, message.ID);
  try {
    const text = await open(key, { conversationid, instance, id: message.ID }, message.UserID, message.Data, api.userid);
    const Data = await seal(key, { conversationid, instance, id: ID }, api.userid, `you said: ${text.slice(0, 1000).toWellFormed()}`);
    const answered = { ID, Type: 'Message', Created: api.clock.timestamp(), ValidUntil: '', Data };
    await api.conversation({ action: 'add', conversationid, instance, message: answered });
  } catch (error) {
    if (!(error instanceof CannotOpen) && !PERMANENT.includes(error.code)) throw error;
  }
}

const [base, file] = process.argv.slice(2);
if (!file) {
  console.error('usage: bot.mjs URL FILE');
  process.exit(1);
}
const { apikey, encryptionpassword } = JSON.parse(readFileSync(file, 'utf8'));
// A station is a device. It follows from the API key, so that each run is the same device.
const station = digest('bot', apikey);
while (true) {
  try {
    const { userid, rsakey } = await login({ base, station, apikey });
    const privateKey = await openPrivateKey(rsakey, encryptionpassword);
    const api = new Api({ base, userid, station, key: await importApiKey(apikey) });
    await api.call('chatavailability', { action: 'useravailable' });
    console.error(`answering at ${base}`);
    for await (const { conversation, message } of news(api, `${file}.mjs.positions`)) await answer(api, privateKey, conversation, message);
  } catch (error) {
    if (!(error instanceof NoAnswer || error instanceof Refused)) throw error;
    console.error(error.message);
    if (error.code === 'invalid_credentials') process.exit(1);
    await sleep(1000 + 4000 * Math.random());
  }
}
