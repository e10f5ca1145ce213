// Components without a page: hooks that draw at once. Imported before what uses them.

import "./page.mjs";

let drawn; // the component that draws now
const slot = (made) => (drawn.kept[drawn.at++] ??= made());
function useEffect(run, inputs) {
  const kept = slot(() => ({}));
  if (kept.inputs?.every((input, n) => Object.is(input, inputs[n]))) return;
  drawn.effects.push(() => {
    kept.end?.();
    Object.assign(kept, { inputs, end: run() });
  });
}
Object.assign((globalThis.preactHooks = { ...globalThis.preactHooks }), {
  useRef: (current) => slot(() => ({ current })),
  useState(first) {
    const owner = drawn;
    const one = slot(() => ({ value: first }));
    const set = (next) => {
      const made = next instanceof Function ? next(one.value) : next;
      if (Object.is(made, one.value)) return;
      one.value = made;
      owner.draw();
    };
    return [one.value, set];
  },
  useEffect,
  useLayoutEffect: useEffect,
  useCallback(run, inputs) {
    const kept = slot(() => ({}));
    if (!kept.inputs?.every((input, n) => Object.is(input, inputs[n])))
      Object.assign(kept, { inputs, run });
    return kept.run;
  },
});

/** What a component shows that uses `use`, until it is gone. */
export function mounted(use) {
  const component = { kept: [], effects: [], isDrawing: false, isDue: false, shown: null };
  component.draw = () => {
    component.isDue = true;
    if (component.isDrawing) return;
    component.isDrawing = true;
    while (component.isDue) {
      Object.assign(component, { isDue: false, at: 0 });
      drawn = component;
      component.shown = use();
      for (const effect of component.effects.splice(0)) effect();
    }
    component.isDrawing = false;
  };
  component.leave = () => component.kept.forEach(({ end }) => end?.());
  component.draw();
  return component;
}
