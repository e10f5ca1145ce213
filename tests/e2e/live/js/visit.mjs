// A visitor without a user: {url, key, session} as argument. Prints {"freshness", "told", "jobs",
// "missing"} whenever it changes, until it is killed.
import { createClient } from '@supabase/supabase-js'
import { watchSession } from '../../../../infra/console/lib/jobs.js'

const { url, key, session, options } = JSON.parse(process.argv[2])
const client = createClient(url, key, { auth: { persistSession: false, autoRefreshToken: false } })
const told = []
let said = ''
const watch = watchSession(client, session, {
  history: true,
  onEvent: (event) => told.push([event.job_id, event.seq, event.type]),
  onChange: ({ freshness, jobs, missing }) => {
    const rows = jobs.map(({ id, status, result, payload }) => ({ id, status, result, payload }))
    const state = JSON.stringify({ freshness, told, jobs: rows, missing })
    if (state !== said) process.stdout.write((said = state) + '\n')
  },
  ...options,
})
setInterval(() => watch, 60_000)
