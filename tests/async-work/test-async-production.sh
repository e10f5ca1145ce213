#!/usr/bin/env bash
# Tests the chat's background work over HTTP. It reads status and events, answers a question, and cancels.
# API_BASE=https://your-production-url.com ./tests/async-work/test-async-production.sh
# If the address needs a key, set API_KEY, which is sent as a bearer token.
set -euo pipefail

API_BASE=${API_BASE:-http://localhost:8000}
SESSION_ID=${SESSION_ID:-"test_$(date +%s)_$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')"}
WAIT_SECONDS=${WAIT_SECONDS:-60}
failed=0

call() { # METHOD PATH [BODY]
  curl --silent --show-error --max-time "${MOST_SECONDS:-90}" --request "$1" "$API_BASE$2" \
    --header "Content-Type: application/json" --header "x-session-id: $SESSION_ID" \
    ${API_KEY:+--header "Authorization: Bearer $API_KEY"} ${3:+--data "$3"}
}

say() { call POST /api/chat "{\"messages\": [{\"role\": \"user\", \"content\": \"$1\"}]}"; }

check() { # NAME VALUE FILTER
  if jq --exit-status "$3" <<<"$2" >/dev/null; then
    echo "ok    $1"
  else
    echo "FAIL  $1: $2"
    failed=1
  fi
}

wait_for() { # FILTER of the session's status. Prints the last status.
  local status='' end=$((SECONDS + WAIT_SECONDS))
  while [ $SECONDS -lt $end ]; do
    status=$(call GET "/api/async-status?sessionId=$SESSION_ID")
    jq --exit-status "$1" <<<"$status" >/dev/null && break
    sleep 0.5
  done
  echo "$status"
}

echo "session $SESSION_ID at $API_BASE"
check "a simple message is answered" "$(say 'Hello')" '.reply != null and .work == []'

page='Research the latest AI trends and build me an interactive dashboard to visualize them'
begun=$(say "$page")
check "a complex one becomes work" "$begun" '.work[0].id | startswith("work_")'
status=$(wait_for '.pendingQuestions != [] or .endedWork != []')
check "its status has the work" "$status" '(.activeWork + .endedWork)[0].type != null and .queueStatus.queued >= 0'

messages=$(call GET "/api/async-messages?sessionId=$SESSION_ID")
question=$(jq --raw-output '.pendingQuestions[0].id // empty' <<<"$messages")
if [ -n "$question" ]; then # a model does not always ask a question
  answer="{\"messageId\": \"$question\", \"sessionId\": \"$SESSION_ID\", \"content\": \"Use a blue and white color scheme\"}"
  check "a question is answered" "$(call POST /api/async-messages "$answer")" '.success'
fi
status=$(wait_for '.endedWork != []')
check "the work ends in a result" "$status" '.endedWork[0].status == "completed" and .endedWork[0].result.text != null'

events=$(MOST_SECONDS=3 call GET "/api/async-events?sessionId=$SESSION_ID" 2>/dev/null || true) # stop after three seconds, because the stream has no end
for type in connected work_started work_progress work_completed; do
  check "the stream has $type" "$(sed -n 's/^data: //p' <<<"$events" | jq --slurp .)" "any(.[]; .type == \"$type\")"
done

work=$(say "$page" | jq --raw-output '.work[0].id')
check "work is cancelled by its id" "$(call POST /api/async-cancel "{\"workId\": \"$work\"}")" \
  ".success and .cancelled == [\"$work\"] and .message == \"Work cancelled successfully\""
say "$page" >/dev/null
check "all of a session is cancelled" \
  "$(call POST /api/async-cancel "{\"sessionId\": \"$SESSION_ID\", \"cancelAll\": true}")" '.success'
check "nothing is left" "$(wait_for '.activeWork == []')" '.activeWork == []'

[ $failed = 0 ] && echo "all passed"
exit $failed
