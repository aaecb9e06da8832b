/** How texts and times are shown. */

import { parseDate } from './api.js';
import { el } from './dom.js';

const LINK = /\bhttps?:\/\/[^\s<>"'`\u0000-\u001f\u2028\u2029\u202a-\u202e\u2066-\u2069]+/gi;

/**
 * The text as nodes: plain text, and links for http and https alone.
 * @param {string} text
 * @returns {(Node | string)[]}
 */
export function withLinks(text) {
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(LINK)) {
    const address = trimLink(found[0]);
    const url = parseUrl(address);
    if (!url || !/^https?:$/.test(url.protocol) || !url.hostname) continue;
    nodes.push(text.slice(end, found.index));
    nodes.push(el('a', { href: url.href, target: '_blank', rel: 'noopener noreferrer', dir: 'ltr' }, address));
    end = found.index + address.length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

/** @param {string} address */
function parseUrl(address) {
  try {
    return new URL(address);
  } catch {
    return null;
  }
}

/**
 * Leaves the punctuation of the sentence out of the link, and a bracket that the link does not open.
 * @param {string} address
 */
function trimLink(address) {
  let trimmed = address.replace(/[.,;:!?…]+$/, '');
  for (const [opening, closing] of ['()', '[]', '{}']) {
    while (trimmed.endsWith(closing) && count(trimmed, closing) > count(trimmed, opening)) trimmed = trimmed.slice(0, -1);
  }
  return trimmed.replace(/[.,;:!?…]+$/, '');
}

/**
 * @param {string} text
 * @param {string} char
 */
function count(text, char) {
  return text.split(char).length - 1;
}

const TIME = new Intl.DateTimeFormat(undefined, { hour: 'numeric', minute: '2-digit' });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
const YEAR = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'long', year: 'numeric' });
const SHORT = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' });

/** @param {string} created */
export function timeOf(created) {
  const time = parseDate(created);
  return Number.isNaN(time) ? '' : TIME.format(time);
}

/** @param {number} time ms */
function daysAgo(time) {
  const midnight = (/** @type {Date} */ date) => new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
  return Math.round((midnight(new Date()) - midnight(new Date(time))) / 86400000);
}

/** @param {string} created */
export function dayOf(created) {
  const time = parseDate(created);
  if (Number.isNaN(time)) return '';
  const days = daysAgo(time);
  if (days === 0) return 'Today';
  if (days === 1) return 'Yesterday';
  return (days > 0 && days < 300 ? DAY : YEAR).format(time);
}

/**
 * The time for the list: of today the hour, of earlier days the date, of earlier years the year.
 * @param {number} time ms
 */
export function listTime(time) {
  const days = daysAgo(time);
  if (days === 0) return TIME.format(time);
  return days > 0 && days < 300 ? SHORT.format(time) : String(new Date(time).getFullYear());
}

const AVAILABILITY = { available: 'Available', away: 'Away', busy: 'Busy', offline: 'Offline' };

/** @param {import('./model.js').Availability | undefined} availability */
export function availabilityText(availability) {
  return availability ? AVAILABILITY[availability] : '';
}

/** Text in place of a message that does not open. */
export const UNREADABLE = 'This message can\u2019t be opened';
