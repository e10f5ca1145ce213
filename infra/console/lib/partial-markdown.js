// Completes Markdown that is still being written, so that no mark is shown as text.

const MARKS = /`|\*\*|~~|\*(?=\S)|(?<=\S)\*/g;

/** Close the marks, the link and the table at the end of a text. */
export function completeMarkdown(text) {
  if ((text.match(/^ {0,3}```/gm) ?? []).length % 2 === 1) return text; // the lexer ends the code
  const [start] = /^[^]*(?:\n\n|```(?:\n|$))/.exec(text) ?? [""];
  const block = text.slice(start.length).trimEnd();
  const [head, , ...rows] = block.trimStart().split("\n");
  if (head.startsWith("|") && rows.length === 0) {
    const columns = head.split("|").length - (head.endsWith("|") ? 2 : 1);
    return columns < 1 ? start : `${start}${head}\n${"|---".repeat(columns)}|`;
  }
  const end = block.replace(/!?\[([^[\]]*)(?:\](?:\([^)]*)?)?$/, "$1").replace(/[*_~`\s]+$/, "");
  const open = [];
  for (const [mark] of end.matchAll(MARKS)) {
    const opened = open.lastIndexOf(mark);
    if (opened >= 0) open.splice(opened);
    else if (open.at(-1) !== "`") open.push(mark);
  }
  return start + end + open.reverse().join("");
}
