// Bundles the console: `node infra/console/build.mjs FOLDER` writes the files of the console into
// the folder.
//
// `app.js` contains all modules of the console, and `app.css` all styles. An app's page imports a
// shared module by the module's path, such as `/parts/table.js`. For each shared module, the build
// writes a small file to the module's path that exports the module's names from `app.js`.
// `licenses.txt` contains the licenses of the bundled npm packages, because the licenses require
// their text in copies.

import { copyFile, glob, mkdir, writeFile } from "node:fs/promises";
import { dirname, join, posix } from "node:path";
import { build } from "esbuild";
import { licensesOf } from "../release/licenses.mjs";

const SOURCE = import.meta.dirname;
const SHARED = "{api.js,lib/**/*.js,parts/*.js}";
const PARTS = ["base", "layout", "parts", "jobs", "job", "more", "waterfall", "markdown", "apps"];
const STYLES = ["../../node_modules/uplot/dist/uPlot.min.css"]
  .concat(PARTS.map((name) => `./styles/${name}.css`))
  .map((file) => `@import "${file}";`);
/**
 * Npm packages that the browser loads only when a page first needs them, by the name of the bundled
 * file.
 */
const LAZY = {
  highlight: "highlight.js/lib/common",
  marked: "marked",
  papaparse: "papaparse",
  uplot: "uplot",
};
const options = {
  absWorkingDir: SOURCE,
  bundle: true,
  loader: { ".md": "text" },
  format: "esm",
  target: "es2022",
  metafile: true,
};
const [target] = process.argv.slice(2);

/** Return the exported names of each module of the console. */
async function namesOf(modules) {
  const given = { entryPoints: modules, external: ["*"], outbase: SOURCE, outdir: "unused" };
  const { metafile } = await build({ ...options, ...given, write: false });
  const outputs = Object.values(metafile.outputs);
  return outputs.map(({ entryPoint, exports }) => [entryPoint, exports]);
}

async function write(name, contents) {
  await mkdir(dirname(join(target, name)), { recursive: true });
  await writeFile(join(target, name), contents);
}

const shared = await namesOf((await Array.fromAsync(glob(SHARED, { cwd: SOURCE }))).sort());
// Two modules may export the same name, so each exported name in the bundle begins with the path of
// its module. This prefix of exported names is a path and not a number, so that the names are the
// same in each release.
const nameInBundle = (module, name) => `${module.replaceAll(/\W/g, "_")}_${name}`;
const lists = shared.map(([module, names]) => {
  const inBundle = names.map((name) => `${name} as ${nameInBundle(module, name)}`);
  return `export { ${inBundle.join(", ")} } from "./${module}";`;
});
const lazy = Object.fromEntries(
  Object.entries(LAZY).map(([file, module]) => [module, `/${file}.js`]),
);
const bundle = (contents, loader) =>
  build({
    ...options,
    stdin: { contents: contents.join("\n"), loader, resolveDir: SOURCE },
    alias: lazy,
    external: Object.values(lazy),
    entryNames: "app",
    minify: true,
    outdir: target,
  });
const built = [
  await bundle(['import "./app.js";', ...lists], "js"),
  await bundle(STYLES, "css"),
  await build({ ...options, entryPoints: LAZY, minify: true, outdir: target }),
];
const inputs = Object.assign({}, ...built.map(({ metafile }) => metafile.inputs));
await write("licenses.txt", await licensesOf({ inputs }, SOURCE));
for (const [module, names] of shared) {
  const inModule = names.map((name) => `${nameInBundle(module, name)} as ${name}`);
  const from = posix.relative(posix.dirname(module), "app.js");
  await write(module, `export { ${inModule.join(", ")} } from "./${from}";\n`);
}
for (const name of ["index.html", "llms.txt", "styles/icon.svg"]) {
  await mkdir(dirname(join(target, name)), { recursive: true });
  await copyFile(join(SOURCE, name), join(target, name));
}
