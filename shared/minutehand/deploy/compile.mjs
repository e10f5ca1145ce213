// Byte code for Lambda's Python 3.13, compiled by CPython 3.13 itself (pyodide) on any machine.
// usage: node compile.mjs <minor version> <bytecode.py> <folder> …; prints what compiled it as JSON.
import { readFile } from "node:fs/promises";

import { loadPyodide } from "pyodide";

const [expected, program, ...folders] = process.argv.slice(2);
const python = await loadPyodide();
const trees = folders.map((folder, number) => {
  const tree = `/trees/${number}`;
  python.FS.mkdirTree(tree);
  python.mountNodeFS(tree, folder);
  return tree;
});
python.globals.set("expected", expected);
python.globals.set("trees", python.toPy(trees));
python.runPython(await readFile(program, "utf8"));
const report = python.runPython(`
import importlib.util, json, platform, sys

minor = f"{sys.version_info.major}.{sys.version_info.minor}"
if minor != expected:
    raise SystemExit(f"pyodide is Python {minor}, the functions run on {expected}: pin another pyodide")
compile_trees(map(Path, trees))
json.dumps({"python": platform.python_version(), "magic": importlib.util.MAGIC_NUMBER.hex()})
`);
console.log(report);
