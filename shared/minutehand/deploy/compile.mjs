// Byte code for Lambda's Python 3.13, compiled by CPython 3.13 itself (pyodide) on any machine.
// usage: node compile.mjs <folder> <expected minor version>; prints what it compiled as JSON.
import { loadPyodide } from "pyodide";

const [folder, expected] = process.argv.slice(2);
const python = await loadPyodide();
python.FS.mkdir("/task");
python.mountNodeFS("/task", folder);
python.globals.set("expected", expected);
const report = python.runPython(`
import compileall, importlib.util, json, platform, py_compile, sys

minor = f"{sys.version_info.major}.{sys.version_info.minor}"
if minor != expected:
    raise SystemExit(f"pyodide is Python {minor}, the functions run on {expected}: pin another pyodide")
ok = compileall.compile_dir(
    "/task",
    quiet=1,
    force=True,
    stripdir="/task",
    prependdir="/var/task",
    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
)
json.dumps({"ok": bool(ok), "python": platform.python_version(), "magic": importlib.util.MAGIC_NUMBER.hex()})
`);
console.log(report);
process.exit(JSON.parse(report).ok ? 0 : 1);
