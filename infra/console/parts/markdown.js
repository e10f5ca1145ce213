// Converts Markdown to elements. The library that parses Markdown is loaded when a page first shows
// Markdown. Until the library is loaded, the text is shown unformatted. HTML in the Markdown is
// shown as text.

import { safeUrl } from "../lib/format.js";
import { growTokens, NOTHING } from "../lib/partial-markdown.js";
import { html, quietButton, useEffect, useMemo, useRef, useState } from "../lib/ui.js";
import { copy } from "./copy.js";

const MAX_DEPTH = 40;
/** Maximum length of code that gets colours, because colouring longer code would block the page. */
const MAX_COLOURED = 10_000;
let depth = 0;
let lexer = (text) => [{ raw: text }];
let loading = null;
let highlighter = null;
let loadingHighlighter = null;

/**
 * Shows Markdown that a language model or a person has written. `isPartial` says whether the text
 * is still being written.
 */
export function Markdown({ text, isPartial = false }) {
  const [current, setCurrent] = useState(() => lexer);
  useEffect(() => {
    loading ??= import("marked").then((library) => (lexer = library.lexer));
    loading.then(
      () => setCurrent(() => lexer),
      () => {}, // without the library, the text is shown unformatted
    );
  }, []);
  const grown = useRef(NOTHING);
  const tokens = useMemo(() => {
    grown.current = isPartial ? growTokens(grown.current, text, parse) : NOTHING;
    return isPartial ? grown.current.tokens : parse(text);
  }, [text, isPartial, current]);
  return html`<div class="markdown" dir="auto">${tokens.map(renderOnce)}</div>`;
}

/**
 * Return the Markdown tokens of a text. If the Markdown nests too deeply for the library, return
 * the text as one token.
 */
function parse(text) {
  try {
    return lexer(text);
  } catch {
    return [{ raw: text }];
  }
}

const rendered = new WeakMap();

/**
 * Render a block of Markdown, once for each token, because Preact does not compare an element that
 * is the same object as in the last rendering.
 */
function renderOnce(token) {
  if (!rendered.has(token)) rendered.set(token, renderTokens([token])[0]);
  return rendered.get(token);
}

// show as text: tokens of unknown types, such as HTML, and tokens that are nested too deeply
function renderTokens(tokens = []) {
  depth += 1;
  try {
    return tokens.map((token) => ((depth <= MAX_DEPTH && RENDERERS[token.type]) || rawText)(token));
  } finally {
    depth -= 1;
  }
}
const rawText = ({ raw }) => raw;
const words = ({ text, tokens }) => (tokens ? renderTokens(tokens) : text);
const cells = (Cell, row) =>
  row.map(
    ({ align, tokens }) => html`<${Cell} style=${{ textAlign: align }}>${renderTokens(tokens)}<//>`,
  );

const RENDERERS = {
  text: words,
  escape: words,
  space: () => null,
  def: () => null,
  br: () => html`<br />`,
  hr: () => html`<hr />`,
  strong: (token) => html`<strong>${words(token)}</strong>`,
  em: (token) => html`<em>${words(token)}</em>`,
  del: (token) => html`<del>${words(token)}</del>`,
  checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  codespan: ({ text }) => html`<code>${text}</code>`,
  paragraph: (token) => html`<p>${words(token)}</p>`,
  heading: (token) => html`<p class="heading" data-depth=${token.depth}>${words(token)}</p>`,
  blockquote: (token) => html`<blockquote>${renderTokens(token.tokens)}</blockquote>`,
  // Show a link instead of an image, because the image's server would learn about the reader if the
  // browser loaded the image.
  image: ({ href, text }) => linkTo(href, text || href),
  link: (token) => linkTo(token.href, words(token)),
  list: ({ ordered, start, items }) => {
    const lines = items.map(({ tokens }) => html`<li>${renderTokens(tokens)}</li>`);
    return ordered ? html`<ol start=${start}>${lines}</ol>` : html`<ul>${lines}</ul>`;
  },
  code: ({ text, lang }) =>
    html`<figure class="code">
      <figcaption class="bar">
        <span class="muted small">${lang}</span>
        <span class="spacer"></span>
        ${quietButton("Copy", () => copy(text, "Copied the code"), { "aria-label": "Copy the code" })}
      </figcaption>
      <pre tabindex="0"><${Code} text=${text} lang=${lang?.split(/\s/)[0]} /></pre>
    </figure>`,
  table: ({ header, rows }) =>
    html`<div class="scroll-x" tabindex="0" role="group" aria-label="Table">
      <table class="table">
        <thead>
          <tr>${cells("th", header)}</tr>
        </thead>
        <tbody>
          ${rows.map((row) => html`<tr>${cells("td", row)}</tr>`)}
        </tbody>
      </table>
    </div>`,
};

/**
 * Shows code with colours. The library that colours the code escapes all HTML, and is loaded with
 * the first code block.
 */
function Code({ text, lang }) {
  const [current, setCurrent] = useState(highlighter);
  useEffect(() => {
    loadingHighlighter ??= import("highlight.js/lib/common").then(
      (library) => (highlighter = library.default),
    );
    loadingHighlighter.then(setCurrent, () => {}); // without the library, no colours
  }, []);
  if (!current?.getLanguage(lang) || text.length > MAX_COLOURED) return html`<code>${text}</code>`;
  const { value } = current.highlight(text, { language: lang, ignoreIllegals: true });
  return html`<code dangerouslySetInnerHTML=${{ __html: value }} />`;
}

function linkTo(address, content) {
  const href = safeUrl(address);
  return href
    ? html`<a href=${href} target="_blank" rel="noopener noreferrer nofollow">${content}</a>`
    : content;
}
