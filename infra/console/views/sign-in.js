// Sign-in page. A person signs in to Supabase Auth by password. On a developer's machine, buttons
// sign in as demo accounts.

import { session, settings, signIn } from "../api.js";
import { useStore } from "../lib/store.js";
import { setTitle } from "../lib/title.js";
import { html, useLayoutEffect, useState } from "../lib/ui.js";
import { useForm } from "../parts/dialog.js";
import { field } from "../parts/field.js";
import { Logo } from "../parts/icons.js";

export function SignIn() {
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const { problem, busy, submit } = useForm(() => signIn(email, password));
  const { reason } = useStore(session);
  const demo = settings().demoAccounts ?? [];
  // the next user must not see the name of a job or workspace
  useLayoutEffect(() => setTitle({ words: [] }), []);
  return html`<main class="sign-in" id="main">
    <h1><${Logo} /> Minutehand</h1>
    <p class="muted">See and control your background jobs.</p>
    ${reason && html`<p class="notice stale" role="status">${reason}</p>`}
    ${
      demo.length > 0 &&
      html`<section class="card" aria-labelledby="demo-heading">
        <h2 id="demo-heading">Demo accounts</h2>
        <p class="muted small">This is a local stack. One click signs you in.</p>
        <div class="demo">
          ${demo.map(
            (account) => html`<button
              type="button"
              key=${account.email}
              disabled=${busy}
              onClick=${(event) => submit(event, () => signIn(account.email, account.password))}>
              ${account.label} <span class="muted small">${account.email}</span>
            </button>`,
          )}
        </div>
      </section>`
    }
    <form class="card stack" onSubmit=${submit}>
      ${field("Email", email, setEmail, {
        type: "email",
        autocomplete: "username",
        required: true,
      })}
      ${field("Password", password, setPassword, {
        type: "password",
        autocomplete: "current-password",
        required: true,
      })}
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <button type="submit" class="primary" disabled=${busy}>
        ${busy ? "Signing in…" : "Sign in"}
      </button>
    </form>
  </main>`;
}
