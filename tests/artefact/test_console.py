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

from minutehand.app import find_apps
from minutehand.deploy.console import CONTENT_TYPES, NEVER_KEPT_FILES, console_assets
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
