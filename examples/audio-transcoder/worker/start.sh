#!/bin/sh
# The worker: fetches a job's WAV, makes the MP3, stores it and says so.
#
#   API_URL           where the service is, with the token of this run in its path
#   JOB_ID            the job
#   MAX_SOURCE_BYTES  how much of a WAV is fetched at most; optional
#
# It needs sh, curl, jq and ffmpeg. It ends with 0 when the MP3 is stored, with 65 when the WAV is to blame, so that
# trying again is pointless, and with 69 when something did not answer. Its last line on stderr says why it failed.
set -eu

api=${API_URL:?} job=${JOB_ID:?} max=${MAX_SOURCE_BYTES:-1073741824}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# stop STATUS SENTENCE: give up.
stop() {
	echo "$2" >&2
	exit "$1"
}

# fetch URL ARGUMENT...: one request. URLs are secrets here, and arguments can be seen by everybody on a computer, so
# the URL goes in by a pipe. Whatever may pass is tried again.
fetch() {
	fetch_url=$1
	shift
	printf 'url = "%s"\n' "$fetch_url" | curl --silent --show-error --fail --config - \
		--connect-timeout 10 --retry 15 --retry-delay 2 --retry-connrefused "$@"
}

fetch "$api/jobs/$job/" --output "$dir/job.json" || stop 69 "The job cannot be read from the API."
field() { jq --exit-status --raw-output "$1" "$dir/job.json" || stop 69 "The API's answer has no $1."; }
source=$(field .data.source.download_url)
target=$(field .data.transcode.upload_url)
extension=$(field .data.transcode.format.extension)
bit_rate=$(field .data.transcode.format.bit_rate)
sample_rate=$(field .data.transcode.format.sample_rate)

status=0
fetch "$source" --max-filesize "$max" --output "$dir/in.wav" || status=$?
case $status in
0) ;;
63) stop 65 "The source is larger than $max bytes." ;;
*) stop 69 "The source cannot be fetched." ;;
esac
# Where the length is not announced, curl before 8.4 does not count.
[ "$(wc -c <"$dir/in.wav")" -le "$max" ] || stop 65 "The source is larger than $max bytes."

# Only the reader of WAV is let at the file: others would follow what it refers to, such as other files and hosts.
status=0
ffmpeg -nostdin -hide_banner -v error -y -protocol_whitelist file -f wav -i "$dir/in.wav" -map 0:a:0 \
	-acodec libmp3lame -b:a "${bit_rate}k" -ar "$sample_rate" "$dir/out.$extension" 2>"$dir/errors" || status=$?
why=$(sed -e "s|$dir/||g" "$dir/errors" | tr '\n\r' '  ' | cut -c 1-300)
if [ "$status" -gt 128 ]; then
	stop 70 "ffmpeg was killed by signal $((status - 128))."
elif [ "$status" -ne 0 ] || [ ! -s "$dir/out.$extension" ]; then
	stop 65 "The source cannot be transcoded: ${why:-ffmpeg exited with status $status}"
fi

fetch "$target" --request PUT --upload-file "$dir/out.$extension" --output "$dir/answer" \
	--header "Content-Type: audio/mpeg" --header "Content-Disposition: attachment;filename=$job.mp3" ||
	stop 69 "The result cannot be stored."

# The service also looks for the result when this run has ended, so the job is done even if it cannot be told.
fetch "$api/jobs/$job/status/completed/" --request POST --output "$dir/answer" ||
	echo "The result is stored, but the API could not be told." >&2
