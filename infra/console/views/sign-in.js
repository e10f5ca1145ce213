// The way in: Supabase Auth by password or a mailed link, and the demo accounts on a developer's
// machine.

import { choosePassword, session, settings, signIn } from "../api.js";
import { useStore } from "../lib/store.js";
import { html, useState } from "../lib/ui.js";
import { useForm } from "../parts/dialog-form.js";
import { field } from "../parts/field.js";
import { Logo } from "../parts/icons.js";

/** @import { User } from "../api.js" */

export function SignIn() {
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const { problem, busy, submit } = useForm(() => signIn(email, password));
  const { reason } = useStore(session);
  const demo = settings().demoAccounts ?? [];
  return html`<main class="sign-in" id="main">
    <h1><${Logo} /> Minutehand</h1>
    <p class="muted">See and steer your background jobs.</p>
    ${reason && html`<p class="notice stale" role="status">${reason}</p>`}
    ${
      demo.length > 0 &&
      html`<section class="card" aria-labelledby="demo-heading">
        <h2 id="demo-heading">Demo accounts</h2>
        <p class="muted small">This is a local stack: one click signs in.</p>
        <div class="demo">
          ${demo.map(
            (account) => html`<button
              type="button"
              key=${account.email}
              disabled=${busy}
              onClick=${(/** @type {any} */ event) => submit(event, () => signIn(account.email, account.password))}>
              <span>${account.label}</span>
              <span class="muted small">${account.email}</span>
            </button>`,
          )}
        </div>
      </section>`
    }
    <form class="card stack" onSubmit=${submit}>
      ${field("Email", email, setEmail, { type: "email", autocomplete: "username", required: true })}
      ${field("Password", password, setPassword, { type: "password", autocomplete: "current-password", required: true })}
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <button type="submit" class="primary" disabled=${busy}>
        ${busy ? "Signing in…" : "Sign in"}
      </button>
    </form>
  </main>`;
}

/**
 * For who came by the link of an invitation: the account has no password yet.
 *
 * @param {{user: User}} props
 */
export function ChoosePassword({ user }) {
  const [password, setPassword] = useState("");
  const { problem, busy, submit } = useForm(() => choosePassword(password));
  return html`<main class="sign-in" id="main">
    <h1><${Logo} /> Minutehand</h1>
    <p class="muted">You are signed in as ${user.email}. Choose a password for the next time.</p>
    <form class="card stack" onSubmit=${submit}>
      <input type="hidden" autocomplete="username" value=${user.email} />
      ${field("New password", password, setPassword, { type: "password", autocomplete: "new-password", required: true, minlength: 8, autofocus: true })}
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <button type="submit" class="primary" disabled=${busy}>
        ${busy ? "Saving…" : "Save and continue"}
      </button>
    </form>
  </main>`;
}
