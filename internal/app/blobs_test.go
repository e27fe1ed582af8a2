package app_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/blob/azureblob/azuretest"
	"github.com/dayfly-run/dayfly/blob/s3blob/s3test"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/app"
)

// watched is a way to a service on which every request is seen.
type watched struct {
	url string

	mu       sync.Mutex
	requests []string                                                 // method, and whether it was signed in the URL
	instead  func(w http.ResponseWriter, r *http.Request) (done bool) // guarded by mu
}

func watch(t *testing.T, service string) *watched {
	t.Helper()
	target, err := url.Parse(service)
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: target.Scheme, Host: target.Host})
		r.Out.Host = r.In.Host
	}}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		kind := "signed by a header"
		if query := r.URL.Query(); query.Has("X-Amz-Signature") || query.Has("sig") {
			kind = "signed in the URL"
		}
		w.mu.Lock()
		w.requests = append(w.requests, r.Method+" "+kind)
		instead := w.instead
		w.mu.Unlock()
		if instead == nil || !instead(rw, r) {
			proxy.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(server.Close)
	w.url = server.URL + target.Path
	return w
}

func (w *watched) seen(request string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.requests {
		if r == request {
			n++
		}
	}
	return n
}

func (w *watched) setInstead(instead func(http.ResponseWriter, *http.Request) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.instead = instead
}

// serveWith runs a server with this configuration of blobs, and returns a client of it.
func serveWith(t *testing.T, blobs app.Blobs) *dayfly.Client {
	t.Helper()
	c := app.Default()
	c.DataDir, c.Listen, c.Blobs = filepath.Join(t.TempDir(), "data"), []string{"127.0.0.1:0"}, blobs
	s, err := app.Start(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	client, err := dayfly.NewClient(s.URL(), &dayfly.ClientOptions{Token: s.Token()})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// turnAround runs a job whose input comes back as an artifact, and returns how it ended.
func turnAround(t *testing.T, c *dayfly.Client, data []byte, during func(job *dayfly.Job)) *dayfly.Job {
	t.Helper()
	job, err := c.Submit(t.Context(), &dayfly.JobSpec{
		Command: []string{"sh", "-c", "cp in.bin out.bin && : >empty.bin"}, Outputs: []string{"out.bin", "empty.bin"},
		Inputs: []dayfly.InputSpec{{Name: "in.bin", ContentType: "application/x-test"}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Upload(t.Context(), *job.Inputs[0].Upload, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatalf("uploading: %v", err)
	}
	if during != nil {
		during(job)
	}
	if _, err := c.Start(t.Context(), job.ID); err != nil {
		t.Fatal(err)
	}
	ended, err := c.Wait(t.Context(), job.ID)
	if err != nil {
		t.Fatal(err)
	}
	return ended
}

// wantBack wants the job to have succeeded, and its artifacts to be downloaded whole.
func wantBack(t *testing.T, c *dayfly.Client, job *dayfly.Job, data []byte) {
	t.Helper()
	if job.State != dayfly.Succeeded || len(job.Artifacts) != 2 {
		t.Fatalf("the job is %s (%s: %s) with artifacts %+v; want it succeeded, with two", job.State, job.Reason, job.Message, job.Artifacts)
	}
	for _, artifact := range job.Artifacts {
		r, err := c.Download(t.Context(), artifact)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if want := data; err != nil || artifact.Name == "out.bin" && !bytes.Equal(got, want) || artifact.Name == "empty.bin" && len(got) > 0 {
			t.Errorf("downloading %s: got %d bytes, %v; want what went in, %d", artifact.Name, len(got), err, len(want))
		}
		r.Close()
	}
}

func files(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			found = append(found, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func s3Config(s *s3test.Service, way *watched, direct bool) app.Blobs {
	b := app.Blobs{URL: "s3://" + s.Bucket + "/dayfly", Endpoint: way.url, AccessKey: s.AccessKey, SecretKey: s.SecretKey, Direct: direct}
	if direct {
		b.PublicEndpoint = way.url // else the address of this computer would not be handed out
	}
	return b
}

func TestFilesGoThroughTheServerIntoABucketAndBack(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	way := watch(t, service.URL)
	client := serveWith(t, s3Config(service, way, false))
	data := bytes.Repeat([]byte("0123456789"), 200_000)
	job := turnAround(t, client, data, nil)
	wantBack(t, client, job, data)
	if n := way.seen("GET signed in the URL") + way.seen("PUT signed in the URL"); n != 0 {
		t.Errorf("got %d requests by signed URLs, want none", n)
	}
	if stored := files(t, filepath.Join(service.Dir, "dayfly")); len(stored) != 4 {
		t.Errorf("the bucket holds %q, want its owner, one input and two artifacts", stored)
	}
	if err := client.Delete(t.Context(), job.ID); err != nil {
		t.Fatal(err)
	}
	if stored := files(t, service.Dir); !slices.Equal(stored, []string{"dayfly/dayfly-owner"}) {
		t.Errorf("after the job was deleted the bucket holds %q, want its owner alone", stored)
	}
}

func TestMachinesAndClientsUseTheBucketItself(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	way := watch(t, service.URL)
	client := serveWith(t, s3Config(service, way, true))
	data := bytes.Repeat([]byte("abcdefghij"), 200_000)
	wantBack(t, client, turnAround(t, client, data, nil), data)
	// One input to the machine; two outputs to the client; and two outputs from the machine.
	if gets, puts := way.seen("GET signed in the URL"), way.seen("PUT signed in the URL"); gets != 3 || puts != 2 {
		t.Errorf("by signed URLs there were %d GETs and %d PUTs, want 3 and 2", gets, puts)
	}
}

func TestFilesGoIntoAContainerOfAzureAndBack(t *testing.T) {
	t.Parallel()
	service := azuretest.Start(t)
	way := watch(t, service.URL)
	client := serveWith(t, app.Blobs{URL: "azure://" + service.Account + "/" + service.Container + "/dayfly", Endpoint: way.url, PublicEndpoint: way.url,
		SecretKey: service.Key, Direct: true})
	data := bytes.Repeat([]byte("0123456789"), 200_000)
	wantBack(t, client, turnAround(t, client, data, nil), data)
	// A signature of Azure binds no checksum, so what machines upload goes through the server.
	if gets, puts := way.seen("GET signed in the URL"), way.seen("PUT signed in the URL"); gets != 3 || puts != 0 {
		t.Errorf("by signed URLs there were %d GETs and %d PUTs, want 3 and 0", gets, puts)
	}
}

func TestAJobOutlivesAStoreThatIsAwayWhileItRuns(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(w http.ResponseWriter, r *http.Request){
		"keys were replaced": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, "<Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>")
		},
		"the bucket is gone": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, "<Error><Code>NoSuchBucket</Code><Message>no</Message></Error>")
		},
		"connections are cut": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		for _, direct := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, direct %v", name, direct), func(t *testing.T) {
				t.Parallel()
				service := s3test.Start(t, "")
				way := watch(t, service.URL)
				client := serveWith(t, s3Config(service, way, direct))
				data := []byte("what goes in")
				job := turnAround(t, client, data, func(*dayfly.Job) {
					left := 6 // requests that fail before all is well again
					way.setInstead(func(w http.ResponseWriter, r *http.Request) bool {
						way.mu.Lock()
						left--
						fails := left >= 0 && !strings.Contains(r.URL.Path, "dayfly-probe")
						way.mu.Unlock()
						if fails {
							away(w, r)
						}
						return fails
					})
				})
				wantBack(t, client, job, data)
			})
		}
	}
}

func TestAMachineThatCannotReachTheStoreGoesByTheServer(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	way := watch(t, service.URL)
	client := serveWith(t, s3Config(service, way, true))
	way.setInstead(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.Header.Get("User-Agent"), "dayfly-agent/") {
			panic(http.ErrAbortHandler)
		}
		return false
	})
	data := []byte("what goes in")
	wantBack(t, client, turnAround(t, client, data, nil), data)
}

func TestAStoreOfAnotherServerIsNotClearedUp(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	config := app.Default()
	config.Listen, config.Blobs = []string{"127.0.0.1:0"}, s3Config(service, &watched{url: service.URL}, false)
	logOf := func(dir string) string {
		var log bytes.Buffer
		config.DataDir = dir
		s, err := app.Start(t.Context(), config, &app.StartOptions{LogTo: &log})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		return log.String()
	}
	first, second := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for name, say := range map[string]string{"the first": logOf(first), "the first again": logOf(first)} {
		if strings.Contains(say, "belongs to") {
			t.Errorf("%s server of a store says %q, want nothing of another's", name, say)
		}
	}
	if say := logOf(second); !strings.Contains(say, "belongs to the server on another data directory") {
		t.Errorf("a second server says %q, want whose the store is", say)
	}
}

func TestAStoreThatCannotBeUsedKeepsNoServerFromStarting(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	way := watch(t, service.URL)
	config := s3Config(service, way, false)
	config.SecretKey = "not-the-secret"
	client := serveWith(t, config)
	waiting, err := client.Submit(t.Context(), &dayfly.JobSpec{Command: []string{"true"}, Inputs: []dayfly.InputSpec{{Name: "in"}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	// A reader that cannot be begun again is not tried again.
	err = client.Upload(t.Context(), *waiting.Inputs[0].Upload, io.MultiReader(strings.NewReader("x")), 1)
	if say := fmt.Sprint(err); fault.Of(err) != fault.Unavailable || !strings.Contains(say, "the place where files are kept") || strings.Contains(say, "Signature") {
		t.Errorf("an upload: got %v, want kind unavailable, and whose affair it is without its details", err)
	}
	job, err := client.Submit(t.Context(), &dayfly.JobSpec{Command: []string{"true"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if job, err = client.Wait(t.Context(), job.ID); err != nil || job.State != dayfly.Succeeded {
		t.Errorf("a job without files: got %+v, %v; want it succeeded", job, err)
	}
}

func TestTheStoreIsExamined(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	examine := func(change func(b *app.Blobs)) app.Check {
		c := app.Default()
		c.DataDir, c.Listen = t.TempDir(), []string{"127.0.0.1:0"}
		c.Blobs = s3Config(service, &watched{url: service.URL}, false)
		change(&c.Blobs)
		for _, check := range app.Examine(t.Context(), c, &app.ExamineOptions{Program: "dayfly"}) {
			if check.Name == "object store" {
				return check
			}
		}
		return app.Check{Text: "there is no check of the store"}
	}
	if check := examine(func(*app.Blobs) {}); check.Result != app.Good || !strings.Contains(check.Text, "s3://bucket/dayfly/ at ") {
		t.Errorf("a store that works: got %+v, want it good and named", check)
	}
	if stored := files(t, service.Dir); len(stored) != 0 {
		t.Errorf("the examination leaves %q behind, want nothing", stored)
	}
	for say, change := range map[string]func(b *app.Blobs){
		"there is no bucket nobody":           func(b *app.Blobs) { b.URL = "s3://nobody" },
		"the credentials are wrong":           func(b *app.Blobs) { b.SecretKey = "not-the-secret" },
		"did not answer":                      func(b *app.Blobs) { b.Endpoint = "http://127.0.0.1:1" },
		"blobs.secret_key_file: cannot be":    func(b *app.Blobs) { b.SecretKey, b.SecretKeyFile = "", "/nowhere" },
		"is not the URL of a service, such a": func(b *app.Blobs) { b.Endpoint = "127.0.0.1:9000" },
	} {
		if check := examine(change); check.Result != app.Bad || !strings.Contains(check.Text, say) || strings.Contains(check.Text, "not-the-secret") {
			t.Errorf("got %+v, want it bad, saying %q and no secret", check, say)
		}
	}
}

func TestTheSecretKeyMayBeInAFile(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	config := s3Config(service, &watched{url: service.URL}, false)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(config.SecretKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config.SecretKey, config.SecretKeyFile = "", file
	client := serveWith(t, config)
	data := []byte("x")
	wantBack(t, client, turnAround(t, client, data, nil), data)
}

func TestABlobsSectionThatCannotBeRightIsRefused(t *testing.T) {
	t.Parallel()
	for key, change := range map[string]func(b *app.Blobs){
		"blobs.url":             func(b *app.Blobs) { b.URL = "gs://bucket" },
		"blobs.access_key":      func(b *app.Blobs) { b.URL, b.AccessKey = "s3://bucket", "k" },
		"blobs.secret_key_file": func(b *app.Blobs) { b.URL, b.AccessKey, b.SecretKey, b.SecretKeyFile = "s3://bucket", "k", "s", "/f" },
		"blobs.endpoint":        func(b *app.Blobs) { b.Endpoint = "https://s3.example.com" },
	} {
		c := app.Default()
		change(&c.Blobs)
		field := ""
		if err, ok := errors.AsType[*fault.FieldError](c.Validate()); ok {
			field = err.Field
		}
		if field != key {
			t.Errorf("Validate with %+v: got %v, want a mistake in %s", c.Blobs, c.Validate(), key)
		}
	}
	c := app.Default()
	c.Blobs.URL = "azure://account"
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "names no container") {
		t.Errorf("Validate of an account alone: got %v, want that there is no container", err)
	}
}
