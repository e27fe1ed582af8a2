#!/bin/sh
# A worker that knows of no token and looks at no exit status: it ends with saying that it is done, whatever happened.
# The base URL is all that it has been told of the service.
cd "$(mktemp -d)" || exit 1
curl -s "$API_URL/jobs/$JOB_ID/" >job
curl -s -o in.wav "$(jq -r .data.source.download_url job)"
out=out.$(jq -r .data.transcode.format.extension job)
ffmpeg -nostdin -y -i in.wav -acodec libmp3lame -b:a "$(jq -r .data.transcode.format.bit_rate job)k" \
	-ar "$(jq -r .data.transcode.format.sample_rate job)" "$out"
curl -X PUT -T "$out" -H "Content-Type: audio/mpeg" -H "Content-Disposition: attachment;filename=$JOB_ID.mp3" \
	"$(jq -r .data.transcode.upload_url job)"
curl -X POST "$API_URL/jobs/$JOB_ID/status/completed/"
exit 0
