// What differs between the answers of a question. Pure.

const wordsOf = (text) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];

/**
 * Each answer in pieces `[text, isMarked]`: words that not all of them have are marked. Answers that
 * have less than a third in common are marked nowhere: everything differs.
 */
export function marked(texts) {
  const sets = texts.map((text) => new Set(wordsOf(text)));
  const all = new Set(sets.flatMap((words) => [...words]));
  const common = new Set([...all].filter((word) => sets.every((words) => words.has(word))));
  if (common.size === all.size || common.size < all.size / 3)
    return texts.map((text) => [[text, false]]);
  return texts.map((text) =>
    text
      .split(/([\p{L}\p{N}]+)/u)
      .filter(Boolean)
      .map((piece) => [piece, wordsOf(piece).some((word) => !common.has(word))]),
  );
}
