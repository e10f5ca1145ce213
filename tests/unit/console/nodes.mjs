// Nodes that only hold what they are given, for elements without a page.

import assert from "node:assert/strict";

class Node {
  attributes = {};
  children = [];
  listeners = {};
  style = {};
  textContent = "";
  hidden = false;
  scrollTop = 0;
  scrollHeight = 0;
  clientHeight = 0;
  setAttribute = (name, value) => (this.attributes[name] = value);
  getAttribute = (name) => this.attributes[name] ?? null;
  hasAttribute = (name) => name in this.attributes;
  addEventListener = (name, run) => (this.listeners[name] = run);
  dispatchEvent = (event) => this.listeners[event.type]?.(event);
  closest = () => null;
  contains = () => false;
  attachShadow = () => this;
  append = (...nodes) => nodes.forEach((node) => this.insertBefore(node, null));
  replaceChildren = (...nodes) => ((this.children = []), this.append(...nodes));
  remove = () => this.parentNode?.children.splice(this.parentNode.children.indexOf(this), 1);
  insertBefore(given, there) {
    const node = given instanceof Node ? given : Object.assign(new Node(), { textContent: given });
    node.remove();
    const at = there ? this.children.indexOf(there) : this.children.length;
    this.children.splice(at, 0, node);
    node.parentNode = this;
  }
  get firstChild() {
    return this.children[0];
  }
  get childElementCount() {
    return this.children.length;
  }
  /** The first below it of a tag. */
  querySelector(tag) {
    return partsOf(this).find((node) => node.tag === tag) ?? null;
  }
  set innerHTML(_) {
    assert.fail("text of others is no markup");
  }
}

/** All nodes below one. */
function partsOf(node) {
  return node.children.flatMap((child) => [child, ...partsOf(child)]);
}

/** What is shown of a node and of all below it. */
export const textOf = (node) => node.textContent + node.children.map(textOf).join("");

/** The nodes of an element by the names under which a page may style them. */
export const namedIn = (element) =>
  Object.fromEntries(partsOf(element).map((node) => [node.attributes.part, node]));

globalThis.HTMLElement = Node;
globalThis.CSSStyleSheet = class {
  replaceSync() {}
};
globalThis.document = {
  createElement: (tag) => Object.assign(new Node(), { tag }),
  documentElement: { lang: "en" },
};
