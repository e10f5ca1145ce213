// Long markup is one element a line, and means the same to htm before and after.
import assert from "node:assert/strict";
import test from "node:test";
import { Linter } from "eslint";
import htm from "htm";
import markup from "../../../infra/eslint/markup.js";

const CONFIG = [{ plugins: { markup }, rules: { "markup/one-element-a-line": "error" } }];
const read = htm.bind((type, props, ...children) => ({ type, props, children }));

/** What the rule makes of a source. */
const fixed = (source) => new Linter().verifyAndFix(source, CONFIG).output;
/** What a template without expressions means. */
const meaning = (source) => {
  const text = /html`([^]*)`/.exec(source)?.[1] ?? "";
  return read(Object.assign([text], { raw: [text] }));
};

test("elements, attributes and what an element holds get lines of their own", () => {
  const made = fixed(
    'export const x = html`<div class="a"><h1>Jobs</h1><button type="button" class="primary" disabled=${isBusy} onClick=${() => enqueue(one)}>Enqueue</button></div>`;\n',
  );

  assert.equal(
    made,
    `export const x = html\`<div class="a">
  <h1>Jobs</h1>
  <button type="button" class="primary" disabled=\${isBusy} onClick=\${() => enqueue(one)}>
    Enqueue
  </button>
</div>\`;
`,
  );
  assert.equal(fixed(made), made);
});

test("a space that is shown stays, wherever a line is broken", () => {
  const words = "many words in a row, ".repeat(3);
  for (const inside of [
    `<p>${words}<b>one</b> <i>two</i>, three <br />four</p><p> five</p>`,
    `<p>\n  ${words}\n  <b>one</b>\n and two </p>`,
    `<pre title="a > b  c">${words} <code>x</code></pre><!-- no <b>tag</b> -->${words}`,
    `<pre title="a > b  c">${words} <code>x</code></pre>${words}`,
    `<p>one</p><p>${words}${words}</p>two <b>three</b>`,
  ]) {
    const source = `export const x = html\`${inside}\`;\n`;
    const made = fixed(source);
    assert.deepEqual(meaning(made), meaning(source), made);
    assert.equal(fixed(made), made);
  }
});

test("what fits on a line is left alone", () => {
  const source = "export const x = html`<p>${a}</p><p>${b} <b>c</b></p>`;\n";

  assert.equal(fixed(source), source);
});
