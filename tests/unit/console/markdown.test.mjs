// Tests how Markdown that is being written is completed, so that no mark stays open.

import assert from "node:assert/strict";
import { test } from "node:test";
import { lexer } from "../../../node_modules/marked/lib/marked.esm.js";
import { growTokens, NOTHING } from "../../../infra/console/lib/partial-markdown.js";

const TEXT = `**Two** ways of *it*, and \`code\`:

1. [Docs](https://example.com/) ~~or~~ **all *of* it**
2. 2 * 3 is 6

| a | b |
|---|---|
| 1 | 2 |

\`\`\`
a ** b
\`\`\`
The end.`;

/** Return the text of Markdown tokens as a page shows it. */
const shown = (tokens = []) =>
  tokens
    .flatMap(({ type, text, tokens: inner, items, header, rows }) => {
      if (type === "code") return "";
      if (type === "table") return [header, ...rows].flat().map((cell) => shown(cell.tokens));
      return inner || items ? shown([...(inner ?? []), ...(items ?? [])]) : (text ?? "");
    })
    .join("");

test("no beginning of a text shows a mark", () => {
  for (let end = 1; end <= TEXT.length; end += 1) {
    const text = shown(growTokens(NOTHING, TEXT.slice(0, end), lexer).tokens);
    assert.doesNotMatch(text.replace("2 * 3", ""), /[*`~|[\]]|https|--/, TEXT.slice(0, end));
  }
});

test("marks in code that is being written stay as they are", () => {
  assert.equal(shown(growTokens(NOTHING, "`a ** b", lexer).tokens), "a ** b");
});

test("a text without open marks stays as it is", () => {
  for (const text of [TEXT, TEXT.replace("The end.", ""), "a", ""])
    assert.equal(shown(growTokens(NOTHING, text, lexer).tokens), shown(lexer(text)));
});

test("of a text that grows, only the last blocks are parsed again", () => {
  const whole = `${TEXT}\n\n`.repeat(100);
  let parsed = 0;
  let grown = NOTHING;
  const parse = (text) => {
    parsed += text.length;
    return lexer(text);
  };
  for (let end = 0; end <= whole.length; end += 10)
    grown = growTokens(grown, whole.slice(0, end), parse);

  assert.equal(
    shown(grown.tokens),
    shown(lexer(whole.slice(0, whole.length - (whole.length % 10)))),
  );
  assert.ok(parsed < 50 * whole.length, `${parsed / whole.length} times`);
});
