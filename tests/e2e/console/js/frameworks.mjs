// Bundles main.react.tsx, main.vue.js and main.svelte.js of its own folder, each with its compiler.

import { readFileSync } from "node:fs";
import { build } from "esbuild";
import { compile } from "svelte/compiler";
import { compileScript, parse } from "vue/compiler-sfc";

const isCustomElement = (tag) => tag.startsWith("minutehand-");
const compilers = {
  vue(text) {
    const templateOptions = { compilerOptions: { isCustomElement } };
    const { descriptor } = parse(text);
    return compileScript(descriptor, { id: "job", inlineTemplate: true, templateOptions }).content;
  },
  svelte: (text) => compile(text, { generate: "client" }).js.code,
};
const plugins = Object.entries(compilers).map(([name, compiled]) => ({
  name,
  setup: ({ onLoad }) =>
    onLoad({ filter: new RegExp(`\\.${name}$`) }, ({ path }) => ({
      contents: compiled(readFileSync(path, "utf8")),
    })),
}));

await build({
  entryPoints: ["main.react.tsx", "main.vue.js", "main.svelte.js"],
  outdir: "out",
  bundle: true,
  format: "esm",
  jsx: "automatic",
  external: ["/mine/my-app.js"],
  define: {
    "process.env.NODE_ENV": '"production"',
    __VUE_OPTIONS_API__: "false",
    __VUE_PROD_DEVTOOLS__: "false",
    __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
  },
  plugins,
});
