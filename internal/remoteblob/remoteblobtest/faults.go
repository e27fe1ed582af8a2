// Package remoteblobtest tries what can go wrong on the way from a store to the computer that keeps its objects, and there.
// That a store does what it should otherwise is tried by blobtest.
package remoteblobtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// Harness is how the faults get at a store and its service.
type Harness struct {
	// URL is that of a running service.
	URL string
	// Open returns a store there, or at another URL by which it is reached.
	Open func(t *testing.T, p Place) blob.Store
	// PartSize is the least that a part of a large object can have, and IsPart tells a request that sends one.
	PartSize int64
	IsPart   func(r *http.Request) bool
	// Aborts is how many requests an upload that fails half-way makes for the service to forget its parts.
	Aborts int64
}

// Place is where a store is. PartSize and Patience are the store's defaults if they are 0.
type Place struct {
	URL, Prefix string
	PartSize    int64
	Patience    time.Duration
}

// Run tries all faults, each on objects of its own.
func Run(t *testing.T, h Harness) {
	for name, try := range map[string]func(t *testing.T, h Harness){
		"AServiceThatStumblesIsAskedAgain":         stumbles,
		"AServiceThatIsBrokenPasses":               broken,
		"ABodyThatIsRefusedUnreadIsSentAgainWhole": refusesUnread,
		"AnObjectThatBreaksOffIsNotTakenForWhole":  breaksOff,
		"ATransferThatStandsStillEnds":             standsStill,
		"WhatIsDamagedOnTheWayIsNotStored":         damaged,
		"ALargeObjectIsSentInPartsAndSeenWhole":    large,
		"AnUploadThatFailsHalfWayLeavesNothing":    half,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			try(t, h)
		})
	}
}

// Between puts a proxy between a store and the service, which handles each request instead of passing it on if the
// function says so, and returns the URL of the service behind it.
func (h Harness) Between(t *testing.T, instead func(w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	target, err := url.Parse(strings.TrimSuffix(h.URL, h.path(t)))
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
	return server.URL + h.path(t)
}

// path returns that of the service's URL, such as Azure's, which has the account.
func (h Harness) path(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(h.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path
}

// at returns a store for one test, reached by the URL.
func (h Harness) at(t *testing.T, url string) blob.Store {
	t.Helper()
	return h.Open(t, Place{URL: url, Prefix: t.Name(), PartSize: h.PartSize})
}

// Refuse answers as a service does that refuses, with the code where the libraries of S3 and of Azure look for it.
func Refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Minio-Error-Code", code) // for answers to HEAD, which have no body
	w.Header().Set("X-Ms-Error-Code", code)
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>no</Message></Error>`, code)
}

// All calls every method that asks the service, all at once, and returns their errors by name.
func All(t *testing.T, s blob.Store) map[string]error {
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

// MustPut stores an object.
func MustPut(t *testing.T, s blob.Store, key string, data []byte) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, bytes.NewReader(data), nil); err != nil {
		t.Fatalf("Put %s: %v", key, err)
	}
}

// WantPassing wants all errors to be such that the call is made again, and to say something.
func WantPassing(t *testing.T, errs map[string]error, say string) {
	t.Helper()
	for name, err := range errs {
		if fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: got %v (kind %q), want kind unavailable and %q in it", name, err, fault.Of(err), say)
		}
	}
}

// WantAbsent wants an object not to be there.
func WantAbsent(t *testing.T, s blob.Store, key string) {
	t.Helper()
	if _, err := s.Stat(t.Context(), key); fault.Of(err) != fault.NotFound {
		t.Errorf("Stat %s: got %v, want not_found", key, err)
	}
}

func stumbles(t *testing.T, h Harness) {
	var requests atomic.Int64
	s := h.at(t, h.Between(t, func(w http.ResponseWriter, r *http.Request) bool {
		switch requests.Add(1) % 3 {
		case 1:
			Refuse(w, http.StatusServiceUnavailable, "SlowDown")
		case 2:
			panic(http.ErrAbortHandler) // the connection is cut
		default:
			return false
		}
		return true
	}))
	MustPut(t, s, "k", []byte("x"))
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

func broken(t *testing.T, h Harness) {
	for name, answer := range map[string]http.HandlerFunc{
		"errors": func(w http.ResponseWriter, _ *http.Request) {
			Refuse(w, http.StatusInternalServerError, "InternalError")
		},
		"a page": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprint(w, "<html>sorry</html>")
		},
		"nothing": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := h.at(t, h.Between(t, func(w http.ResponseWriter, r *http.Request) bool {
				answer(w, r)
				return true
			}))
			WantPassing(t, All(t, s), "")
		})
	}
	nobody := httptest.NewServer(nil)
	nobody.Close()
	WantPassing(t, All(t, h.at(t, nobody.URL+h.path(t))), "did not answer")
}

// refusesUnread answers before it reads a body that is more than a connection takes while nobody reads it. So the transport
// is still at it when the store has the answer and begins anew.
func refusesUnread(t *testing.T, h Harness) {
	var tries atomic.Int64
	again := make(chan struct{})
	s := h.Open(t, Place{Prefix: t.Name(), PartSize: 16 << 20, URL: h.Between(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		switch tries.Add(1) {
		case 1:
			w.Header().Set("Content-Length", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			w.(http.Flusher).Flush()
			select { // it does not hang up either
			case <-again:
			case <-t.Context().Done():
			}
			return true
		case 2:
			close(again)
		}
		return false
	})})
	data := content(12 << 20)
	MustPut(t, s, "k", data)
	if got, err := read(t, s, "k"); err != nil || !bytes.Equal(got, data) || tries.Load() != 2 {
		t.Errorf("after %d tries: got %d bytes, %v; want the %d that were put, after 2", tries.Load(), len(got), err, len(data))
	}
}

// content returns n bytes of which no two parts are the same.
func content(n int64) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // which never fails
	return data
}

func breaksOff(t *testing.T, h Harness) {
	MustPut(t, h.at(t, h.URL), "k", bytes.Repeat([]byte("x"), 100_000))
	s := h.at(t, h.Between(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		begin(w, 100_000)
		w.Write(bytes.Repeat([]byte("x"), 60_000))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	data, err := read(t, s, "k")
	if fault.Of(err) != fault.Unavailable || len(data) > 60_000 {
		t.Errorf("Get of an object that breaks off: got %d bytes, %v; want at most 60000 and kind unavailable", len(data), err)
	}
}

// begin begins the answer to a GET.
func begin(w http.ResponseWriter, size int) {
	w.Header().Set("Content-Length", fmt.Sprint(size))
	w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	w.WriteHeader(http.StatusOK)
}

func standsStill(t *testing.T, h Harness) {
	release := make(chan struct{})
	defer close(release)
	s := h.Open(t, Place{Prefix: t.Name(), Patience: 200 * time.Millisecond, URL: h.Between(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			begin(w, 1000)
			w.(http.Flusher).Flush()
		}
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	})})
	_, put := s.Put(t.Context(), "k", strings.NewReader("x"), nil)
	_, get := read(t, s, "k")
	WantPassing(t, map[string]error{"Put": put, "Get": get}, "has not moved a byte for 200ms")
}

func damaged(t *testing.T, h Harness) {
	s := h.at(t, h.Between(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			data, _ := io.ReadAll(r.Body)
			if len(data) > 0 {
				data[len(data)/2] ^= 1
			}
			r.Body = io.NopCloser(bytes.NewReader(data))
		}
		return false
	}))
	for _, size := range []int64{1000, h.PartSize + 1000} { // the second in parts
		_, err := s.Put(t.Context(), "k", bytes.NewReader(make([]byte, size)), nil)
		WantPassing(t, map[string]error{fmt.Sprintf("Put of %d bytes", size): err}, "")
		WantAbsent(t, h.at(t, h.URL), "k")
	}
}

func large(t *testing.T, h Harness) {
	data := content(2*h.PartSize + 345)
	sum := sha256.Sum256(data)
	var parts atomic.Int64
	s := h.at(t, h.Between(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if h.IsPart(r) {
			parts.Add(1)
		}
		return false
	}))
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
}

func half(t *testing.T, h Harness) {
	var parts, aborts atomic.Int64
	s := h.at(t, h.Between(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodDelete {
			aborts.Add(1)
		}
		if !h.IsPart(r) || parts.Add(1) != 2 {
			return false
		}
		Refuse(w, http.StatusForbidden, "AccessDenied")
		return true
	}))
	_, err := s.Put(t.Context(), "k", bytes.NewReader(content(2*h.PartSize+345)), nil)
	WantPassing(t, map[string]error{"Put of which a part fails": err}, "")
	WantAbsent(t, s, "k")
	if aborts.Load() != h.Aborts {
		t.Errorf("after a part has failed %d uploads were aborted, want %d", aborts.Load(), h.Aborts)
	}
}
