// Frame of the console. This module starts the console, loads the pages of the installed apps, and
// draws the menu and header around the current page. build.mjs bundles this module with all modules
// that it imports.

import { chooseWorkspace, isManager, problems, session, settings, signOut, start } from "./api.js";
import { question } from "./lib/prompt.js";
import { withTimeout, READ_MS } from "./lib/jobs/client.js";
import { followLinks, match, navigate, currentLocation } from "./lib/router.js";
import { useStore } from "./lib/store.js";
import { nextTheme, theme } from "./lib/theme.js";
import { setTitle } from "./lib/title.js";
import {
  classes,
  html,
  quietButton,
  render,
  useEffect,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "./lib/ui.js";
import { Confirmations } from "./parts/dialog.js";
import { Icon, Logo } from "./parts/icons.js";
import { Incidents } from "./parts/incidents.js";
import { sizeOf, worstTone } from "./parts/problem-lines.js";
import { Shortcuts } from "./parts/shortcuts.js";
import { choice } from "./parts/field.js";
import { Failed, Loading } from "./parts/states-of-view.js";
import * as notFound from "./parts/not-found.js";
import { Toasts } from "./parts/toasts.js";
import * as jobPage from "./views/job.js";
import * as jobs from "./views/jobs.js";
import * as overview from "./views/overview.js";
import * as schedules from "./views/schedules.js";
import { SignIn } from "./views/sign-in.js";
import * as types from "./views/types.js";

const CORE = {
  nav: [
    { path: "/overview", label: "Overview", icon: "pulse" },
    { path: "/jobs", label: "Jobs", icon: "jobs" },
    { path: "/types", label: "Types", icon: "shapes" },
    { path: "/schedules", label: "Schedules", icon: "clock" },
  ],
  routes: [
    { path: "/overview", module: overview },
    { path: "/jobs", module: jobs },
    { path: "/jobs/:id", module: jobPage },
    { path: "/types", module: types },
    { path: "/types/:name", module: types },
    { path: "/schedules", module: schedules },
  ],
};
const NOT_FOUND = { path: "*", module: notFound };

/** Load the manifests of the apps. The page of a route is loaded when a person opens the page. */
async function loadApps() {
  const limit = AbortSignal.timeout(READ_MS);
  const apps = await (await fetch("/apps/index.json", { signal: limit })).json();
  for (const { name, routes } of apps)
    for (const route of routes) route.load = () => import(`/apps/${name}/${route.view}`);
  return apps;
}

const startFailure = (error, what) =>
  html`<main class="sign-in" id="main">
    <h1>Minutehand</h1>
    <${Failed} error=${error} retry=${reload} what=${what} />
  </main>`;

function Console({ apps }) {
  const { status, error, user, workspace, workspaces } = useStore(session);
  if (status === "starting") return html`<${Loading} what="Starting" />`;
  if (status === "failed") return startFailure(error, "Your workspaces could not be read");
  if (status === "out") return html`<${SignIn} />`;
  return html`<${Shell} apps=${apps} user=${user} workspace=${workspace}
    workspaces=${workspaces} />`;
}

const ThemeButton = () =>
  quietButton(`Theme: ${useStore(theme)}`, nextTheme, {
    title: "Switch between system, light and dark",
  });

function firstWorkspaceSql(email) {
  const schema = settings().schema ?? "public";
  return `with made as (insert into ${schema}.workspaces (name) values ('Mine') returning id)
insert into ${schema}.workspace_members (workspace_id, user_id, role)
select made.id, u.id, 'manager' from made, auth.users as u
where u.email = '${email.replaceAll("'", "''")}';`;
}

function Shell({ apps, user, workspace, workspaces }) {
  const { path } = useStore(currentLocation);
  const openQuestion = useStore(question);
  const [menu, setMenu] = useState(false);
  const routes = useMemo(() => [CORE, ...apps].flatMap((section) => section.routes), [apps]);
  const current = match(routes, path) ?? { route: NOT_FOUND, params: {} };
  // close the menu in an effect before painting, because an effect after painting could close a
  // menu that a person has just opened again
  useLayoutEffect(() => setMenu(false), [path]);
  useEffect(() => {
    if (path === "/") navigate("/jobs", { replace: true });
  }, [path]);
  const navOf = (which) => apps.filter((app) => app.menu === which).flatMap((app) => app.nav);
  const queueLinks = [...CORE.nav, ...navOf("main")];
  const appLinks = navOf(undefined);
  const isCurrent = (to) => path === to || path.startsWith(`${to}/`);
  // hide the pages of jobs and queues from users who may see only an app's pages
  const isApp = appLinks.some(({ path: to }) => isCurrent(to));
  return html`<div class="shell">
    <a
      class="skip"
      href="#main"
      onClick=${(event) => {
        event.preventDefault();
        document.getElementById("main")?.focus();
      }}>
      Skip to content
    </a>
    <header class="top">
      <a class="brand" href="/jobs"><${Logo} /><span>Minutehand</span></a>
      <a class="menu-button" href="/jobs?state=attention"><${Alert} noun="job" /></a>
      <button
        type="button"
        class="quiet menu-button"
        aria-expanded=${menu}
        aria-controls="rail"
        onClick=${() => setMenu(!menu)}>
        <${Icon} name="menu" />
        <span>Menu</span>
      </button>
    </header>
    <aside id="rail" class=${classes("rail", menu && "open")} aria-label="Workspace and menu">
      <div class="rail-tools">
        ${
          workspaces.length > 1
            ? choice(
                "Workspace",
                workspace?.id,
                switchTo,
                workspaces.map(({ id, name }) => [id, name]),
                "workspace",
                "hidden",
              )
            : html`<p class="workspace strong">${workspace?.name ?? "No workspace"}</p>`
        }
      </div>
      <nav aria-label="Main">
        ${
          isApp
            ? html`<${Links} nav=${appLinks} isCurrent=${isCurrent} />`
            : html`
              <${Links} nav=${queueLinks} isCurrent=${isCurrent} />
              ${
                appLinks.length > 0 &&
                html`<details>
                  <summary>Apps</summary>
                  <${Links} nav=${appLinks} isCurrent=${isCurrent} />
                </details>`
              }
            `
        }
      </nav>
      <div class="rail-foot">
        ${isApp && isManager() && html`<a class="small" href="/jobs">Jobs and queues</a>`}
        <p class="muted small user" title=${user.email}>${user.email}</p>
        <div class="rail-buttons">
          <${ThemeButton} />
          ${quietButton("Sign out", signOut)}
        </div>
      </div>
    </aside>
    <main id="main" tabindex="-1">
      ${
        workspace &&
        html`<${Incidents} workspace=${workspace} isApp=${isApp} key=${workspace.id} />`
      }
      ${
        workspace
          ? html`<${View}
            route=${current.route}
            params=${current.params}
            workspace=${workspace}
            user=${user}
            apps=${apps}
            key=${`${workspace.id} ${current.route.path} ${JSON.stringify(current.params)}`} />`
          : html`<div class="page">
            <h1 tabindex="-1">No workspace</h1>
            <p class="muted">
              You are signed in as ${user.email}, but belong to no workspace. Ask a manager to add you.
            </p>
            <p
              class="muted">
              The person who deployed the project creates the first workspace in SQL:
            </p>
            <div class="json"><pre>${firstWorkspaceSql(user.email)}</pre></div>
          </div>`
      }
    </main>
    <${Shortcuts} />
    ${openQuestion && html`<${Confirmations} />`}
    <${Toasts} />
  </div>`;
}

/** Number of jobs that need attention, with `noun`. */
function Alert({ noun }) {
  const { attention = [] } = useStore(problems);
  return (
    attention.length > 0 &&
    html`<span class="alert num" data-tone=${worstTone(attention)}>
      ${sizeOf(attention, noun)}<span class="hidden"> need attention</span>
    </span>`
  );
}

const Links = ({ nav, isCurrent }) =>
  html`<ul>
    ${nav.map(
      ({ path: to, label, icon }) => html`<li key=${to}>
        <a href=${to} aria-current=${isCurrent(to) ? "page" : undefined}>
          <${Icon} name=${icon} />
          ${label} ${to === "/jobs" && html`<${Alert} />`}
        </a>
      </li>`,
    )}
  </ul>`;

/**
 * Switch to another workspace and show a list, because the open page shows an object of the old
 * workspace.
 */
function switchTo(id) {
  chooseWorkspace(id);
  navigate(`/${location.pathname.split("/")[1] || "jobs"}`);
}

const LOAD_MS = 15_000;
const UNREACHABLE = new Error("The server cannot be reached.");

/**
 * Return the JavaScript module of a route, or null with the error that prevented loading it. The
 * module of an app is loaded when the user first opens one of its pages. If a module fails to load,
 * the browser does not request the module again, so the person must reload the page.
 */
function useModule(route) {
  const [, draw] = useState({});
  const [failed, setFailed] = useState(null);
  useEffect(() => {
    if (route.module) return;
    withTimeout(route.load, AbortSignal.timeout(LOAD_MS)).then(
      (module) => {
        route.module = module;
        draw({});
      },
      () => setFailed(route),
    );
  }, [route]);
  const isFailed = !route.module && failed === route;
  return { module: route.module ?? null, error: isFailed ? UNREACHABLE : null };
}

/** Draw the page of a route, then move the keyboard focus to the page's heading. */
function View({ route, params, workspace, user, apps }) {
  const { module, error } = useModule(route);
  // subscribe to network events before painting, because the network may return at any moment
  useLayoutEffect(() => {
    if (!error) return undefined;
    addEventListener("online", reload);
    return () => removeEventListener("online", reload);
  }, [error]);
  const box = useRef(null);
  // move the focus in an effect before painting, because an effect after painting could take the
  // focus from an element that the person has just selected
  useLayoutEffect(() => {
    if (!module) return;
    setTitle({ words: [module.title?.(params) ?? "Console", workspace?.name] });
    if (firstView) firstView = false;
    else box.current?.querySelector("h1")?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [module]);
  if (error)
    return html`<div class="page">
      <h1 tabindex="-1">Could not load this page</h1>
      <${Failed}
        error=${error}
        retry=${reload}
        what="This page loads when the network is back" />
    </div>`;
  if (!module) return html`<div class="page"><${Loading} /></div>`;
  return html`<div class="view" ref=${box}>
    <${module.default} ...${params} workspace=${workspace} user=${user} apps=${apps} />
  </div>`;
}

let firstView = true;
const reload = () => location.reload();

async function main(root) {
  followLinks();
  try {
    const [apps] = await Promise.all([loadApps(), start()]);
    root.textContent = "";
    render(html`<${Console} apps=${apps} />`, root);
  } catch (error) {
    root.textContent = "";
    render(startFailure(error, "The console could not start"), root);
  }
}

// an app's own page may import the console's modules, and has no element `app`
const shell = document.getElementById("app");
if (shell) main(shell);
