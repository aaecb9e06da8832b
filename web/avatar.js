/** The round picture of a person: the first letter of the name on a colour of its own, with a dot for the availability. */

import { el, setText } from './dom.js';
import { availabilityText } from './text.js';

const GRAPHEMES = new Intl.Segmenter(undefined, { granularity: 'grapheme' });

export class Avatar {
  constructor() {
    this.initial = el('span', { 'aria-hidden': 'true' });
    this.dot = el('span', { class: 'dot', role: 'img' });
    this.element = el('span', { class: 'avatar' }, this.initial, this.dot);
  }

  /**
   * @param {string} userid
   * @param {string} name
   * @param {import('./model.js').Availability} [availability]
   */
  update(userid, name, availability = 'offline') {
    // An emoji may consist of many code points.
    const [first] = GRAPHEMES.segment(name);
    setText(this.initial, first?.segment.toUpperCase() ?? '?');
    this.element.style.setProperty('--hue', String(parseInt(userid.slice(0, 4), 16) % 360));
    this.dot.dataset.availability = availability;
    this.dot.setAttribute('aria-label', availabilityText(availability));
  }
}

/**
 * Colours an element and the avatar in it.
 * @param {HTMLElement} element
 * @param {string} colour of a conversation; white stands for none
 */
export function paint(element, colour) {
  element.classList.toggle('coloured', colour !== '#ffffff');
  element.style.setProperty('--colour', colour);
}
