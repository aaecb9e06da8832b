/**
 * Which messages were really seen: the page is visible, and the message is in sight. They are gathered into one report.
 */

/** Time for which seen messages are gathered, and time before a failed report is repeated, in ms. */
const GATHER = 250;
const REPEAT = 5000;
/** Maximum IDs of one report, a bound of the server. */
const MAX_IDS = 1000;

export class Sight {
  /**
   * @param {HTMLElement} scroller
   * @param {(ids: string[]) => Promise<void>} report
   * @param {AbortSignal} signal
   */
  constructor(scroller, report, signal) {
    this.report = report;
    /** @type {Set<string>} IDs in sight that are not reported */
    this.ids = new Set();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    const threshold = [0.02, 0.1, 0.2, 0.3, 0.4, 0.5];
    this.observer = new IntersectionObserver((entries) => this.sighted(entries), { root: scroller, threshold });
    document.addEventListener('visibilitychange', () => this.schedule(), { signal });
    signal.addEventListener('abort', () => this.clear());
  }

  /** @param {HTMLElement} node with the message's ID in `data-id` */
  watch(node) {
    this.observer.observe(node);
  }

  /** @param {HTMLElement} node */
  leave(node) {
    this.observer.unobserve(node);
    this.ids.delete(node.dataset.id ?? '');
  }

  /** Forgets all messages, for another conversation. */
  clear() {
    this.observer.disconnect();
    this.ids.clear();
    clearTimeout(this.timer);
    this.timer = undefined;
  }

  /** @param {IntersectionObserverEntry[]} entries */
  sighted(entries) {
    for (const { target, intersectionRatio, intersectionRect, rootBounds } of entries) {
      const id = /** @type {HTMLElement} */ (target).dataset.id ?? '';
      // A message higher than the window never shows half of itself.
      const fills = rootBounds !== null && intersectionRect.height > rootBounds.height / 2;
      if (intersectionRatio >= 0.5 || fills) this.ids.add(id);
      else this.ids.delete(id);
    }
    this.schedule();
  }

  /** @param {number} [wait] ms */
  schedule(wait = GATHER) {
    if (this.timer !== undefined || this.ids.size === 0 || document.visibilityState !== 'visible') return;
    const timer = setTimeout(async () => {
      if (document.visibilityState !== 'visible') return void (this.timer = undefined);
      const ids = [...this.ids].slice(0, MAX_IDS);
      const failed = await this.report(ids).then(
        () => false,
        (error) => {
          console.warn('messages could not be reported as viewed', error);
          return true;
        },
      );
      // Another conversation has been opened meanwhile.
      if (this.timer !== timer) return;
      this.timer = undefined;
      if (!failed) for (const id of ids) this.ids.delete(id);
      this.schedule(failed ? REPEAT : GATHER);
    }, wait);
    this.timer = timer;
  }
}
