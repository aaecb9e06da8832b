/**
 * Builds elements from text nodes alone. Nothing here parses HTML, so a message can never become markup.
 */

/** @typedef {Node | string | null | undefined | false} Child */

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [props] `onclick` and other handlers, `class`, properties, `aria-…` and other attributes
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    else if (name === 'class') element.className = String(value);
    else if (name in element) Reflect.set(element, name, value);
    else if (value !== false) element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.filter((child) => typeof child === 'string' || child instanceof Node));
  return element;
}

/**
 * Writes a text only where it differs, so that screen readers and selections are not disturbed.
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const SVG = 'http://www.w3.org/2000/svg';

/** Paths of the icons, in a box of 24. */
const ICONS = {
  add: 'M15 19a6 6 0 0 0-12 0M9 11a4 4 0 1 0 0-8 4 4 0 0 0 0 8M19 8v6M16 11h6',
  requests: 'M3 6h18v12H3zM3 7l9 7 9-7',
  blocked: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18M6 6l12 12',
  bell: 'M6 16V11a6 6 0 1 1 12 0v5l2 2H4zM10 21h4',
  leave: 'M10 4H5v16h5M15 8l4 4-4 4M9 12h10',
  more: 'M12 5h.01M12 12h.01M12 19h.01',
  back: 'M15 5l-7 7 7 7',
  send: 'M4 12l16-8-6 16-3-7z',
  star: 'M12 4l2.4 5 5.6.8-4 3.9.9 5.5L12 16.6 7.1 19.2 8 13.7 4 9.8 9.6 9z',
  muted: 'M6 16V11a6 6 0 0 1 9-5M18 11v5l2 2H8M4 4l16 16',
  down: 'M6 10l6 6 6-6',
  search: 'M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14M16 16l5 5',
  chat: 'M4 5h16v11h-9l-5 4v-4H4z',
  Sending: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18M12 7v5l3 2',
  Sent: 'M5 13l4 4L19 7',
  Delivered: 'M2 13l4 4L16 7M11 16l1 1L22 7',
  Viewed: 'M2 13l4 4L16 7M11 16l1 1L22 7',
};

/** @typedef {keyof typeof ICONS} Icon */

/**
 * @param {Icon} name
 * @param {string} [label] without it, the icon is decoration
 */
export function icon(name, label) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', `icon icon-${name}`);
  if (label) {
    svg.setAttribute('role', 'img');
    svg.setAttribute('aria-label', label);
  } else {
    svg.setAttribute('aria-hidden', 'true');
  }
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * A button that shows only an icon.
 * @param {Icon} name
 * @param {string} label
 * @param {(event: MouseEvent) => void} onclick
 * @param {Record<string, unknown>} [props]
 */
export function iconButton(name, label, onclick, props = {}) {
  return el('button', { type: 'button', class: 'icon-button', 'aria-label': label, title: label, onclick, ...props }, icon(name));
}

/**
 * Opens a modal dialog. It closes with Esc, gives the focus back, and removes itself.
 * @param {string} title
 * @param {...Child} children
 */
export function openDialog(title, ...children) {
  const close = el('button', { type: 'button', onclick: () => dialog.close() }, 'Close');
  const heading = el('h2', { id: 'dialog-title' }, title);
  const dialog = el('dialog', { 'aria-labelledby': 'dialog-title', onclose: () => dialog.remove() }, heading, ...children, el('div', { class: 'dialog-end' }, close));
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * Asks before something that can't be undone. `Cancel` has the focus.
 * @param {string} action
 * @param {string} warning
 * @param {() => unknown} act
 */
export function confirm(action, warning, act) {
  const onclick = () => {
    dialog.close();
    act();
  };
  const dialog = openDialog(action, el('p', {}, warning));
  const cancel = dialog.querySelector('button');
  if (cancel) cancel.textContent = 'Cancel';
  cancel?.after(el('button', { type: 'button', class: 'danger', onclick }, action));
}
