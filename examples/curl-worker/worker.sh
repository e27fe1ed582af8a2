#!/bin/sh
# A worker that is its own agent: it claims an attempt, runs its command and reports the result with nothing but a
# shell, curl and jq. Use it as the entry point of an image that is to run without dayfly-agent, or as the description
# of the protocol that can be run.
#
# A provider sets DAYFLY_AGENT_URL, DAYFLY_AGENT_ATTEMPT and DAYFLY_AGENT_TOKEN. The command runs in the current
# directory. The exit code is 0 when the server has accepted the result, whatever that was, and 75 when it refused the
# attempt: then nothing runs here any more.
#
# Beside sh, curl and jq it needs setsid, sha256sum, and /proc/uptime as a clock that nobody sets and no suspend stops.
set -eu

url=${DAYFLY_AGENT_URL%/}
attempt=$DAYFLY_AGENT_ATTEMPT
scratch=$(mktemp -d)
command= # the process id of the command, which is also the id of its process group, while it runs
trap 'rm -rf "$scratch"' EXIT
trap 'kill_command; exit 75' TERM INT

now() { cut -d. -f1 /proc/uptime; }
heard=$(now)    # when the server last answered
orphan_after=600 # how long to go on without an answer, in seconds

kill_command() { [ -z "$command" ] || kill -KILL "-$command" 2>/dev/null || true; }

# refused gives the attempt up: it is not, or no longer, ours.
refused() {
	echo "worker: $1" >&2
	kill_command
	exit 75
}

# token makes all later calls carry this token. It is in a file so that it does not show in a list of processes.
token() { (umask 077 && printf 'Authorization: Bearer %s\n' "$1" >"$scratch/token"); }

# call PATH BODYFILE [TYPE] posts once. It leaves the answer in $scratch/answer and the HTTP status in $status; 000 is none.
call() {
	status=$(curl -sS --max-time 60 -H @"$scratch/token" -H "Content-Type: ${3:-application/json}" \
		--data-binary @"$2" -o "$scratch/answer" -w '%{http_code}' "$url/agent/v1/$1" 2>/dev/null) || status=000
	case $status in
	2??) heard=$(now) ;;
	401 | 403 | 404) refused "the server answered $status" ;;
	409) [ "$(problem)" = conflict ] || refused "the server answered $(problem)" ;;
	*) [ $(($(now) - heard)) -le "$orphan_after" ] || refused "the server has been silent for too long" ;;
	esac
}
problem() { jq -r '.code // ""' "$scratch/answer" 2>/dev/null || true; }

# persist PATH BODYFILE posts until the server has answered. It fails when the server will never take this call.
persist() {
	delay=1
	while call "$1" "$2"; do
		case $status in
		2??) return 0 ;;
		4?? | 3??) case $status in 408 | 429) ;; *) return 1 ;; esac ;;
		esac
		sleep "$delay"
		[ "$delay" -ge 5 ] || delay=$((delay + 1)) # an agent adds jitter here
	done
}

# assigned FILTER prints a part of the assignment.
assigned() { jq -r "$1" "$scratch/assignment"; }

# size FILE prints its length in bytes.
size() { wc -c <"$1" | tr -d ' '; }

# ship STREAM sends what the command has printed since the last time, as far as the server takes it.
ship() {
	while :; do
		eval "offset=\$stored_$1"
		[ "$offset" -lt "$(size "$scratch/$1")" ] || return 0
		tail -c "+$((offset + 1))" "$scratch/$1" | head -c 262144 >"$scratch/chunk"
		call "attempts/$attempt/logs?stream=$1&offset=$offset" "$scratch/chunk" application/octet-stream
		case $status in
		2??) eval "stored_$1=$(jq .stored "$scratch/answer")" ;;
		*) return 1 ;; # later
		esac
	done
}

# beat says that the attempt lives, and notes an order to stop.
beat() {
	printf '{"phase":"%s","wait_ms":0}' "$1" >"$scratch/beat"
	call "attempts/$attempt/heartbeat" "$scratch/beat"
	if [ "$status" = 200 ] && [ "$(jq -r '.order // ""' "$scratch/answer")" = stop ]; then
		stop "$(jq -r '.reason // "canceled"' "$scratch/answer")"
	fi
}

# stop OUTCOME tells the command to end, and makes sure that it does when its grace is over.
stop() {
	[ -z "$stopped" ] || return 0
	stopped=$1
	kill_at=$(($(now) + ($(assigned .kill_grace_ms) + 999) / 1000))
	kill -TERM "-$command" 2>/dev/null || true
}

# fetch brings the inputs into the current directory and checks that they are what was uploaded.
fetch() {
	assigned '.inputs[]? | [.sha256, .url, .name] | @tsv' >"$scratch/inputs"
	while IFS="$(printf '\t')" read -r sha256 from name; do
		case $name in */*) mkdir -p "${name%/*}" ;; esac
		curl -fsS --retry 5 --retry-connrefused -o "$name" "$from" || return 1
		printf '%s  %s\n' "$sha256" "$name" | sha256sum -c >/dev/null || return 1
	done <"$scratch/inputs"
}

# upload stores the files that match the output patterns. A shell knows * and ?, but not **.
upload() {
	: >"$scratch/artifacts"
	for name in $(assigned '.outputs[]?'); do
		[ -f "$name" ] || continue
		jq -n --arg name "$name" --argjson size "$(size "$name")" '{artifacts: [{name: $name, size: $size}]}' >"$scratch/want"
		persist "attempts/$attempt/artifacts" "$scratch/want" || return 1
		place=$(jq -c '.uploads[0]' "$scratch/answer")
		printf '%s' "$place" | jq -r '.headers // {} | to_entries[] | "\(.key): \(.value)"' >"$scratch/headers"
		curl -fsS --retry 5 --retry-connrefused -X "$(printf '%s' "$place" | jq -r .method)" -H @"$scratch/headers" -T "$name" \
			-o /dev/null "$(printf '%s' "$place" | jq -r .url)" || return 1
		jq -n --arg name "$name" --argjson size "$(size "$name")" --arg sha256 "$(sha256sum <"$name" | cut -d' ' -f1)" \
			'{name: $name, size: $size, sha256: $sha256}' >>"$scratch/artifacts"
	done
}

# report OUTCOME REASON MESSAGE EXIT tells how it ended. EXIT is JSON, or null if there is none.
report() {
	[ -s "$scratch/result.json" ] && jq . "$scratch/result.json" >"$scratch/value" 2>/dev/null || echo null >"$scratch/value"
	jq -n --arg outcome "$1" --arg reason "$2" --arg message "$3" --argjson exit "$4" --slurpfile value "$scratch/value" \
		--slurpfile artifacts "$scratch/artifacts" \
		--arg started "$started" --argjson stdout "$stored_stdout" --argjson stderr "$stored_stderr" '{
			outcome: $outcome, started: ($started != ""), stdout_bytes: $stdout, stderr_bytes: $stderr, artifacts: $artifacts,
			fetch_ms: 0, run_ms: 0, finish_ms: 0, max_rss_kb: 0, user_ms: 0, system_ms: 0, started_at: 0
		}
		+ if $reason != "" then {reason: $reason, message: $message} else {} end
		+ if $exit != null then {exit: $exit} else {} end
		+ if $value[0] != null then {value: $value[0]} else {} end' >"$scratch/result"
	persist "attempts/$attempt/result" "$scratch/result" || refused "the server answered the result with $status"
	exit 0
}

# --- claim -----------------------------------------------------------------------------------------------------------
# The nonce is the same for every try: a claim whose answer was lost is answered again, and nobody else's is.
nonce=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
jq -n --arg attempt "$attempt" --arg instance "$(uname -n)" --arg nonce "$nonce" \
	'{attempt: $attempt, instance: $instance, nonce: $nonce, protocol: 1, agent: "curl-worker"}' >"$scratch/claim"
token "$DAYFLY_AGENT_TOKEN"
persist claim "$scratch/claim" || refused "the server answered the claim with $status"
cp "$scratch/answer" "$scratch/assignment"
token "$(assigned .token)"
orphan_after=$(($(assigned .orphan_after_ms) / 1000))

# --- run -------------------------------------------------------------------------------------------------------------
stored_stdout=0 stored_stderr=0 stopped= kill_at= started=
: >"$scratch/stdout" >"$scratch/stderr" >"$scratch/artifacts"
fetch || report failed input_failed "An input could not be fetched, or was not what was uploaded." null

unset DAYFLY_AGENT_URL DAYFLY_AGENT_ATTEMPT DAYFLY_AGENT_TOKEN
eval "$(assigned '.env // {} | to_entries[] | "export \(.key)=\(.value | @sh)"')"
DAYFLY_URL=$url DAYFLY_JOB_ID=$(assigned .job) DAYFLY_ATTEMPT=$(assigned .number) DAYFLY_TOKEN=$(assigned .job_token)
DAYFLY_RESULT=$scratch/result.json DAYFLY_PROGRESS=$scratch/progress
export DAYFLY_URL DAYFLY_JOB_ID DAYFLY_ATTEMPT DAYFLY_TOKEN DAYFLY_RESULT DAYFLY_PROGRESS
if [ "$(assigned 'has("payload")')" = true ]; then
	jq -c .payload "$scratch/assignment" >"$scratch/input.json"
	export DAYFLY_INPUT="$scratch/input.json"
fi
eval "set -- $(assigned '.command | @sh')"
if ! command -v "$1" >/dev/null; then
	report failed command_not_found "There is no program $1 in this image." '{"code": 127}'
fi
# In a session of its own, so that one kill reaches all that it starts; its output goes to files and never waits.
setsid "$@" </dev/null >"$scratch/stdout" 2>"$scratch/stderr" &
command=$!
started=$(now)
limit=$((($(assigned .run_timeout_ms) + 999) / 1000))

while kill -0 "$command" 2>/dev/null; do
	[ "$limit" = 0 ] || [ $(($(now) - started)) -lt "$limit" ] || stop timed_out
	[ -z "$kill_at" ] || [ "$(now)" -lt "$kill_at" ] || kill_command
	ship stdout && ship stderr && beat running || true
	sleep 1
done
code=0
wait "$command" || code=$?
kill_command # what the command left behind ends with it
command=

# --- finish ----------------------------------------------------------------------------------------------------------
until ship stdout && ship stderr; do
	case $status in 4??) break ;; esac # it will not take the rest
	sleep 1
done
exit=$(jq -n --argjson code "$code" '{code: $code}')
if [ "$code" -gt 128 ]; then
	exit=$(jq -n --arg signal "SIG$(kill -l $((code - 128)))" '{code: -1, signal: $signal}')
fi
if [ -n "$stopped" ]; then
	report "$stopped" "" "" "$exit"
elif ! upload; then
	report failed output_failed "An output could not be stored." "$exit"
elif [ "$code" -gt 128 ]; then
	report failed signaled "The command was ended by a signal." "$exit"
elif [ "$code" -ne 0 ]; then
	report failed exit_nonzero "The command exited with status $code." "$exit"
fi
report succeeded "" "" "$exit"
