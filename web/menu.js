/** A button with a menu: arrows move, Esc closes and gives the focus back. */

import { el, icon } from './dom.js';

/** @typedef {{ label: string, act: () => void, danger?: boolean }} Item */

/**
 * @param {string} label
 * @param {() => Item[]} items
 */
export function menuButton(label, items) {
  const menu = el('div', { class: 'menu', role: 'menu', 'aria-label': label, hidden: true });
  const button = el('button', { type: 'button', class: 'icon-button', 'aria-label': label, title: label, 'aria-haspopup': 'menu', 'aria-expanded': 'false' }, icon('more'));

  /** @param {boolean} refocus */
  const close = (refocus) => {
    menu.hidden = true;
    button.setAttribute('aria-expanded', 'false');
    removeEventListener('pointerdown', outside);
    if (refocus) button.focus();
  };
  /** @param {Event} event */
  const outside = (event) => {
    if (!frame.contains(/** @type {Node} */ (event.target))) close(false);
  };
  const open = () => {
    menu.replaceChildren(
      ...items().map(({ label: text, act, danger }) => {
        const onclick = () => {
          close(true);
          act();
        };
        return el('button', { type: 'button', role: 'menuitem', tabIndex: -1, class: danger ? 'danger' : '', onclick }, text);
      }),
    );
    menu.hidden = false;
    button.setAttribute('aria-expanded', 'true');
    addEventListener('pointerdown', outside);
    /** @type {HTMLElement} */ (menu.firstElementChild)?.focus();
  };
  button.addEventListener('click', () => (menu.hidden ? open() : close(true)));
  button.addEventListener('keydown', (event) => {
    if (event.key !== 'ArrowDown') return;
    event.preventDefault();
    open();
  });
  menu.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') {
      event.stopPropagation();
      close(true);
    } else if (event.key === 'Tab') {
      close(false);
    } else {
      moveFocus(event, /** @type {HTMLElement[]} */ ([...menu.children]));
    }
  });
  const frame = el('div', { class: 'menu-frame' }, button, menu);
  return frame;
}

/**
 * Moves the focus through elements with the arrows, Home and End.
 * @param {KeyboardEvent} event
 * @param {HTMLElement[]} elements
 */
export function moveFocus(event, elements) {
  const at = elements.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  const { length } = elements;
  /** @type {Record<string, number>} */
  const targets = { ArrowDown: (at + 1) % length, ArrowUp: (at - 1 + length) % length, Home: 0, End: length - 1 };
  const target = elements[targets[event.key]];
  if (!target) return;
  event.preventDefault();
  target.focus();
}
