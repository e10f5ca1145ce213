"""The console behind CloudFront: which path is which file, and what a browser is told with it."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from minutehand.app import App, find_apps
from minutehand.deploy.bundles import PackagingError
from minutehand.deploy.console import (
    CONTENT_TYPES,
    NEVER_KEPT_FILES,
    console_assets,
    forget,
    main,
    upload,
)
from minutehand.functions.host import is_api
from minutehand.local.lambda_functions import local_site
from minutehand.node import node_binary
from minutehand.project import Project
from supabase_local.http import Request, ask
from tests.artefact.stack import Stack, flat
from tests.support.paths import ROOT

CONFIG = {"supabaseUrl": "https://x.supabase.co", "supabaseKey": "sb_publishable_x", "stage": "t"}

RUN = """
const { readFileSync } = require("node:fs");
const { code, requests } = JSON.parse(readFileSync(0, "utf8"));
const handler = new Function(`${code}; return handler;`)();
const answers = requests.map((request) => handler({ version: "1.0", request }));
process.stdout.write(JSON.stringify(answers));
"""


@pytest.fixture(scope="module")
def assets() -> dict[str, Any]:
    return dict(console_assets(CONFIG, find_apps(Project.find().apps)))


def rewritten(stack: Stack, paths: list[str]) -> dict[str, str]:
    """What the compiled CloudFront Function makes of each path, run in Node."""
    code = stack.one("AWS::CloudFront::Function")["FunctionCode"]
    requests = [{"method": "GET", "uri": path, "querystring": {}} for path in paths]
    done = subprocess.run(
        [str(node_binary()), "-e", RUN],
        input=json.dumps({"code": code, "requests": requests}),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {
        path: answer["uri"] for path, answer in zip(paths, json.loads(done.stdout), strict=True)
    }


def routes_of_the_console() -> list[str]:
    """Every path its router knows, with an id in the place of a parameter."""
    console = ROOT / "infra" / "console"
    sources = [console / "app.js", *ROOT.glob("shared/minutehand_apps/*/console/manifest.js")]
    found = {
        path
        for source in sources
        for path in re.findall(r'path: "(/[^"]*)", load:', source.read_text("utf-8"))
    }
    return sorted(
        re.sub(r":\w+", "019a9f10-7e2c-7d31-9c52-0d6d5f5b7c11", path) for path in found if path
    )


def test_every_path_of_the_router_is_its_one_page(compiled: Stack) -> None:
    """A link to a job works when it is opened first."""
    paths = ["/", "/jobs/", *routes_of_the_console()]

    assert {"/workspace/settings/api", "/accounts"} <= set(paths)
    assert rewritten(compiled, paths) == dict.fromkeys(paths, "/index.html")


def test_a_file_stays_itself_so_that_a_missing_one_is_no_page(
    compiled: Stack, assets: dict[str, Any]
) -> None:
    """HTML in the place of a module is an error that names the wrong thing."""
    paths = [*(f"/{key}" for key in assets), "/parts/gone.js", "/vendor/gone", "/vendor/x/y.css"]

    assert rewritten(compiled, paths) == {path: path for path in paths}


def test_what_the_api_answers_is_never_a_page(compiled: Stack) -> None:
    """Its paths go to it; what is only nearly its path is a 404 of the bucket."""
    config = compiled.one("AWS::CloudFront::Distribution")["DistributionConfig"]
    behaviours = [behaviour["PathPattern"] for behaviour in config["CacheBehaviors"]]
    nearly = ["/api", "/api/", "/health/", "/health/live"]

    for path in ("/api/jobs/1", "/health"):
        assert is_api(path)
        assert any(fnmatchcase(path, pattern) for pattern in behaviours), path
    assert all("FunctionAssociations" not in b for b in config["CacheBehaviors"])
    assert "CustomErrorResponses" not in config
    assert rewritten(compiled, nearly) == {path: path for path in nearly}


async def test_the_local_site_sends_paths_where_cloudfront_does(
    compiled: Stack, assets: dict[str, Any]
) -> None:
    """A deep link that works here must work there."""
    url, key = CONFIG["supabaseUrl"], CONFIG["supabaseKey"]
    site = local_site({"SUPABASE_URL": url, "SUPABASE_PUBLISHABLE_KEY": key})
    paths = [*routes_of_the_console(), "/app.js", "/parts/gone.js", "/vendor/gone.js"]

    there = rewritten(compiled, paths)
    for path in paths:
        here = await ask(site, Request("GET", path))
        key = there[path].removeprefix("/")
        assert (here.status == 200) is (key in assets), path
        if here.status == 200:
            assert here.body == assets[key].body, path


def test_the_function_is_one_that_cloudfront_takes(compiled: Stack) -> None:
    """10 KB at most; no import, no network, no clock."""
    function = compiled.one("AWS::CloudFront::Function")
    config = compiled.one("AWS::CloudFront::Distribution")["DistributionConfig"]

    assert len(function["FunctionCode"].encode()) < 10_000
    assert function["FunctionConfig"]["Runtime"] == "cloudfront-js-2.0"
    assert function["AutoPublish"] is True
    assert len(function["Name"]) <= 64
    assert not re.search(r"\b(import|require|fetch|eval)\b\s*\(", function["FunctionCode"])
    [association] = config["DefaultCacheBehavior"]["FunctionAssociations"]
    assert association["EventType"] == "viewer-request"
    assert flat(association["FunctionARN"]) == "<ConsolePages.FunctionARN>"


def test_a_missing_file_is_a_404_and_names_nothing(compiled: Stack) -> None:
    """Without the right to list, S3 answers 403; a listing itself is behind no path."""
    config = compiled.one("AWS::CloudFront::Distribution")["DistributionConfig"]
    policy = compiled.resources["ConsoleByCloudFrontOnly"]["Properties"]["PolicyDocument"]
    allowed = {
        (statement["Action"], flat(statement["Resource"]), flat(statement["Condition"]))
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
    }
    distribution = "arn:aws:cloudfront::${AWS::AccountId}:distribution/${Console}"
    ours = json.dumps({"StringEquals": json.dumps({"aws:SourceArn": distribution})})

    assert allowed == {
        ("s3:GetObject", "${ConsoleBucket.Arn}/*", ours),
        ("s3:ListBucket", "<ConsoleBucket.Arn>", ours),
    }
    assert config["DefaultRootObject"] == "index.html"


def test_the_policy_lets_the_page_reach_supabase_its_api_and_its_uploads(compiled: Stack) -> None:
    """And no other bucket: data could leave through anybody's."""
    headers = compiled.one("AWS::CloudFront::ResponseHeadersPolicy")["ResponseHeadersPolicyConfig"]
    security = headers["SecurityHeadersConfig"]
    text = security["ContentSecurityPolicy"]["ContentSecurityPolicy"]["Fn::Sub"]
    policy = dict(part.strip().split(" ", 1) for part in text.split(";"))
    bucket = f"minutehand-{compiled.stage}-uploads-${{AWS::AccountId}}-us-east-1"

    assert policy["connect-src"].split() == [
        "'self'",
        "https://<project-ref>.supabase.co",
        "wss://<project-ref>.supabase.co",
        f"https://{bucket}.s3.${{AWS::Region}}.${{AWS::URLSuffix}}",
        f"https://{bucket}.s3.${{AWS::URLSuffix}}",
    ]
    # videos are played from where they were uploaded to
    buckets = policy["connect-src"].split()[-2:]
    assert policy["media-src"].split() == ["'self'", *buckets]
    assert policy["img-src"].split() == ["'self'", "data:", *buckets]
    assert flat(compiled.resources["UploadsBucket"]["Properties"]["BucketName"]) == bucket
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert security["StrictTransportSecurity"]["AccessControlMaxAgeSec"] >= 31536000
    assert {"ContentTypeOptions", "FrameOptions", "ReferrerPolicy"} <= set(security)


#: Types are named in comments, and no browser loads them.
COMMENT = re.compile(r"/\*\*.*?\*/", re.DOTALL)
STATIC_IMPORTS = re.compile(r'^(?:import|export)\b[^;]*?from "([^"]+)"', re.MULTILINE)
IMPORTS = re.compile(
    r'^(?:import|export)\b[^;]*?from "([^"]+)"|import\("([^"]+)"\)|"(/vendor/[^"]+)"', re.MULTILINE
)


def test_the_page_loads_nothing_that_is_not_uploaded(assets: dict[str, Any]) -> None:
    """Every script and style of the page, every import of a module, every app's manifest."""
    page = assets["index.html"].body.decode()
    wanted = {path.lstrip("/") for path in re.findall(r'(?:src|href)="(/[^"]+)"', page)}
    for key, asset in assets.items():
        if key.endswith(".js") and not key.startswith("vendor/"):
            for found in IMPORTS.finditer(COMMENT.sub("", asset.body.decode())):
                [path] = [path for path in found.groups() if path]
                folder = ROOT.joinpath(key).parent if path.startswith(".") else ROOT
                target = folder.joinpath(path.lstrip("/")).resolve()
                wanted.add(target.relative_to(ROOT).as_posix())
    for app in json.loads(assets["apps/index.json"].body):
        wanted.add(f"apps/{app}/manifest.js")

    assert len(wanted) > 30
    # for elements in an app with a bundler; the page has supabase-js as a script
    assert wanted - set(assets) == {"@supabase/supabase-js"}


def test_the_first_view_is_preloaded_whole_and_small(assets: dict[str, Any]) -> None:
    """Modules that import each other would else be found one round trip after the other.

    At 50 kB a second the page is painted, with its styles, within half a second, and its modules
    take under three; these budgets are of what travels, compressed.
    """
    page = assets["index.html"].body.decode()
    preloaded = set(re.findall(r'rel="modulepreload" href="/([^"]+)"', page))
    wanted, todo = set(), ["app.js", "views/jobs.js"]
    while todo:
        key = todo.pop()
        if key in wanted:
            continue
        wanted.add(key)
        if key.startswith("vendor/"):
            continue
        for found in STATIC_IMPORTS.finditer(assets[key].body.decode()):
            path = found[1]
            folder = ROOT.joinpath(key).parent if path.startswith(".") else ROOT
            target = folder.joinpath(path.lstrip("/")).resolve()
            todo.append(target.relative_to(ROOT).as_posix())
    styles = re.findall(r'rel="stylesheet" href="/([^"]+)"', page)
    scripts = re.findall(r'<script defer src="/([^"]+)"', page)

    def travels(keys: Iterable[str]) -> int:
        return sum(len(gzip.compress(assets[key].body)) for key in keys)

    assert preloaded == wanted
    assert travels(["index.html", *styles]) < 16_000
    assert travels([*preloaded, *scripts]) < 150_000


def test_only_what_a_browser_needs_is_uploaded(assets: dict[str, Any]) -> None:
    """No pictures for the README, no checksums, no source for people."""
    assert not [key for key in assets if key.endswith((".md", ".map"))]
    assert not [key for key in assets if key.startswith("screenshots/")]
    assert "vendor.json" not in assets
    assert all(Path(key).suffix in CONTENT_TYPES for key in assets)
    assert sum(len(asset.body) for asset in assets.values()) < 1_500_000


def test_a_deploy_is_seen_at_the_next_load(assets: dict[str, Any]) -> None:
    """File names carry no hash: a browser that kept one would mix two versions of the console."""
    for key, asset in assets.items():
        if key in NEVER_KEPT_FILES:
            assert asset.cache_control == "no-store", key
        else:
            assert "max-age=0, must-revalidate" in asset.cache_control, key
            assert "immutable" not in asset.cache_control, key


def test_each_file_is_served_as_what_it_is_and_asked_for_each_time(
    assets: dict[str, Any],
) -> None:
    """With `nosniff` a browser accepts no other type; an edge may keep all but the way back."""
    types = {
        "css": "text/css; charset=utf-8",
        "html": "text/html; charset=utf-8",
        "ico": "image/x-icon",
        "js": "text/javascript; charset=utf-8",
        "json": "application/json",
        "mp4": "video/mp4",
        "png": "image/png",
        "svg": "image/svg+xml",
        "txt": "text/plain; charset=utf-8",
        "webmanifest": "application/manifest+json",
        "woff2": "font/woff2",
    }
    assert {f".{suffix}": kind for suffix, kind in types.items()} == dict(CONTENT_TYPES)
    for key, asset in assets.items():
        assert asset.content_type == types[key.rpartition(".")[2]], key
        kept = "public, max-age=0, must-revalidate, s-maxage=86400"
        never = key in ("config.json", "index.html")
        assert asset.cache_control == ("no-store" if never else kept), key
    assert json.loads(assets["config.json"].body) == CONFIG
    left_out = ("npm", "screenshots", "tsconfig.json", "vendor.json", "README.md", "DECISIONS.md")
    assert not [key for key in assets if key.split("/")[0] in left_out or key.endswith(".ts")]


class PlacedApp(App):
    """An app in a folder that is not imported."""

    def __init__(self, folder: Path, files: Iterable[str]) -> None:
        super().__init__(f"acme.{folder.name}")
        self.__dict__["folder"] = folder
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)


def test_an_apps_pages_lie_below_its_name(tmp_path: Path) -> None:
    """Those for browsers; an app without any is in no list. A file of no known type is refused."""
    pages = ("console/manifest.js", "console/deep/a.css", "console/types.d.ts", "other/a.js")
    apps = [
        PlacedApp(tmp_path / "shop", pages),
        PlacedApp(tmp_path / "bare", ["processors.py"]),
        PlacedApp(tmp_path / "types", ["console/a.ts"]),
    ]

    found = console_assets({}, apps)

    assert {key for key in found if key.startswith("apps/")} == {
        "apps/index.json", "apps/shop/manifest.js", "apps/shop/deep/a.css",
    }  # fmt: skip
    assert json.loads(found["apps/index.json"].body) == ["shop"]
    assert found["apps/shop/deep/a.css"].body == b"console/deep/a.css"
    with pytest.raises(PackagingError, match=r"apps/odd/a\.exe: no content type is known"):
        console_assets({}, [PlacedApp(tmp_path / "odd", ["console/a.exe"])])


@pytest.mark.parametrize("body", [None, "altered"])
def test_a_vendored_file_is_the_one_that_was_reviewed(
    body: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that was changed on its way, or is not there, goes to no browser."""
    vendored = json.loads((ROOT / "infra" / "console" / "vendor.json").read_text())["files"]
    name = min(vendored)
    monkeypatch.setattr("minutehand.deploy.console.node_home", lambda: tmp_path)
    if body is not None:
        (tmp_path / "node_modules" / name).parent.mkdir(parents=True)
        (tmp_path / "node_modules" / name).write_text(body)

    with pytest.raises(PackagingError, match=f"^{re.escape(name)} is not what .* `make setup`"):
        console_assets({}, [])


class RecordedAws:
    """S3 and CloudFront, as far as what they were asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def put_object(self, **asked: Any) -> None:
        """Take a file."""
        self.asked.append(asked)

    def create_invalidation(self, **asked: Any) -> None:
        """Forget."""
        self.asked.append(asked)


def test_the_page_is_uploaded_after_what_it_needs(assets: dict[str, Any]) -> None:
    """A visitor of that moment finds every module; then the edges forget all they keep."""
    aws = RecordedAws()

    upload(aws, "bucket", assets)

    keys = [asked["Key"] for asked in aws.asked]
    assert keys == [*sorted(set(assets) - NEVER_KEPT_FILES), "config.json", "index.html"]
    assert aws.asked[-1] == {
        "Bucket": "bucket",
        "Key": "index.html",
        "Body": assets["index.html"].body,
        "ContentType": "text/html; charset=utf-8",
        "CacheControl": "no-store",
    }
    aws.asked.clear()
    for _ in range(2):
        forget(aws, "E1")
    callers = [asked["InvalidationBatch"].pop("CallerReference") for asked in aws.asked]
    paths = {"InvalidationBatch": {"Paths": {"Quantity": 1, "Items": ["/*"]}}}
    assert aws.asked == [{"DistributionId": "E1", **paths}] * 2
    assert len(set(callers)) == 2, "AWS takes one it knows for a repetition"


def test_a_server_of_static_files_gets_all_but_the_configuration(
    tmp_path: Path, assets: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """That is its own to answer."""
    assert (main([]), main(["a", "b"])) == (2, 2)
    assert "usage" in capsys.readouterr().err

    assert main([str(tmp_path)]) == 0

    written = {
        path.relative_to(tmp_path).as_posix(): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert written == {key: each.body for key, each in assets.items() if key != "config.json"}
    assert capsys.readouterr().out == f"{len(written)} files\n"
