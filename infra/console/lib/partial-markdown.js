// Completes the Markdown of a text that is still being written, so that the reader does not see
// unfinished markup such as a single `**`.

const MARKS = /`|\*\*|~~|\*(?=\S)|(?<=\S)\*/g;

/** Close the emphasis, the link and the table that are still open at the end of a text. */
function completeMarkdown(text) {
  if ((text.match(/^ {0,3}```/gm) ?? []).length % 2 === 1) return text; // the lexer closes code
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

const UNFINISHED = 4; // later text may change the last blocks, such as the items of a list
export const NOTHING = { prefix: "", finished: [], tokens: [] };

/**
 * Return the Markdown tokens of a text that grows. Blocks that were already finished keep their
 * token objects from the previous call.
 */
export function growTokens({ prefix, finished }, text, parse) {
  const [before, kept] = text.startsWith(prefix) ? [prefix, finished] : ["", []];
  const tokens = parse(completeMarkdown(text.slice(before.length)));
  const ended = tokens.slice(0, -UNFINISHED);
  const end = before + ended.map(({ raw }) => raw).join("");
  const all = [...kept, ...tokens];
  return text.startsWith(end) // false if the library has replaced line breaks
    ? { prefix: end, finished: [...kept, ...ended], tokens: all }
    : { prefix: before, finished: kept, tokens: all };
}
