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

const loadParser = () => import("marked");
const loadHighlighter = () => import("highlight.js/lib/common");
/** The loaded libraries, by the functions that load them. */
const libraries = new Map();

/** Return the library that `load` loads, or undefined before it is loaded or if it cannot be. */
function useLibrary(load) {
  const [library, setLibrary] = useState(libraries.get(load));
  useEffect(() => {
    const keep = (loaded) => {
      libraries.set(load, loaded);
      setLibrary(loaded);
    };
    load().then(keep, () => {});
  }, []);
  return library;
}

/**
 * Shows Markdown that a language model or a person has written. `isPartial` says whether the text
 * is still being written.
 */
export function Markdown({ text, isPartial = false }) {
  const parser = useLibrary(loadParser);
  const grown = useRef(NOTHING);
  const tokens = useMemo(() => {
    const parse = (part) => {
      try {
        return parser.lexer(part);
      } catch {
        return [{ raw: part }]; // the library is not loaded, or the Markdown nests too deeply for it
      }
    };
    grown.current = isPartial ? growTokens(grown.current, text, parse) : NOTHING;
    return isPartial ? grown.current.tokens : parse(text);
  }, [text, isPartial, parser]);
  return html`<div class="markdown" dir="auto">${tokens.map(renderOnce)}</div>`;
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
 * Shows code, with colours once the library that colours it is loaded. This library escapes all
 * HTML.
 */
function Code({ text, lang }) {
  const highlighter = useLibrary(loadHighlighter)?.default;
  if (!highlighter?.getLanguage(lang) || text.length > MAX_COLOURED)
    return html`<code>${text}</code>`;
  const { value } = highlighter.highlight(text, { language: lang, ignoreIllegals: true });
  return html`<code dangerouslySetInnerHTML=${{ __html: value }} />`;
}

function linkTo(address, content) {
  const href = safeUrl(address);
  return href
    ? html`<a href=${href} target="_blank" rel="noopener noreferrer nofollow">${content}</a>`
    : content;
}
