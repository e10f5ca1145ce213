// Bundles the console: `node infra/console/build.mjs FOLDER` writes the files of the console into
// the folder.
//
// `app.js` contains all modules of the console, and `app.css` all styles. The pages of apps import
// shared names from `app.js`, so that a page needs no further file of the console.
// `licenses.txt` contains the licenses of the bundled npm packages, because the licenses require
// their text in copies.

import { copyFile, glob, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { build } from "esbuild";
import { licensesOf } from "../release/licenses.mjs";

const SOURCE = import.meta.dirname;
/** Modules whose names `app.js` exports to the pages of apps. Each name must be unique. */
const SHARED =
  "{api.js,lib/{format,router,states,store,styles,ui}.js,lib/jobs/{ended,hooks}.js,parts/*.js}";
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
/**
 * Omits the indentation in HTML templates, all text of the concepts but the definitions, and the
 * clients of analytics and vector buckets in supabase-js.
 */
const smaller = {
  name: "smaller",
  setup(bundler) {
    bundler.onLoad({ filter: /\.js$/ }, async ({ path }) =>
      path.includes("node_modules")
        ? undefined
        : {
            contents: (await readFile(path, "utf8"))
              .replace(/\n +(?=<|\$\{)/g, "")
              .replace(/\n +/g, "\n"),
          },
    );
    bundler.onLoad({ filter: /storage-js.*mjs/ }, async ({ path }) => ({
      contents: (await readFile(path, "utf8"))
        .replace(/^import.*/, "")
        .replace(
          /^..#region .*.StorageAnalytics[^]*(?=^..#region .*.StorageClient)/m,
          (clients) => `var ${clients.match(/(?<=^var )\w+/gm)};\n`,
        ),
    }));
    bundler.onLoad({ filter: /\.md$/ }, async ({ path }) => ({
      contents: (await readFile(path, "utf8")).match(/^- An? .*$/gm).join("\n"),
      loader: "text",
    }));
  },
};
const [target] = process.argv.slice(2);
const options = {
  absWorkingDir: SOURCE,
  bundle: true,
  format: "esm",
  target: "es2022",
  metafile: true,
  minify: true,
  outdir: target,
  plugins: [smaller],
};
const lazy = Object.fromEntries(
  Object.entries(LAZY).map(([file, module]) => [module, `/${file}.js`]),
);
const modules = ["app.js", ...(await Array.fromAsync(glob(SHARED, { cwd: SOURCE }))).sort()];
const bundle = (lines, loader) =>
  build({
    ...options,
    stdin: { contents: lines.join("\n"), loader, resolveDir: SOURCE },
    alias: lazy,
    external: Object.values(lazy),
    entryNames: "app",
  });
const built = [
  await bundle(
    modules.map((module) => `export * from "./${module}";`),
    "js",
  ),
  await bundle(STYLES, "css"),
  await build({ ...options, entryPoints: LAZY }),
];
const inputs = Object.assign({}, ...built.map(({ metafile }) => metafile.inputs));
await mkdir(join(target, "styles"), { recursive: true });
await writeFile(join(target, "licenses.txt"), await licensesOf({ inputs }, SOURCE));
for (const name of ["index.html", "llms.txt", "styles/icon.svg"])
  await copyFile(join(SOURCE, name), join(target, name));
