// One element a line where an htm template does not fit on one. Breaks are put where htm drops them:
// between two tags, between a tag and `${…}`, between attributes, and around what an element holds.

const WIDTH = 100;

/** The parts of a template in their order, with offsets in the source: `open`, `close`, `text`, `slot`. */
function partsOf(template, text) {
  const parts = [];
  let tag = null;
  let quote = "";
  const end = (at) => {
    tag.end = at;
    if (/^<\s*\//.test(text.slice(tag.start, at))) tag.kind = "close";
    else if (text[at - 2] === "/") tag.closed = true;
    parts.push(tag);
    tag = null;
  };
  template.quasis.forEach((quasi, index) => {
    const from = quasi.range[0] + (text.startsWith(quasi.value.raw, quasi.range[0] + 1) ? 1 : 0);
    const to = from + quasi.value.raw.length;
    let began = from;
    const flush = (at) => {
      if (at > began) parts.push({ kind: "text", start: began, end: at });
    };
    for (let at = from; at < to; at++) {
      const char = text[at];
      if (tag === null) {
        if (char !== "<") continue;
        flush(at);
        tag = { kind: "open", start: at, end: at, closed: false, gaps: [] };
      } else if (quote !== "") {
        if (char === quote) quote = "";
      } else if (char === '"' || char === "'") {
        quote = char;
      } else if (char === ">") {
        end(at + 1);
        began = at + 1;
      } else if (/\s/.test(char)) {
        const gap = /^\s+/.exec(text.slice(at, to))?.[0].length ?? 1;
        if (!/^\/?>/.test(text.slice(at + gap, at + gap + 2))) tag.gaps.push([at, at + gap]);
        at += gap - 1;
      }
    }
    if (tag === null) flush(to);
    if (tag === null && index < template.expressions.length) {
      parts.push({ kind: "slot", start: to, end: template.quasis[index + 1].range[0] + 1 });
    }
  });
  return parts;
}

/** The parts as a tree: elements with `children`, and what stands beside them. */
function treeOf(parts) {
  const root = { children: [] };
  const path = [root];
  for (const part of parts) {
    if (part.kind === "close" && path.length > 1) {
      const element = path.pop();
      element.close = part;
      element.end = part.end;
    } else if (part.kind === "open") {
      const element = {
        kind: "element",
        start: part.start,
        end: part.end,
        open: part,
        children: [],
      };
      path.at(-1).children.push(element);
      if (!part.closed) path.push(element);
    } else {
      path.at(-1).children.push(part);
    }
  }
  return path.length === 1 ? root : null;
}

/** Where white space belongs, as `[from, to, text]`: what differs from the source. */
function layout(template, source) {
  const { text } = source;
  const found = [];
  if (text.slice(...template.range).includes("<!--")) return found;
  const tree = treeOf(partsOf(template, text));
  if (tree === null) return found;

  const put = (from, to, wanted) => {
    if (text.slice(from, to) !== wanted) found.push([from, to, wanted]);
  };
  const line = (indent) => `\n${" ".repeat(indent)}`;
  const hasLine = (from, to) => text.slice(from, to).includes("\n");

  /** What is to be laid out: without the line breaks that htm drops. */
  function itemsOf(children) {
    return children.flatMap((part) => {
      if (part.kind !== "text") return [part];
      const raw = text.slice(part.start, part.end);
      const lead = /^\s*\n\s*/.exec(raw)?.[0].length ?? 0;
      if (lead === raw.length) return [];
      const trail = /\s*\n\s*$/.exec(raw)?.[0].length ?? 0;
      return [{ ...part, start: part.start + lead, end: part.end - trail }];
    });
  }

  /** Whether htm drops a line break that is put between two items, or at an end. */
  function mayBreak(before, after, from, to) {
    if (hasLine(from, to)) return true;
    if (before?.kind === "text") return after === null && /\S/.test(text[from - 1]);
    if (after?.kind === "text") return before === null && /\S/.test(text[to]);
    return true;
  }

  /** An element whose tag begins at `column` of a line that is indented by `indent`. */
  function visit(element, indent, column) {
    const { open, close } = element;
    const isWhole = !hasLine(open.start, open.end);
    const width = element.end - element.start;
    if (!hasLine(element.start, element.end) && column + width <= WIDTH) return;
    const joined = open.gaps.reduce(
      (sum, [from, to]) => sum - (to - from) + 1,
      open.end - open.start,
    );
    const names = open.gaps.map(([from, to]) => text.slice(from, to));
    const inside = names.reduce((sum, gap) => sum + gap.split("\n").length - 1, 0);
    const isPlain = text.slice(open.start, open.end).split("\n").length - 1 === inside;
    if (isPlain && column + joined <= WIDTH) {
      if (!isWhole) for (const [from, to] of open.gaps) put(from, to, " ");
    } else {
      for (const [from, to] of open.gaps) put(from, to, line(indent + 2));
    }
    if (close) between(element.children, open.end, close.start, indent);
  }

  function between(children, start, end, outer) {
    const items = itemsOf(children);
    let [indent, column] = [outer, 0];
    items.forEach((item, index) => {
      const before = items[index - 1] ?? null;
      const from = before?.end ?? start;
      if (mayBreak(before, item, from, item.start)) {
        put(from, item.start, line(outer + 2));
        indent = column = outer + 2;
      }
      if (item.kind === "element") visit(item, indent, column);
      column += item.end - item.start;
    });
    const last = items.at(-1);
    if (last && mayBreak(last, null, last.end, end)) put(last.end, end, line(outer));
  }

  const items = itemsOf(tree.children);
  const [start, end] = [template.range[0] + 1, template.range[1] - 1];
  const at = source.getLocFromIndex(template.range[0]);
  const indent = source.lines[at.line - 1].search(/\S/);
  if (items.length === 1 && items[0].kind === "element" && items[0].start === start) {
    visit(items[0], indent, at.column + 1);
    put(items[0].end, end, "");
  } else if (hasLine(start, end) || at.column + end - start > WIDTH) {
    if (items.length > 1 || items[0]?.kind === "element")
      between(tree.children, start, end, indent);
  }
  return found;
}

/** @type {import("eslint").Rule.RuleModule} */
const oneElementALine = {
  meta: { type: "layout", fixable: "whitespace", schema: [] },
  create(context) {
    const source = context.sourceCode;
    return {
      "TaggedTemplateExpression[tag.name='html']"({ quasi }) {
        const breaks = layout(quasi, source);
        if (breaks.length === 0) return;
        context.report({
          loc: source.getLocFromIndex(breaks[0][0]),
          message: "One element a line in markup that is longer than a line: `make format`.",
          fix: (fixer) =>
            breaks.map(([from, to, wanted]) => fixer.replaceTextRange([from, to], wanted)),
        });
      },
    };
  },
};

export default { rules: { "one-element-a-line": oneElementALine } };
