package s3blob_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/s3blob"
	"github.com/dayfly-run/dayfly/blob/s3blob/s3test"
	"github.com/dayfly-run/dayfly/fault"
)

// between puts a proxy between a store and the service, which handles each request instead of passing it on if the
// function says so.
func between(t *testing.T, s *s3test.Service, instead func(w http.ResponseWriter, r *http.Request) bool) *s3blob.Store {
	t.Helper()
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !instead(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	through := *s
	through.URL = server.URL
	return open(t, &through, "")
}

// all calls every method that asks the service, all at once, and returns their errors by name.
func all(t *testing.T, s *s3blob.Store) map[string]error {
	t.Helper()
	errs := map[string]error{}
	var mu sync.Mutex
	var calls sync.WaitGroup
	for name, call := range map[string]func() error{
		"Put":    func() error { _, err := s.Put(t.Context(), "new", strings.NewReader("x"), nil); return err },
		"Get":    func() error { _, err := read(t, s, "k"); return err },
		"Stat":   func() error { _, err := s.Stat(t.Context(), "k"); return err },
		"Delete": func() error { return s.Delete(t.Context(), "other") },
		"List": func() (last error) {
			for _, err := range s.List(t.Context(), "") {
				last = err
			}
			return last
		},
		"Folders": func() (last error) {
			for _, err := range s.Folders(t.Context(), "") {
				last = err
			}
			return last
		},
	} {
		calls.Go(func() {
			err := call()
			mu.Lock()
			errs[name] = err
			mu.Unlock()
		})
	}
	calls.Wait()
	return errs
}

func read(t *testing.T, s blob.Store, key string) ([]byte, error) {
	t.Helper()
	r, err := s.Get(t.Context(), key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func mustPut(t *testing.T, s blob.Store, key string, data []byte) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, bytes.NewReader(data), nil); err != nil {
		t.Fatalf("Put %s: %v", key, err)
	}
}

// wantPassing wants all errors to be such that the call is made again, and to say something.
func wantPassing(t *testing.T, errs map[string]error, say string) {
	t.Helper()
	for name, err := range errs {
		if fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: got %v (kind %q), want kind unavailable and %q in it", name, err, fault.Of(err), say)
		}
	}
}

func refusal(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Minio-Error-Code", code) // for answers to HEAD, which have no body
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>no</Message></Error>`, code)
}

func TestABucketThatIsGoneIsNotTakenForObjectsThatAreGone(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	s := open(t, service, "")
	mustPut(t, s, "k", []byte("x"))
	if err := os.RemoveAll(service.Dir); err != nil {
		t.Fatal(err)
	}
	wantPassing(t, all(t, s), "there is no bucket bucket at ")
	if err := os.Mkdir(service.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "k"); fault.Of(err) != fault.NotFound {
		t.Errorf("Stat of an object that went with its bucket, when there is a bucket again: got %v, want not_found", err)
	}
	mustPut(t, s, "k", []byte("x"))
}

func TestRefusedCredentialsPassAndAreNotShown(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	mustPut(t, open(t, service, ""), "k", []byte("x"))
	rotated, other := *service, *service
	rotated.SecretKey, other.AccessKey = "the-secret-of-before", "the-key-of-before"
	for name, of := range map[string]*s3test.Service{"another secret": &rotated, "another key": &other} {
		errs := all(t, open(t, of, ""))
		wantPassing(t, errs, "s3blob: ")
		for method, err := range errs {
			if text := fmt.Sprint(err); strings.Contains(text, of.SecretKey) || strings.Contains(text, "Signature=") {
				t.Errorf("%s with %s shows a secret: %v", method, name, err)
			}
			if !strings.Contains(fmt.Sprint(err), "credentials") {
				t.Errorf("%s with %s: got %v, want it to speak of the credentials", method, name, err)
			}
		}
	}
	if _, err := open(t, service, "").Stat(t.Context(), "new"); fault.Of(err) != fault.NotFound {
		t.Errorf("after all were refused, Stat of what they put: got %v, want not_found", err)
	}
}

func TestAWrongClockIsNamed(t *testing.T) {
	t.Parallel()
	s := between(t, s3test.Start(t, ""), func(w http.ResponseWriter, r *http.Request) bool {
		refusal(w, http.StatusForbidden, "RequestTimeTooSkewed")
		return true
	})
	wantPassing(t, all(t, s), "set the clock")
}

func TestAServiceThatStumblesIsAskedAgain(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	s := between(t, s3test.Start(t, ""), func(w http.ResponseWriter, r *http.Request) bool {
		switch requests.Add(1) % 3 {
		case 1:
			refusal(w, http.StatusServiceUnavailable, "SlowDown")
		case 2:
			panic(http.ErrAbortHandler) // the connection is cut
		default:
			return false
		}
		return true
	})
	mustPut(t, s, "k", []byte("x"))
	if data, err := read(t, s, "k"); err != nil || string(data) != "x" {
		t.Errorf("Get: got %q, %v; want what was put", data, err)
	}
	if _, err := s.Stat(t.Context(), "k"); err != nil {
		t.Errorf("Stat: got %v, want nil", err)
	}
	for _, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Errorf("List: got %v, want nil", err)
		}
	}
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Errorf("Delete: got %v, want nil", err)
	}
}

func TestAServiceThatIsBrokenPasses(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	for name, answer := range map[string]http.HandlerFunc{
		"errors": func(w http.ResponseWriter, _ *http.Request) {
			refusal(w, http.StatusInternalServerError, "InternalError")
		},
		"a page": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(w, "<html>sorry</html>")
		},
		"nothing": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := between(t, service, func(w http.ResponseWriter, r *http.Request) bool {
				answer(w, r)
				return true
			})
			wantPassing(t, all(t, s), "s3blob: ")
		})
	}
	closed := httptest.NewServer(nil)
	nobody := *service
	nobody.URL = closed.URL
	closed.Close()
	wantPassing(t, all(t, open(t, &nobody, "")), "did not answer")
}

func TestAnObjectThatBreaksOffIsNotTakenForWhole(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	mustPut(t, open(t, service, ""), "k", bytes.Repeat([]byte("x"), 100_000))
	s := between(t, service, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		w.Header().Set("Content-Length", "100000")
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusOK)
		w.Write(bytes.Repeat([]byte("x"), 60_000))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	data, err := read(t, s, "k")
	if fault.Of(err) != fault.Unavailable || len(data) > 60_000 {
		t.Errorf("Get of an object that breaks off: got %d bytes, %v; want at most 60000 and kind unavailable", len(data), err)
	}
}

func TestATransferThatStandsStillEnds(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := between(t, s3test.Start(t, ""), func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", "1000")
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	})
	defer close(release)
	s.SetPatience(200 * time.Millisecond)
	_, put := s.Put(t.Context(), "k", strings.NewReader("x"), nil)
	_, get := read(t, s, "k")
	wantPassing(t, map[string]error{"Put": put, "Get": get}, "has not moved a byte for 200ms")
}

func TestWhatIsDamagedOnTheWayIsNotStored(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	s := between(t, service, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			data, _ := io.ReadAll(r.Body)
			if len(data) > 0 {
				data[len(data)/2] ^= 1
			}
			r.Body = io.NopCloser(bytes.NewReader(data))
		}
		return false
	})
	for _, size := range []int{1000, 6 << 20} { // the second in parts
		_, err := s.Put(t.Context(), "k", bytes.NewReader(make([]byte, size)), nil)
		wantPassing(t, map[string]error{fmt.Sprintf("Put of %d bytes", size): err}, "s3blob: ")
		if _, err := open(t, service, "").Stat(t.Context(), "k"); fault.Of(err) != fault.NotFound {
			t.Errorf("Stat of what was damaged: got %v, want not_found", err)
		}
	}
}

func TestALargeObjectIsSentInPartsAndSeenWhole(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	data := make([]byte, 12<<20+345)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	sum := sha256.Sum256(data)
	var parts, aborts atomic.Int64
	var broken atomic.Bool
	s := between(t, service, func(w http.ResponseWriter, r *http.Request) bool {
		number := r.URL.Query().Get("partNumber")
		switch {
		case r.Method == http.MethodDelete && r.URL.Query().Has("uploadId"):
			aborts.Add(1)
		case number == "2" && broken.Load():
			refusal(w, http.StatusInternalServerError, "InternalError")
			return true
		case number != "":
			parts.Add(1)
		}
		return false
	})
	info, err := s.Put(t.Context(), "large", bytes.NewReader(data), &blob.PutOptions{ContentType: "video/mp4", Size: int64(len(data))})
	if err != nil || info.SHA256 != hex.EncodeToString(sum[:]) || parts.Load() != 3 {
		t.Fatalf("Put: got %+v, %v in %d parts; want the checksum, in 3 parts", info, err, parts.Load())
	}
	known, err := s.Stat(t.Context(), "large")
	if err != nil || known.Size != int64(len(data)) || known.SHA256 != info.SHA256 || known.ContentType != "video/mp4" {
		t.Errorf("Stat: got %+v, %v; want what Put returned, %+v", known, err, info)
	}
	if got, err := read(t, s, "large"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("Get: got %d bytes, %v; want the %d that were put", len(got), err, len(data))
	}
	broken.Store(true)
	_, err = s.Put(t.Context(), "half", bytes.NewReader(data), nil)
	wantPassing(t, map[string]error{"Put of which a part fails": err}, "s3blob: ")
	if _, err := s.Stat(t.Context(), "half"); fault.Of(err) != fault.NotFound || aborts.Load() != 1 {
		t.Errorf("after a part has failed: Stat says %v, and %d uploads were aborted; want not_found and 1", err, aborts.Load())
	}
}

func TestWhatCannotBeABucketIsRefused(t *testing.T) {
	t.Parallel()
	for name, try := range map[string]struct {
		bucket string
		s3blob.Options
	}{
		"no bucket":              {"", s3blob.Options{}},
		"a bucket with a slash":  {"a/b", s3blob.Options{}},
		"an endpoint of no kind": {"b", s3blob.Options{Endpoint: "localhost:9000"}},
		"an endpoint with a key": {"b", s3blob.Options{Endpoint: "https://user:hunter2@localhost:9000"}},
		"a path in the endpoint": {"b", s3blob.Options{Endpoint: "https://localhost/bucket"}},
		"a prefix that is none":  {"b", s3blob.Options{Prefix: "a//b"}},
		"parts that are small":   {"b", s3blob.Options{PartSize: 1 << 20}},
	} {
		_, err := s3blob.Open(try.bucket, &try.Options)
		if fault.Of(err) != fault.Invalid || strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("Open with %s: got %v, want kind invalid and no password", name, err)
		}
	}
}
