package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/api"
	"github.com/dayfly-run/dayfly/internal/ticket"
)

// putURL returns the path and query of a signed URL to upload to.
func (g *rig) putURL(key string, limit int64, contentType string) string {
	return g.key.URL("", ticket.File{Method: "PUT", Key: key, Expires: time.Now().Add(time.Hour), Limit: limit, ContentType: contentType})
}

// getURL returns the path and query of a signed URL to download from.
func (g *rig) getURL(key, name string) string {
	return g.key.URL("", ticket.File{Method: "GET", Key: key, Expires: time.Now().Add(time.Hour), Name: name})
}

func sum(data string) string {
	h := sha256.Sum256([]byte(data))
	return hex.EncodeToString(h[:])
}

// store puts an object beside the API.
func (g *rig) store(key, data, contentType string) {
	g.t.Helper()
	if _, err := g.blobs.Put(g.t.Context(), key, strings.NewReader(data), &blob.PutOptions{ContentType: contentType}); err != nil {
		g.t.Fatal(err)
	}
}

func TestAnInputIsUploadedWhereItsJobSays(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const name = "dir/ä b%.wav"
	job := decode[dayfly.Job](t, g.do("POST", "/v1/jobs", `{"command":["a"],"inputs":[{"name":"`+name+`","content_type":"audio/wav"}]}`), 201)
	upload := job.Inputs[0].Upload
	target := strings.TrimPrefix(upload.URL, "http://127.0.0.1:7700")
	g.do("PUT", target, "sound").want(t, "without its content type", 415, fault.Invalid)
	g.do("PUT", target, "sound", "Content-Type: audio/mpeg").want(t, "with another content type", 415, fault.Invalid)
	got := g.do("PUT", target, "sound", "Content-Type: audio/wav")
	stored := decode[struct {
		Size   int64
		SHA256 string
	}](t, got, http.StatusCreated)
	if stored.Size != 5 || stored.SHA256 != sum("sound") || got.header.Get("ETag") != `"`+sum("sound")+`"` {
		t.Errorf("uploaded: got %s, ETag %s", got.body, got.header.Get("ETag"))
	}
	in := decode[dayfly.Job](t, g.do("GET", "/v1/jobs/"+job.ID, ""), 200).Inputs[0]
	if !in.Uploaded || in.Size != 5 || in.SHA256 != sum("sound") || in.ContentType != "audio/wav" {
		t.Errorf("the input is shown as %+v", in)
	}
	if got := g.do("PUT", target, "other", "Content-Type: audio/wav"); got.status != http.StatusCreated {
		t.Errorf("uploading again while the job is created: got %d", got.status)
	}
	decode[dayfly.Job](t, g.do("POST", "/v1/jobs/"+job.ID+"/start", ""), 200)
	g.do("PUT", target, "third", "Content-Type: audio/wav").want(t, "after the job was started", 409, fault.Conflict)
	if info, err := g.blobs.Stat(t.Context(), g.engine.inputBlob(job.ID)); err != nil || info.SHA256 != sum("other") {
		t.Errorf("after a refused upload the input is %+v, %v", info, err)
	}
	decode[dayfly.Job](t, g.do("POST", "/v1/jobs/"+job.ID+"/cancel", ""), 200)
	p := g.do("PUT", target, "third", "Content-Type: audio/wav").want(t, "after the job was canceled", 409, fault.Conflict)
	if !strings.Contains(p.Detail, "canceled") {
		t.Errorf("an upload for a canceled job is refused with %q, which does not say so", p.Detail)
	}
	if in := decode[dayfly.Job](t, g.do("GET", "/v1/jobs/"+job.ID, ""), 200).Inputs[0]; in.Upload != nil {
		t.Errorf("a started job says how to upload: %+v", in.Upload)
	}
}

func TestASignedURLOpensExactlyWhatItWasMadeFor(t *testing.T) {
	t.Parallel()
	g := newRig(t, requireToken)
	g.engine.addJob("job_a", dayfly.Running, "att_a")
	const key = "artifacts/job_a/att_a/out.txt"
	put, get := g.putURL(key, 10, ""), g.getURL(key, "out.txt")
	if got := g.do("PUT", put, "0123456789"); got.status != http.StatusCreated {
		t.Fatalf("uploading: got %d: %s", got.status, got.body)
	}
	if got := g.do("GET", get, ""); got.status != 200 || string(got.body) != "0123456789" {
		t.Fatalf("downloading: got %d: %s", got.status, got.body)
	}
	expired := g.key.URL("", ticket.File{Method: "GET", Key: key, Expires: time.Now().Add(-time.Second)})
	other := ticket.NewKey().URL("", ticket.File{Method: "GET", Key: key, Expires: time.Now().Add(time.Hour)})
	unsigned, _, _ := strings.Cut(get, "?")
	admin := g.token("root", "admin")
	for name, request := range map[string][2]string{
		"expired":                {"GET", expired},
		"another installation's": {"GET", other},
		"not signed":             {"GET", unsigned},
		"another method":         {"PUT", get},
		"another method back":    {"GET", put},
		"another key":            {"GET", strings.Replace(get, "out.txt?", "key.pem?", 1)},
		"another limit":          {"PUT", strings.Replace(put, "limit=10", "limit=99", 1)},
		"a longer life":          {"GET", strings.Replace(get, "expires=1", "expires=2", 1)},
		"another name":           {"GET", strings.Replace(get, "name=out.txt", "name=out.exe", 1)},
		"a shorter signature":    {"GET", get[:len(get)-1]},
		"a path upwards":         {"GET", strings.Replace(get, "att_a", "att_b%2F..%2Fatt_a", 1)},
	} {
		g.do(request[0], request[1], "x").want(t, name, 403, fault.Denied)
		g.do(request[0], request[1], "x", admin).want(t, name+", with a token", 403, fault.Denied)
	}
	g.do("PUT", put, "0123456789a").want(t, "a byte over the limit", 413, fault.TooLarge)
	if got := g.do("GET", get, ""); string(got.body) != "0123456789" {
		t.Errorf("after all this the file is %q", got.body)
	}
}

func TestOnlyALiveAttemptMayStoreArtifacts(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.engine.addJob("job_a", dayfly.Running, "att_1", "att_2")
	if got := g.do("PUT", g.putURL("artifacts/job_a/att_2/x", 9, ""), "new"); got.status != http.StatusCreated {
		t.Errorf("the live attempt: got %d: %s", got.status, got.body)
	}
	g.do("PUT", g.putURL("artifacts/job_a/att_1/x", 9, ""), "old").want(t, "an attempt that is over", 409, fault.StaleAttempt)
	g.do("PUT", g.putURL("artifacts/job_a/att_3/x", 9, ""), "old").want(t, "an attempt there is not", 409, fault.StaleAttempt)
	g.do("PUT", g.putURL("artifacts/job_b/att_2/x", 9, ""), "old").want(t, "a job there is not", 404, fault.NotFound)
	g.engine.change("job_a", func(j *jobRow) { j.State, j.AttemptLog[1].State = dayfly.Succeeded, dayfly.AttemptSucceeded })
	g.do("PUT", g.putURL("artifacts/job_a/att_2/x", 9, ""), "late").want(t, "after the result was accepted", 409, fault.StaleAttempt)
	if info, err := g.blobs.Stat(t.Context(), "artifacts/job_a/att_2/x"); err != nil || info.SHA256 != sum("new") {
		t.Errorf("the published artifact is %+v, %v", info, err)
	}
}

func TestFilesAreSentInPartsAndConditionally(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.store("artifacts/j/a/n", "0123456789", "text/html")
	target := g.getURL("artifacts/j/a/n", "n")
	tag := `"` + sum("0123456789") + `"`
	for name, test := range map[string]struct {
		headers []string
		status  int
		body    string
		rng     string
	}{
		"all":                   {nil, 200, "0123456789", ""},
		"the beginning":         {[]string{"Range: bytes=0-3"}, 206, "0123", "bytes 0-3/10"},
		"the middle":            {[]string{"Range: bytes=4-4"}, 206, "4", "bytes 4-4/10"},
		"from the middle":       {[]string{"Range: bytes=7-"}, 206, "789", "bytes 7-9/10"},
		"the end":               {[]string{"Range: bytes=-3"}, 206, "789", "bytes 7-9/10"},
		"more than there is":    {[]string{"Range: bytes=5-99"}, 206, "56789", "bytes 5-9/10"},
		"a longer end":          {[]string{"Range: bytes=-99"}, 206, "0123456789", "bytes 0-9/10"},
		"the same version":      {[]string{"Range: bytes=1-2", "If-Range: " + tag}, 206, "12", "bytes 1-2/10"},
		"another version":       {[]string{"Range: bytes=1-2", `If-Range: "other"`}, 200, "0123456789", ""},
		"several":               {[]string{"Range: bytes=0-1,5-6"}, 200, "0123456789", ""},
		"backwards":             {[]string{"Range: bytes=5-2"}, 200, "0123456789", ""},
		"another unit":          {[]string{"Range: lines=1-2"}, 200, "0123456789", ""},
		"nonsense":              {[]string{"Range: bytes=a-b"}, 200, "0123456789", ""},
		"nothing":               {[]string{"Range: bytes=-"}, 200, "0123456789", ""},
		"numbers out of bounds": {[]string{"Range: bytes=99999999999999999999-"}, 200, "0123456789", ""},
		"unchanged":             {[]string{"If-None-Match: " + tag}, 304, "", ""},
		"unchanged, one of two": {[]string{`If-None-Match: "x", W/` + tag}, 304, "", ""},
		"changed":               {[]string{`If-None-Match: "x"`}, 200, "0123456789", ""},
	} {
		got := g.do("GET", target, "", test.headers...)
		if got.status != test.status || string(got.body) != test.body || got.header.Get("Content-Range") != test.rng {
			t.Errorf("%s: got %d %q %q, want %d %q %q", name, got.status, got.body, got.header.Get("Content-Range"), test.status, test.body, test.rng)
		}
		if got.header.Get("ETag") != tag {
			t.Errorf("%s: ETag %s, want %s", name, got.header.Get("ETag"), tag)
		}
	}
	for _, r := range []string{"bytes=10-", "bytes=10-20", "bytes=-0"} {
		got := g.do("GET", target, "", "Range: "+r)
		got.want(t, r, 416, fault.Invalid)
		if got.header.Get("Content-Range") != "bytes */10" {
			t.Errorf("%s: Content-Range %q", r, got.header.Get("Content-Range"))
		}
	}
	head := g.do("HEAD", target, "")
	if head.status != 200 || len(head.body) != 0 || head.header.Get("Content-Length") != "10" {
		t.Errorf("HEAD: got %d, %d bytes, Content-Length %s", head.status, len(head.body), head.header.Get("Content-Length"))
	}
	if err := g.blobs.Delete(t.Context(), "artifacts/j/a/n"); err != nil {
		t.Fatal(err)
	}
	g.do("GET", target, "").want(t, "deleted", 404, fault.NotFound)
}

func TestABrowserSavesFilesAndRunsNone(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.store("artifacts/j/a/x.html", "<script>alert(1)</script>", "text/html")
	for name, want := range map[string]string{
		"x.html":                     `attachment; filename="x.html"`,
		"dir/sub/x.html":             `attachment; filename="x.html"`,
		"":                           "attachment",
		"..":                         "attachment",
		"a b.txt":                    `attachment; filename="a b.txt"`,
		"a\"\r\nSet-Cookie: b":       `attachment; filename="a___Set-Cookie: b"; filename*=UTF-8''a%22__Set-Cookie%3A%20b`,
		"ü.txt":                      `attachment; filename="_.txt"; filename*=UTF-8''%C3%BC.txt`,
		"a%41;b":                     `attachment; filename="a_41_b"; filename*=UTF-8''a%2541%3Bb`,
		"c:\\windows\\x.exe":         `attachment; filename="x.exe"`,
		"gpj.\u202eexe":              `attachment; filename="gpj._exe"; filename*=UTF-8''gpj._exe`,
		"\xff\xfe":                   `attachment; filename="__"; filename*=UTF-8''_`,
		strings.Repeat("/", 9) + "x": `attachment; filename="x"`,
	} {
		got := g.do("GET", g.getURL("artifacts/j/a/x.html", name), "")
		if got.status != 200 || got.header.Get("Content-Disposition") != want {
			t.Errorf("name %q: got %d, Content-Disposition %q, want %q", name, got.status, got.header.Get("Content-Disposition"), want)
		}
		if got.header.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(got.header.Get("Content-Security-Policy"), "sandbox") || got.header.Get("Set-Cookie") != "" {
			t.Errorf("name %q: header %v", name, got.header)
		}
	}
}

func TestAnUploadThatBreaksOffLeavesNothing(t *testing.T) {
	t.Parallel()
	g := newRig(t).serve()
	g.engine.addJob("job_a", dayfly.Running, "att_a")
	const key = "artifacts/job_a/att_a/x"
	target := g.url + g.putURL(key, 1<<20, "")
	r, err := http.NewRequestWithContext(t.Context(), "PUT", target, io.MultiReader(strings.NewReader("half"), failing{}))
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = 100
	if resp, err := http.DefaultClient.Do(r); err == nil {
		t.Errorf("an upload that breaks off: got %s", resp.Status)
	}
	chunked, err := http.NewRequestWithContext(t.Context(), "PUT", target, io.LimitReader(zeros{}, 1<<20+1))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(chunked); err == nil {
		if resp.Body.Close(); resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("more than the limit, in chunks: got %s, want 413", resp.Status)
		}
	}
	waitFor(t, "nothing is left of the uploads", func() bool {
		for range g.blobs.List(t.Context(), "") {
			return false
		}
		return true
	})
	ok, err := http.NewRequestWithContext(t.Context(), "PUT", target, io.LimitReader(zeros{}, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(ok)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("exactly the limit, in chunks: %v, %v", resp, err)
	}
	resp.Body.Close()
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("cut") }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestAFullDiskIsSaidAndDoesNotHurt(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *api.Options) { o.Blobs = fullBlobs{o.Blobs} })
	g.engine.addJob("job_a", dayfly.Running, "att_a")
	g.do("PUT", g.putURL("artifacts/job_a/att_a/x", 10, ""), "x").want(t, "a full disk", 507, fault.StoreFull)
}

type fullBlobs struct{ blob.Store }

func (fullBlobs) Put(_ context.Context, _ string, r io.Reader, _ *blob.PutOptions) (*blob.Info, error) {
	io.Copy(io.Discard, r)
	return nil, fmt.Errorf("fileblob: %w: %w", fault.StoreFull, os.ErrInvalid)
}

func TestUploadsAreBounded(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 10)
	g := newRig(t, func(o *api.Options) {
		o.Limits.Uploads = 1
		o.Blobs = tellingBlobs{o.Blobs, begun}
	}).serve()
	g.engine.addJob("job_a", dayfly.Running, "att_a")
	body, feed := io.Pipe()
	done := make(chan int)
	go func() {
		r, err := http.NewRequestWithContext(t.Context(), "PUT", g.url+g.putURL("artifacts/job_a/att_a/1", 10, ""), body)
		if err != nil {
			t.Error(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Error(err)
			done <- 0
			return
		}
		resp.Body.Close()
		done <- resp.StatusCode
	}()
	feed.Write([]byte("x"))
	<-begun
	g.do("PUT", g.putURL("artifacts/job_a/att_a/2", 10, ""), "x").want(t, "one too many", 503, fault.Unavailable)
	feed.Close()
	if status := <-done; status != http.StatusCreated {
		t.Errorf("the first upload: got %d", status)
	}
	if got := g.do("PUT", g.putURL("artifacts/job_a/att_a/2", 10, ""), "x"); got.status != http.StatusCreated {
		t.Errorf("after the first: got %d", got.status)
	}
}

// tellingBlobs tell when a put begins.
type tellingBlobs struct {
	blob.Store
	begun chan struct{}
}

func (b tellingBlobs) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	b.begun <- struct{}{}
	return b.Store.Put(ctx, key, r, o)
}

func TestUploadsOfOneInputAtOnceLeaveWhatIsRecorded(t *testing.T) {
	t.Parallel()
	g := newRig(t).serve()
	job := decode[dayfly.Job](t, g.do("POST", "/v1/jobs", `{"command":["a"],"inputs":[{"name":"x"}]}`), 201)
	target, err := url.Parse(job.Inputs[0].Upload.URL)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			data := bytes.Repeat([]byte{byte('a' + i)}, 100_000+i)
			r, err := http.NewRequestWithContext(t.Context(), "PUT", g.url+target.RequestURI(), bytes.NewReader(data))
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			if resp.Body.Close(); resp.StatusCode != http.StatusCreated {
				t.Errorf("upload %d: got %s", i, resp.Status)
			}
		})
	}
	all.Wait()
	info, err := g.blobs.Stat(t.Context(), g.engine.inputBlob(job.ID))
	in := decode[dayfly.Job](t, g.do("GET", "/v1/jobs/"+job.ID, ""), 200).Inputs[0]
	if err != nil || in.SHA256 != info.SHA256 || in.Size != info.Size {
		t.Errorf("recorded is %s of %d bytes, stored %+v, %v", in.SHA256, in.Size, info, err)
	}
}

// inputBlob returns where the first input of a job is kept.
func (f *fake) inputBlob(job string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.jobs[job].Inputs[0].Blob
}

// slowly uploads to a signed URL: begin sends the first half and returns once the server has it, the answer to finish is
// the status.
func (g *rig) slowly(t *testing.T, target, first, second string) (finish func() int) {
	t.Helper()
	body, feed := io.Pipe()
	done := make(chan int, 1)
	go func() {
		r, err := http.NewRequestWithContext(t.Context(), "PUT", g.url+target, body)
		if err != nil {
			t.Error(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Error(err)
			done <- 0
			return
		}
		resp.Body.Close()
		done <- resp.StatusCode
	}()
	feed.Write([]byte(first)) // which returns when the transport has taken it
	return func() int {
		feed.Write([]byte(second))
		feed.Close()
		return <-done
	}
}

func TestAnUploadThatEndsTooLateChangesNothing(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 10)
	g := newRig(t, func(o *api.Options) { o.Blobs = tellingBlobs{o.Blobs, begun} }).serve()
	job := decode[dayfly.Job](t, g.do("POST", "/v1/jobs", `{"command":["a"],"inputs":[{"name":"x"}]}`), 201)
	input := strings.TrimPrefix(job.Inputs[0].Upload.URL, "http://127.0.0.1:7700")
	g.engine.addJob("job_a", dayfly.Running, "att_a")
	const artifact = "artifacts/job_a/att_a/x"
	for _, target := range []string{input, g.putURL(artifact, 10, "")} {
		if got := g.do("PUT", target, "good"); got.status != http.StatusCreated {
			t.Fatalf("the upload in time: got %d: %s", got.status, got.body)
		}
		<-begun
	}
	lateInput, lateArtifact := g.slowly(t, input, "b", "ad!"), g.slowly(t, g.putURL(artifact, 10, ""), "b", "ad!")
	<-begun
	<-begun
	decode[dayfly.Job](t, g.do("POST", "/v1/jobs/"+job.ID+"/start", ""), 200)
	g.engine.change("job_a", func(j *jobRow) { j.State, j.AttemptLog[0].State = dayfly.Succeeded, dayfly.AttemptSucceeded })
	for what, upload := range map[string]struct {
		finish func() int
		key    string
	}{"input": {lateInput, g.engine.inputBlob(job.ID)}, "artifact": {lateArtifact, artifact}} {
		if status := upload.finish(); status != http.StatusConflict {
			t.Errorf("the late %s: got %d, want 409", what, status)
		}
		if info, err := g.blobs.Stat(t.Context(), upload.key); err != nil || info.SHA256 != sum("good") {
			t.Errorf("after the late %s there is %+v, %v; want what was uploaded in time", what, info, err)
		}
	}
}

func TestABodyIsTakenAsItIsOrNotAtAll(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	job := decode[dayfly.Job](t, g.do("POST", "/v1/jobs", `{"command":["a"],"inputs":[{"name":"x"}]}`), 201)
	upload := strings.TrimPrefix(job.Inputs[0].Upload.URL, "http://127.0.0.1:7700")
	const encoded = "Content-Encoding: gzip"
	for what, p := range map[string]api.Problem{
		"Content-Range":                g.do("PUT", upload, "part", "Content-Range: bytes 0-3/10").want(t, "a part", 400, fault.Invalid),
		"Content-Encoding":             g.do("PUT", upload, "zip", encoded).want(t, "an encoded file", 415, fault.Invalid),
		"Content-Encoding of JSON":     g.do("POST", "/v1/jobs", `{"command":["a"]}`, encoded).want(t, "an encoded job", 415, fault.Invalid),
		"Content-Encoding of no other": g.do("PUT", upload, "zip", "Content-Encoding: identity", encoded).want(t, "encoded twice", 415, fault.Invalid),
	} {
		if field, _, _ := strings.Cut(what, " "); p.Field != field {
			t.Errorf("%s: got field %q, want %q", what, p.Field, field)
		}
	}
	if in := decode[dayfly.Job](t, g.do("GET", "/v1/jobs/"+job.ID, ""), 200).Inputs[0]; in.Uploaded {
		t.Errorf("after all this the input counts as uploaded: %+v", in)
	}
	if got := g.do("PUT", upload, "whole", "Content-Encoding: Identity"); got.status != http.StatusCreated {
		t.Errorf("the whole as it is: got %d: %s", got.status, got.body)
	}
}
