// What the classic scripts of index.html put into the page; this file has no counterpart at run time.

import type * as Supabase from "@supabase/supabase-js";
import type * as Preact from "preact";
import type * as PreactHooks from "preact/hooks";
import type UPlot from "uplot";

/** The hooks; state that begins as null or [] may become anything: cast the beginning to say what. */
export type Hooks = Omit<typeof PreactHooks, "useState" | "useRef"> & {
  useState: ((initial: null) => [any, (value: any) => void]) &
    ((initial: never[]) => [any[], (value: any[] | ((now: any[]) => any[])) => void]) &
    typeof PreactHooks.useState;
  useRef: ((initial: null) => { current: any }) &
    ((initial: never[]) => { current: any[] }) &
    typeof PreactHooks.useRef;
};

declare global {
  var preact: typeof Preact;
  var preactHooks: Hooks;
  var supabase: typeof Supabase;
  /** Loaded with the first chart. */
  var uPlot: typeof UPlot;
}
