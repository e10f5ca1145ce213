// Collects the license texts of the npm packages in a bundle, because the licenses require their
// text in copies.

import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

const PACKAGE = /^.*node_modules\/(@[^/]+\/)?[^/]+/;

/**
 * Return the license texts of the packages in a bundle. `inputs` comes from esbuild's metafile,
 * whose paths are relative to `folder`.
 */
export async function licensesOf({ inputs }, folder) {
  const packages = new Set(Object.keys(inputs).flatMap((path) => PACKAGE.exec(path)?.[0] ?? []));
  const texts = [...packages].sort().map(async (path) => {
    const name = path.split("node_modules/").at(-1);
    const files = await readdir(join(folder, path));
    const file = files.find((each) => /^licen[cs]e/i.test(each));
    return `${name}\n\n${file ? await readFile(join(folder, path, file), "utf8") : ""}`;
  });
  return (await Promise.all(texts)).join("\n\n");
}
