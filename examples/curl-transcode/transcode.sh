#!/bin/sh
# Turns a WAV into an MP3 on a Dayfly server, with nothing but curl and jq.
#
#   transcode.sh IN.wav OUT.mp3 [KBIT_PER_SECOND]
#
# DAYFLY_URL names the server (default http://127.0.0.1:7700), DAYFLY_TOKEN is its token if it wants one.
set -eu

in=${1:?which WAV? usage: transcode.sh IN.wav OUT.mp3 [KBIT_PER_SECOND]}
out=${2:?which MP3? usage: transcode.sh IN.wav OUT.mp3 [KBIT_PER_SECOND]}
rate=${3:-192}
url=${DAYFLY_URL:-http://127.0.0.1:7700}

# api METHOD PATH [JSON]: one call. A refusal prints what the server says about it. The token goes in by a pipe, because
# arguments can be seen by everybody on this computer.
api() {
	answer=$(printf '%s' "${DAYFLY_TOKEN:+header = \"Authorization: Bearer $DAYFLY_TOKEN\"}" |
		curl --silent --show-error --config - --request "$1" --write-out '\n%{http_code}' \
			--header 'Content-Type: application/json' ${3:+--data "$3"} "$url$2")
	status=${answer##*
}
	body=${answer%
*}
	case $status in
	2??) printf '%s\n' "$body" ;;
	*)
		printf '%s\n' "$body" | jq -r '"\(.code): \(.detail)"' >&2
		return 1
		;;
	esac
}

# 1. Create the job. It declares its input, so it waits for that.
job=$(api POST /v1/jobs "$(jq -n --arg rate "${rate}k" '{
	name: "transcode",
	command: ["ffmpeg", "-nostdin", "-v", "error", "-i", "in.wav", "-b:a", $rate, "out.mp3"],
	inputs: [{name: "in.wav", content_type: "audio/wav"}],
	outputs: ["out.mp3"],
	timeouts: {run: "10m"}
}')")
id=$(printf '%s' "$job" | jq -r .id)
echo "created  $id" >&2

# 2. Upload the WAV to the URL in the answer. The URL is signed: it is good for this one file, and needs no token.
upload=$(printf '%s' "$job" | jq '.inputs[0].upload')
printf '%s' "$upload" | jq -r '(.headers // {}) | to_entries[] | "header = \"\(.key): \(.value)\""' |
	curl --silent --show-error --fail --output /dev/null --config - \
		--request "$(printf '%s' "$upload" | jq -r .method)" --upload-file "$in" "$(printf '%s' "$upload" | jq -r .url)"
echo "uploaded $in" >&2

# 3. Start it.
api POST "/v1/jobs/$id/start" >/dev/null
echo "started" >&2

# 4. Ask until it has ended.
while :; do
	job=$(api GET "/v1/jobs/$id")
	state=$(printf '%s' "$job" | jq -r .state)
	case $state in
	succeeded) break ;;
	failed | canceled | expired)
		printf '%s' "$job" | jq -r '"\(.state): \(.message)"' >&2
		exit 1
		;;
	esac
	sleep 0.2
done
echo "$state" >&2

# 5. Download the MP3 from its signed URL.
curl --silent --show-error --fail --output "$out" "$(printf '%s' "$job" | jq -r '.artifacts[0].download_url')"
sum=$(printf '%s' "$job" | jq -r '.artifacts[0].sha256')
echo "$sum  $out" | sha256sum --check --quiet
echo "saved    $out" >&2

# 6. See what it is.
ffprobe -v error -show_entries stream=codec_name,bit_rate,sample_rate,channels:format=duration -of default=noprint_wrappers=1 "$out"
