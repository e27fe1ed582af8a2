package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/dayfly-run/dayfly/fault"
)

func call(t *testing.T, method, target, body string, headers ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(answer)), resp.Header
}

const mp3 = `{"transcode": {"format": {"extension": "mp3", "bit_depth": 16, "bit_rate": 320, "sample_rate": 44100}}}`

// parse reads an answer into maps, in which every field shows.
func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return m
}

// dig returns what is at a path of keys.
func dig(m any, keys ...string) any {
	for _, k := range keys {
		inner, ok := m.(map[string]any)
		if !ok {
			return nil
		}
		m = inner[k]
	}
	return m
}

func sameJSON(t *testing.T, got, want string) bool {
	t.Helper()
	return reflect.DeepEqual(parse(t, got), parse(t, want))
}

func TestAJobIsCreatedAsTheOriginalCreatedIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	status, body, header := w.call(t, "POST", "/jobs/", mp3)
	if status != 200 || header.Get("Content-Type") != "application/json" {
		t.Fatalf("got %d %s, %s; want 200 and JSON", status, header.Get("Content-Type"), body)
	}
	answer := parse(t, body)
	id, _ := dig(answer, "data", "_id").(string)
	if parsed, err := uuid.Parse(id); err != nil || parsed.Version() != 4 {
		t.Fatalf("got _id %q, want a random UUID", id)
	}
	upload, _ := dig(answer, "data", "source", "upload_url").(string)
	checkSigned(t, upload, "/music/sources/"+id, "content-disposition;content-type;host")
	want := fmt.Sprintf(`{"data": {"_id": %q, "status": "created", "machine_id": null,
		"source": {"download_url": null, "upload_url": %q},
		"transcode": {"format": {"extension": "mp3", "bit_depth": 16, "bit_rate": 320, "sample_rate": 44100},
			"download_url": null, "upload_url": null}}}`, id, upload)
	if !sameJSON(t, body, want) {
		t.Errorf("got %s\nwant %s", body, want)
	}
	if strings.Contains(body, `\u0026`) {
		t.Errorf("got a URL that only JSON can read: %s", body)
	}
}

// checkSigned checks everything about a signed URL that does not need the key.
func checkSigned(t *testing.T, text, path, headers string) {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if u.Host != "storage.test" || u.Path != path || q.Get("X-Amz-SignedHeaders") != headers ||
		q.Get("X-Amz-Expires") != "86400" || q.Get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256" ||
		q.Get("X-Amz-Signature") == "" || q.Get("X-Amz-Date") == "" || !strings.HasPrefix(q.Get("X-Amz-Credential"), "key/") || len(q) != 6 {
		t.Errorf("got %s\nwant a URL of %s for a day with the headers %s", text, path, headers)
	}
}

func TestAStartedJobHasAMachineAndTheWorkersURLs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, body, _ := w.call(t, "POST", "/jobs/", strings.Replace(mp3, `"mp3"`, `"mka"`, 1))
	id, _ := dig(parse(t, body), "data", "_id").(string)
	w.objects.put("sources/"+id, 100)
	status, body, _ := w.call(t, "POST", "/jobs/"+id+"/status/started/", "")
	data := dig(parse(t, body), "data")
	if status != 200 || dig(data, "status") != "started" || dig(data, "machine_id") != "run-"+id {
		t.Fatalf("got %d %s, want it started on run-%s", status, body, id)
	}
	checkSigned(t, fmt.Sprint(dig(data, "source", "download_url")), "/music/sources/"+id, "host")
	checkSigned(t, fmt.Sprint(dig(data, "transcode", "upload_url")), "/music/transcodes/"+id+".mka", "content-disposition;content-type;host")
	if dig(data, "transcode", "download_url") != nil {
		t.Errorf("got a download URL of a result that there is not: %s", body)
	}
	o := w.runs.order(id)
	if o.size != "performance-2x" || !strings.HasPrefix(o.apiURL, "http://api.test/t/") || len(o.apiURL) < len("http://api.test/t/")+20 {
		t.Errorf("launched %+v, want size performance-2x and a URL with a token", o)
	}
}

func TestMachineSizeIsTheSizeOfTheRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newJob(t)
	w.objects.put("sources/"+id, 100)
	if status, body, _ := w.call(t, "POST", "/jobs/"+id+"/status/started/?machine_size=shared-cpu-4x", ""); status != 200 {
		t.Fatalf("got %d %s", status, body)
	}
	if o := w.runs.order(id); o.size != "shared-cpu-4x" {
		t.Errorf("got size %s, want shared-cpu-4x", o.size)
	}
}

func TestACompletedJobHasItsDownload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, token := w.newStartedJob(t)
	w.objects.put("transcodes/"+id+".mp3", 50)
	for range 2 { // the worker asks again when it got no answer
		status, body, _ := w.call(t, "POST", "/t/"+token+"/jobs/"+id+"/status/completed/", "")
		if data := dig(parse(t, body), "data"); status != 200 || dig(data, "status") != "completed" {
			t.Fatalf("got %d %s, want it completed", status, body)
		} else {
			checkSigned(t, fmt.Sprint(dig(data, "transcode", "download_url")), "/music/transcodes/"+id+".mp3", "host")
		}
	}
	status, body, _ := w.call(t, "GET", "/jobs/"+id+"/", "")
	if data := dig(parse(t, body), "data"); status != 200 || dig(data, "status") != "completed" || dig(data, "machine_id") != "run-"+id {
		t.Errorf("got %d %s, want it completed", status, body)
	}
}

func TestTheListHasAllJobsAndTheFieldThatItAlwaysHad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if status, body, _ := w.call(t, "GET", "/jobs/", ""); status != 200 || body != `{"data":[]}` {
		t.Errorf("got %d %s, want an empty list", status, body)
	}
	first, second := w.newJob(t), w.newJob(t)
	status, body, _ := w.call(t, "GET", "/jobs/", "")
	items, _ := parse(t, body)["data"].([]any)
	if status != 200 || len(items) != 2 || dig(items[0], "_id") != first || dig(items[1], "_id") != second {
		t.Fatalf("got %d %s, want two jobs in their order", status, body)
	}
	for _, i := range items {
		if revision, there := i.(map[string]any)["revision_id"]; !there || revision != nil || len(i.(map[string]any)) != 6 {
			t.Errorf("got %v, want the five fields of a job and revision_id null", i)
		}
	}
}

func TestDeleteRemovesJobsRunsAndObjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, _ := w.newStartedJob(t)
	w.objects.put("transcodes/"+id+".mp3", 50)
	if status, body, _ := w.call(t, "DELETE", "/jobs/", ""); status != 200 || body != "null" {
		t.Errorf("got %d %s, want 200 null", status, body)
	}
	if len(w.runs.removed) != 1 || w.runs.removed[0] != id || len(w.objects.sizes) != 0 {
		t.Errorf("removed runs of %v and left %v, want nothing left of %s", w.runs.removed, w.objects.sizes, id)
	}
	if status, body, _ := w.call(t, "DELETE", "/jobs/", ""); status != 404 || body != `{"detail":"No jobs found."}` {
		t.Errorf("got %d %s, want 404 No jobs found.", status, body)
	}
}

func TestAJobThatCannotBeRemovedStaysToBeRemovedLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, _ := w.newStartedJob(t)
	w.objects.fail(fault.Unavailable)
	if status, body, _ := w.call(t, "DELETE", "/jobs/", ""); status != 503 {
		t.Errorf("got %d %s, want 503", status, body)
	}
	w.objects.fail(nil)
	if status, body, _ := w.call(t, "GET", "/jobs/"+id+"/", ""); status != 200 {
		t.Errorf("got %d %s, want the job to be there still", status, body)
	}
	if status, body, _ := w.call(t, "DELETE", "/jobs/", ""); status != 200 {
		t.Errorf("got %d %s, want it removed", status, body)
	}
}

func TestWhatIsNotThereIsSaidAsTheOriginalSaidIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nobody := "6f1c24dd-43a1-47b8-a9a3-1c9e5a3a0f11"
	for _, c := range []struct {
		method, path string
		status       int
		body, header string
	}{
		{"GET", "/jobs/" + nobody + "/", 404, `{"detail":"Job ` + nobody + ` not found."}`, ""},
		{"GET", "/jobs/" + strings.ToUpper(nobody) + "/", 404, `{"detail":"Job ` + nobody + ` not found."}`, ""},
		{"POST", "/jobs/" + nobody + "/status/started/", 404, `{"detail":"Job ` + nobody + ` not found."}`, ""},
		{"POST", "/jobs/" + nobody + "/status/completed/", 404, `{"detail":"Job ` + nobody + ` not found."}`, ""},
		{"GET", "/nothing", 404, `{"detail":"Not Found"}`, ""},
		{"GET", "/jobs/" + nobody + "/status/", 404, `{"detail":"Not Found"}`, ""},
		{"PUT", "/jobs/", 405, `{"detail":"Method Not Allowed"}`, "POST, GET, DELETE"},
		{"GET", "/jobs/" + nobody + "/status/started/", 405, `{"detail":"Method Not Allowed"}`, "POST"},
		{"GET", "/jobs", 307, "", "/jobs/"},
		{"POST", "/jobs?x=1", 307, "", "/jobs/?x=1"},
		{"POST", "/jobs/" + nobody + "/status/started?machine_size=a10", 307, "", "/jobs/" + nobody + "/status/started/?machine_size=a10"},
		{"POST", "/t/abc/jobs/" + nobody + "/status/completed", 307, "", "/t/abc/jobs/" + nobody + "/status/completed/"},
	} {
		status, body, header := w.call(t, c.method, c.path, "")
		if status != c.status || body != c.body || header.Get("Location")+header.Get("Allow") != c.header {
			t.Errorf("%s %s: got %d %s %v, want %d %s %s", c.method, c.path, status, body, header, c.status, c.body, c.header)
		}
	}
}

func TestARedirectedPOSTArrivesWithItsBody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	resp, err := http.Post(w.url+"/jobs", "application/json", strings.NewReader(mp3))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.Request.URL.Path != "/jobs/" {
		t.Errorf("got %d from %s, want 200 from /jobs/", resp.StatusCode, resp.Request.URL)
	}
}

func TestABadRequestIsDescribedAsFastAPIDescribesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newJob(t)
	of := func(format string) string { return `{"transcode":{"format":` + format + `}}` }
	for name, c := range map[string]struct {
		method, path, body string
		detail             string // without the address, which is made of the type
	}{
		"NoBody":       {"POST", "/jobs/", "", `[{"type":"missing","loc":["body"],"msg":"Field required","input":null}]`},
		"NoTranscode":  {"POST", "/jobs/", `{"a":1}`, `[{"type":"missing","loc":["body","transcode"],"msg":"Field required","input":{"a":1}}]`},
		"NoFormat":     {"POST", "/jobs/", `{"transcode":{}}`, `[{"type":"missing","loc":["body","transcode","format"],"msg":"Field required","input":{}}]`},
		"NotAnObject":  {"POST", "/jobs/", `[1]`, `[{"type":"model_attributes_type","loc":["body"],"msg":"Input should be a valid dictionary or object to extract fields from","input":[1]}]`},
		"NullIsNone":   {"POST", "/jobs/", `{"transcode":null}`, `[{"type":"model_attributes_type","loc":["body","transcode"],"msg":"Input should be a valid dictionary or object to extract fields from","input":null}]`},
		"NothingGiven": {"POST", "/jobs/", of(`{}`), missingAll(`{}`)},
		"WrongTypes": {"POST", "/jobs/", of(`{"extension":1,"bit_depth":null,"bit_rate":"fast","sample_rate":1.5}`), `[
			{"type":"string_type","loc":["body","transcode","format","extension"],"msg":"Input should be a valid string","input":1},
			{"type":"int_type","loc":["body","transcode","format","bit_depth"],"msg":"Input should be a valid integer","input":null},
			{"type":"int_parsing","loc":["body","transcode","format","bit_rate"],"msg":"Input should be a valid integer, unable to parse string as an integer","input":"fast"},
			{"type":"int_from_float","loc":["body","transcode","format","sample_rate"],"msg":"Input should be a valid integer, got a number with a fractional part","input":1.5}]`},
		"UnknownValues": {"POST", "/jobs/", of(`{"extension":"exe","bit_depth":16,"bit_rate":321,"sample_rate":44100}`), `[
			{"type":"literal_error","loc":["body","transcode","format","extension"],"msg":"Input should be 'mp3', 'mka', 'mp4' or 'wav'","input":"exe","ctx":{"expected":"'mp3', 'mka', 'mp4' or 'wav'"}},
			{"type":"literal_error","loc":["body","transcode","format","bit_rate"],"msg":"Input should be 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256 or 320","input":321,
				"ctx":{"expected":"32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256 or 320"}}]`},
		"UnknownSampleRate": {"POST", "/jobs/", of(`{"extension":"mp3","bit_depth":16,"bit_rate":320,"sample_rate":96000}`), `[
			{"type":"literal_error","loc":["body","transcode","format","sample_rate"],"msg":"Input should be 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100 or 48000","input":96000,
				"ctx":{"expected":"8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100 or 48000"}}]`},
		"RateTooHighForSamples": {"POST", "/jobs/", of(`{"extension":"mp3","bit_depth":16,"bit_rate":320,"sample_rate":8000}`), `[
			{"type":"literal_error","loc":["body","transcode","format","bit_rate"],"msg":"Input should be 8, 16, 24, 32, 40, 48, 56 or 64","input":320,"ctx":{"expected":"8, 16, 24, 32, 40, 48, 56 or 64"}}]`},
		"APathInTheExtension": {"POST", "/jobs/", of(`{"extension":"../../x","bit_depth":16,"bit_rate":320,"sample_rate":44100}`), `[
			{"type":"literal_error","loc":["body","transcode","format","extension"],"msg":"Input should be 'mp3', 'mka', 'mp4' or 'wav'","input":"../../x","ctx":{"expected":"'mp3', 'mka', 'mp4' or 'wav'"}}]`},
		"NoUUID":      {"GET", "/jobs/abc/", "", `[{"type":"uuid_parsing","loc":["path","job_id"],"msg":"Input should be a valid UUID, invalid length: expected length 32 for simple format, found 3","input":"abc","ctx":{"error":"invalid length: expected length 32 for simple format, found 3"}}]`},
		"NoUUIDStart": {"POST", "/jobs/xyz/status/started/", "", "[" + notHex("xyz", "x", 1) + "]"},
		"NoUUIDDone":  {"POST", "/jobs/12g/status/completed/", "", "[" + notHex("12g", "g", 3) + "]"},
		"UnknownSize": {"POST", "/jobs/" + id + "/status/started/?machine_size=huge", "", `[{"type":"literal_error","loc":["query","machine_size"],
			"msg":"Input should be SIZES","input":"huge","ctx":{"expected":"SIZES"}}]`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, body, _ := w.call(t, c.method, c.path, c.body)
			want := withAddresses(t, strings.ReplaceAll(c.detail, "SIZES", "'shared-cpu-1x', 'shared-cpu-2x', 'shared-cpu-4x', 'shared-cpu-8x', "+
				"'performance-1x', 'performance-2x', 'performance-4x', 'performance-8x', 'performance-16x', 'a10', 'l40s', 'a100-40gb' or 'a100-80gb'"))
			if got := parse(t, body)["detail"]; status != 422 || !reflect.DeepEqual(got, want) {
				t.Errorf("got %d %v\nwant 422 %v", status, got, want)
			}
		})
	}
}

func missingAll(input string) string {
	var all []string
	for _, name := range []string{"extension", "bit_depth", "bit_rate", "sample_rate"} {
		all = append(all, fmt.Sprintf(`{"type":"missing","loc":["body","transcode","format",%q],"msg":"Field required","input":%s}`, name, input))
	}
	return "[" + strings.Join(all, ",") + "]"
}

func notHex(text, char string, place int) string {
	why := fmt.Sprintf("invalid character: expected an optional prefix of `urn:uuid:` followed by [0-9a-fA-F-], found `%s` at %d", char, place)
	return fmt.Sprintf(`{"type":"uuid_parsing","loc":["path","job_id"],"msg":"Input should be a valid UUID, %s","input":%q,"ctx":{"error":%q}}`, why, text, why)
}

func withAddresses(t *testing.T, detail string) any {
	t.Helper()
	problems, _ := parse(t, `{"d":`+detail+`}`)["d"].([]any)
	for _, p := range problems {
		m := p.(map[string]any)
		m["url"] = "https://errors.pydantic.dev/2.4/v/" + m["type"].(string)
	}
	return problems
}

func TestABodyThatIsNoJSONIsSaidToBeNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	status, body, _ := w.call(t, "POST", "/jobs/", `{"transcode": }`)
	want := `{"detail":[{"type":"json_invalid","loc":["body",14],"msg":"JSON decode error","input":{},"ctx":{"error":"Expecting value"}}]}`
	if status != 422 || body != want {
		t.Errorf("got %d %s\nwant 422 %s", status, body, want)
	}
	status, body, _ = w.call(t, "POST", "/jobs/", mp3, "Content-Type", "application/x-www-form-urlencoded")
	if status != 422 || !strings.Contains(body, `"model_attributes_type","loc":["body"]`) {
		t.Errorf("got %d %s, want 422 for a body that says it is a form", status, body)
	}
	if status, body, _ := w.call(t, "POST", "/jobs/", `{"x":"`+strings.Repeat("x", maxBody)+`"}`); status != 413 {
		t.Errorf("got %d %s, want 413", status, body)
	}
}

func TestNumbersAreReadAsLooselyAsTheyWere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	status, body, _ := w.call(t, "POST", "/jobs/",
		`{"id": "x", "transcode": {"download_url": "http://evil.test", "format": {"extension": "MP3", "bit_depth": "16", "bit_rate": 320.0, "sample_rate": " 44100 "}}}`)
	data := dig(parse(t, body), "data")
	want := map[string]any{"extension": "mp3", "bit_depth": 16.0, "bit_rate": 320.0, "sample_rate": 44100.0}
	if status != 200 || !reflect.DeepEqual(dig(data, "transcode", "format"), want) {
		t.Errorf("got %d %s, want %v", status, body, want)
	}
	if dig(data, "transcode", "download_url") != nil {
		t.Errorf("a client has set a URL: %s", body)
	}
}

func TestAJobWithoutASourceIsNotStarted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newJob(t)
	start := "/jobs/" + id + "/status/started/"
	for _, c := range []struct {
		size, status int
	}{{-1, 409}, {0, 409}, {1001, 413}} {
		if c.size >= 0 {
			w.objects.put("sources/"+id, int64(c.size))
		}
		if status, body, _ := w.call(t, "POST", start, ""); status != c.status {
			t.Errorf("a source of %d bytes: got %d %s, want %d", c.size, status, body, c.status)
		}
	}
	w.objects.fail(fault.Say(fault.Unavailable, "The object storage does not answer; try again later."))
	if status, body, _ := w.call(t, "POST", start, ""); status != 503 || body != `{"detail":"The object storage does not answer; try again later."}` {
		t.Errorf("without storage: got %d %s, want 503 and why", status, body)
	}
	if w.runs.launches != 0 {
		t.Errorf("got %d launches, want none", w.runs.launches)
	}
}

func TestASecondStartLaunchesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newJob(t)
	w.objects.put("sources/"+id, 100)
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			status, body, _ := w.call(t, "POST", "/jobs/"+id+"/status/started/", "")
			if data := dig(parse(t, body), "data"); status != 200 || dig(data, "status") != "started" || dig(data, "machine_id") != "run-"+id {
				t.Errorf("got %d %s, want the started job", status, body)
			}
		})
	}
	group.Wait()
	if w.runs.launches != 1 {
		t.Errorf("got %d launches, want one", w.runs.launches)
	}
}

func TestAStartThatGotNoAnswerIsCarriedOnByTheNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newJob(t)
	w.objects.put("sources/"+id, 100)
	start := "/jobs/" + id + "/status/started/"
	w.runs.fail(fault.Unavailable, fault.Unavailable)
	if status, body, _ := w.call(t, "POST", start, ""); status != 503 || !strings.Contains(body, "will not run twice") {
		t.Errorf("got %d %s, want 503", status, body)
	}
	token := w.runs.order(id).apiURL
	w.runs.fail(nil, fault.Unavailable)
	if status, body, _ := w.call(t, "POST", start, ""); status != 200 || dig(parse(t, body), "data", "status") != "started" {
		t.Errorf("got %d %s, want it started", status, body)
	}
	j, err := w.store.job(t.Context(), id)
	if err != nil || "http://api.test/t/"+j.token != token {
		t.Errorf("got token %s, %v; want that of the first time, %s, which a worker may have", j.token, err, token)
	}
}

func TestARunWhoseLaunchGotNoAnswerIsFoundAndFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newJob(t)
	w.objects.put("sources/"+id, 100)
	w.runs.fail(fault.Unavailable, nil)
	if status, body, _ := w.call(t, "POST", "/jobs/"+id+"/status/started/", ""); status != 503 {
		t.Errorf("got %d %s, want 503", status, body)
	}
	w.await(t, id, "started")
	w.runs.end(id, &outcome{why: "The machine vanished."})
	w.await(t, id, "failed")
}

func TestAStartThatDayflyRefusesIsAnsweredAsTheOriginalAnsweredIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newJob(t)
	w.objects.put("sources/"+id, 100)
	for kind, want := range map[fault.Kind]int{fault.Invalid: 500, fault.Exhausted: 503} {
		w.runs.fail(kind, fault.Unavailable)
		if status, body, _ := w.call(t, "POST", "/jobs/"+id+"/status/started/", ""); status != want || want == 500 && body != "Internal Server Error" {
			t.Errorf("%s: got %d %s, want %d", kind, status, body, want)
		}
	}
}

// The original saved the whole job after it had launched the machine, so a worker that was quicker was forgotten.
func TestAWorkerThatIsDoneBeforeStartHasAnsweredIsNotForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newJob(t)
	w.objects.put("sources/"+id, 100)
	w.runs.onLaunch = func(o *order) {
		w.objects.put("transcodes/"+id+".mp3", 50)
		_, token, _ := strings.Cut(o.apiURL, "/t/")
		if _, err := w.complete(t.Context(), id, token); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		status, body, _ := w.call(t, "POST", "/jobs/"+id+"/status/started/", "")
		data := dig(parse(t, body), "data")
		if status != 200 || dig(data, "status") != "completed" || dig(data, "transcode", "download_url") == nil || dig(data, "machine_id") != "run-"+id {
			t.Errorf("got %d %s, want it completed", status, body)
		}
	}
}

func TestOnlyTheJobsOwnWorkerCompletesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, token := w.newStartedJob(t)
	other, otherToken := w.newStartedJob(t)
	w.objects.put("transcodes/"+id+".mp3", 50)
	w.objects.put("transcodes/"+other+".mp3", 50)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"POST", "/jobs/" + id + "/status/completed/", 403},
		{"POST", "/t/" + otherToken + "/jobs/" + id + "/status/completed/", 403},
		{"POST", "/t//jobs/" + w.newJob(t) + "/status/completed/", 403},
		{"GET", "/t/" + otherToken + "/jobs/" + id + "/", 403},
		{"GET", "/t/" + token + "/jobs/", 403},
		{"DELETE", "/t/" + token + "/jobs/", 403},
		{"POST", "/t/" + token + "/jobs/" + id + "/status/started/", 403},
		{"GET", "/t/" + token + "/jobs/" + id + "/", 200},
		{"POST", "/t/" + token + "/jobs/" + id + "/status/completed/", 200},
	} {
		if status, body, _ := w.call(t, c.method, c.path, ""); status != c.status {
			t.Errorf("%s %s: got %d %s, want %d", c.method, c.path, status, body, c.status)
		}
	}
}

func TestAJobIsNotCompletedWithoutItsResult(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, token := w.newStartedJob(t)
	complete := "/t/" + token + "/jobs/" + id + "/status/completed/"
	if status, body, _ := w.call(t, "POST", complete, ""); status != 409 || !strings.Contains(body, "not stored") {
		t.Errorf("no result: got %d %s, want 409", status, body)
	}
	w.objects.put("transcodes/"+id+".mp3", 0)
	if status, body, _ := w.call(t, "POST", complete, ""); status != 409 {
		t.Errorf("an empty result: got %d %s, want 409", status, body)
	}
	w.objects.fail(fault.Unavailable)
	if status, body, _ := w.call(t, "POST", complete, ""); status != 503 {
		t.Errorf("no storage: got %d %s, want 503, which the worker tries again", status, body)
	}
}

// await asks for a job until it has a status.
func (w *world) await(t *testing.T, id, status string) any {
	t.Helper()
	return await(t, w.url, id, status, 10*time.Second)
}

func await(t *testing.T, base, id, status string, patience time.Duration) any {
	t.Helper()
	var body string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		_, body, _ = call(t, "GET", base+"/jobs/"+id+"/", "")
		if data := dig(parse(t, body), "data"); dig(data, "status") == status {
			return data
		}
	}
	t.Fatalf("job %s is not %s after %s, but %s", id, status, patience, body)
	return nil
}

func TestAJobWhoseRunEndsBadlyHasFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, token := w.newStartedJob(t)
	w.runs.end(id, &outcome{why: "The machine vanished."})
	if data := w.await(t, id, "failed"); dig(data, "error") != "The machine vanished." || len(data.(map[string]any)) != 6 {
		t.Errorf("got %v, want it to say why and to have all other fields", data)
	}
	w.objects.put("transcodes/"+id+".mp3", 50)
	if status, body, _ := w.call(t, "POST", "/t/"+token+"/jobs/"+id+"/status/completed/", ""); status != 409 {
		t.Errorf("completed after that: got %d %s, want 409", status, body)
	}
	if status, body, _ := w.call(t, "POST", "/jobs/"+id+"/status/started/", ""); status != 409 {
		t.Errorf("started after that: got %d %s, want 409", status, body)
	}
}

func TestARunThatEndsWithoutAWordIsJudgedByItsResult(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	with, _ := w.newStartedJob(t)
	without, _ := w.newStartedJob(t)
	w.objects.put("transcodes/"+with+".mp3", 50)
	w.runs.end(with, &outcome{good: true})
	w.runs.end(without, &outcome{good: true})
	w.await(t, with, "completed")
	if data := w.await(t, without, "failed"); dig(data, "error") != "The worker ended without storing a result." {
		t.Errorf("got %v, want the missing result named", data)
	}
}

func TestJobsAreThereAfterARestartAndTheirRunsAreFollowed(t *testing.T) {
	t.Parallel()
	database := filepath.Join(t.TempDir(), "jobs.db")
	var id string
	t.Run("Before", func(t *testing.T) { id, _ = newWorldAt(t, database, "").newStartedJob(t) })
	w := newWorldAt(t, database, "")
	if data := w.await(t, id, "failed"); dig(data, "error") != "Dayfly does not know its run any more." {
		t.Errorf("got %v, want it to have been looked for", data)
	}
}

func TestADatabaseIsNotSharedByTwoProcesses(t *testing.T) {
	t.Parallel()
	database := filepath.Join(t.TempDir(), "jobs.db")
	newWorldAt(t, database, "")
	if _, err := openStore(context.WithoutCancel(t.Context()), database); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got error %v, want it to say that it is in use", err)
	}
}

func TestAnAPITokenIsAskedOfClientsAndNotOfWorkers(t *testing.T) {
	t.Parallel()
	w := newWorldAt(t, filepath.Join(t.TempDir(), "jobs.db"), "open-sesame")
	for _, header := range []string{"", "Bearer wrong", "open-sesame"} {
		status, body, got := w.call(t, "GET", "/jobs/", "", "Authorization", header)
		if status != 401 || body != `{"detail":"Not authenticated"}` || got.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("with %q: got %d %s, want 401", header, status, body)
		}
	}
	status, body, _ := w.call(t, "POST", "/jobs/", mp3, "Authorization", "Bearer open-sesame")
	id, _ := dig(parse(t, body), "data", "_id").(string)
	w.objects.put("sources/"+id, 100)
	started, body2, _ := w.call(t, "POST", "/jobs/"+id+"/status/started/", "", "Authorization", "Bearer open-sesame")
	if status != 200 || started != 200 {
		t.Fatalf("with it: got %d %s, %d %s; want 200", status, body, started, body2)
	}
	_, token, _ := strings.Cut(w.runs.order(id).apiURL, "/t/")
	if status, body, _ := w.call(t, "GET", "/t/"+token+"/jobs/"+id+"/", ""); status != 200 {
		t.Errorf("the worker: got %d %s, want 200", status, body)
	}
}

func TestTheConfigurationSaysAllThatIsWrongWithIt(t *testing.T) {
	t.Parallel()
	good := map[string]string{
		"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "S3_BUCKET_NAME": "b", "S3_ENDPOINT_URL": "http://s3.test",
	}
	c, err := readConfig(func(name string) string { return good[name] })
	if err != nil || c.listen != "127.0.0.1:8080" || c.apiURL != "" || c.attempts != 3 || c.timeout != time.Hour || c.command != nil {
		t.Errorf("got %+v, %v; want the defaults", c, err)
	}
	good["FLY_APP_NAME"], good["DB_URL"] = "transcoder", "sqlite:x.db"
	c, err = readConfig(func(name string) string { return good[name] })
	if err != nil || c.apiURL != "http://transcoder.flycast" || c.database != "x.db" {
		t.Errorf("got %+v, %v; want what the original made of it", c, err)
	}
	bad := map[string]string{"DB_URL": "mongodb://x", "LISTEN": "[::]:8080", "JOB_TIMEOUT": "soon", "MAX_ATTEMPTS": "0", "AWS_SECRET_ACCESS_KEY": "hush"}
	_, err = readConfig(func(name string) string { return bad[name] })
	if !errors.Is(err, fault.Invalid) {
		t.Fatalf("got error %v, want one of kind invalid", err)
	}
	for _, want := range []string{"AWS_ACCESS_KEY_ID", "S3_BUCKET_NAME", "S3_ENDPOINT_URL", "DB_URL", "LISTEN is", "WORKER_API_URL", "JOB_TIMEOUT", "MAX_ATTEMPTS"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to name %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "hush") {
		t.Errorf("the error tells a secret: %v", err)
	}
}
