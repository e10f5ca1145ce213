// Title of the page, which begins with the number of problems, so that a tab in the background shows
// how many there are.

const parts = { count: 0, words: [] };

/** Change the number of problems, or the words. Missing words are left out. */
export function setTitle(changed) {
  const { count, words } = Object.assign(parts, changed);
  const text = [...words, "Minutehand"].filter(Boolean).join(" · ");
  document.title = count > 0 ? `(${count}) ${text}` : text;
}
