// Finished steps read in pages, and put together.

/** Most pages, of about 1 MB each, that one view holds: what a worker reads of a job too. */
export const MOST_PAGES = 64;

/** @typedef {{ steps: any[], next?: object | null, waiting_for?: any }} Page */

/**
 * The first pages of a job's steps as one.
 *
 * @param {(after: any) => Promise<Page>} readPage
 * @param {number} count How many pages; fewer where they end before.
 * @returns {Promise<Page>} The newest page with the steps of all, oldest first.
 */
export async function readSteps(readPage, count) {
  let page = await readPage(null);
  const pages = [page];
  while (pages.length < Math.min(count, MOST_PAGES) && page.next) {
    page = await readPage(page.next);
    pages.push(page);
  }
  return { ...page, steps: joined(pages) };
}

/** A page may end amid the children of a step, which the next one continues under the same name. */
function joined(/** @type {{steps: any[]}[]} */ pages) {
  const steps = new Map();
  for (const step of pages.flatMap((page) => page.steps)) {
    const before = steps.get(step.name);
    steps.set(
      step.name,
      before
        ? { ...step, result: { children: [...childrenOf(before), ...childrenOf(step)] } }
        : step,
    );
  }
  return [...steps.values()].sort(
    (a, b) => Date.parse(a.created_at) - Date.parse(b.created_at) || (a.name < b.name ? -1 : 1),
  );
}

const childrenOf = (/** @type {{result?: any}} */ step) => step.result?.children ?? [];
