// What differs between two answers, word by word. No page: tested without one.

const MOST_WORDS = 600; // beyond, the answers are shown as they are

/** @typedef {{kind: "same" | "added" | "removed", text: string}} Run */

/**
 * The words of `text` beside those of `base`, as runs: `same` in both, `added` in text alone,
 * `removed` from base. Null when the answers are too long to compare.
 *
 * @param {string} base
 * @param {string} text
 * @returns {Run[] | null}
 */
export function differences(base, text) {
  const [a, b] = [base, text].map((each) => each.split(/(\s+)/).filter(Boolean));
  if (a.length > MOST_WORDS || b.length > MOST_WORDS) return null;
  // lengths of the longest common subsequence of what follows each pair of places
  const width = b.length + 1;
  const common = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      common[i * width + j] =
        a[i] === b[j]
          ? common[(i + 1) * width + j + 1] + 1
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
  /** @type {Run[]} */
  const runs = [];
  const push = (/** @type {Run["kind"]} */ kind, /** @type {string} */ word) => {
    const last = runs.at(-1);
    if (last?.kind === kind) last.text += word;
    else runs.push({ kind, text: word });
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      push("same", a[i++]);
      j++;
    } else if (
      j >= b.length ||
      (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1])
    )
      push("removed", a[i++]);
    else push("added", b[j++]);
  }
  return runs;
}
