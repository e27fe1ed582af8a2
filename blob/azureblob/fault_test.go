package azureblob_test

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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/azureblob"
	"github.com/dayfly-run/dayfly/blob/azureblob/azuretest"
	"github.com/dayfly-run/dayfly/fault"
)

// between puts a proxy between a store and the service, which handles each request instead of passing it on if the
// function says so.
func between(t *testing.T, s *azuretest.Service, instead func(w http.ResponseWriter, r *http.Request) bool) *azureblob.Store {
	t.Helper()
	target, err := url.Parse(strings.TrimSuffix(s.URL, "/"+s.Account))
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
	through.URL = server.URL + "/" + s.Account
	return open(t, &through, t.Name())
}

// all calls every method that asks the service, all at once, and returns their errors by name.
func all(t *testing.T, s *azureblob.Store) map[string]error {
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
	w.Header().Set("X-Ms-Error-Code", code)
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>no</Message></Error>`, code)
}

// TestFaults tries what can go wrong on the way to one service and in it, which takes a while to start.
func TestFaults(t *testing.T) {
	t.Parallel()
	service := azuretest.Start(t)
	for name, try := range map[string]func(t *testing.T, service *azuretest.Service){
		"AContainerThatIsGoneIsNotTakenForObjectsThatAreGone": aContainerThatIsGoneIsNotTakenForObjectsThatAreGone,
		"ARefusedKeyPassesAndIsNotShown":                      aRefusedKeyPassesAndIsNotShown,
		"AServiceThatStumblesIsAskedAgain":                    aServiceThatStumblesIsAskedAgain,
		"AServiceThatIsBrokenPasses":                          aServiceThatIsBrokenPasses,
		"AnObjectThatBreaksOffIsNotTakenForWhole":             anObjectThatBreaksOffIsNotTakenForWhole,
		"ATransferThatStandsStillEnds":                        aTransferThatStandsStillEnds,
		"WhatIsDamagedOnTheWayIsNotStored":                    whatIsDamagedOnTheWayIsNotStored,
		"ALargeObjectIsSentInBlocksAndSeenWhole":              aLargeObjectIsSentInBlocksAndSeenWhole,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			try(t, service)
		})
	}
}

func aContainerThatIsGoneIsNotTakenForObjectsThatAreGone(t *testing.T, service *azuretest.Service) {
	own := service.AnotherContainer(t)
	s := open(t, own, "")
	mustPut(t, s, "k", []byte("x"))
	own.RemoveContainer(t)
	wantPassing(t, all(t, s), "there is no container another at ")
}

func aRefusedKeyPassesAndIsNotShown(t *testing.T, service *azuretest.Service) {
	mustPut(t, open(t, service, t.Name()), "k", []byte("x"))
	rotated := *service
	rotated.Key = "c2VjcmV0LW9mLWJlZm9yZQ=="
	errs := all(t, open(t, &rotated, t.Name()))
	wantPassing(t, errs, "the access key is wrong or has been replaced")
	for method, err := range errs {
		if text := fmt.Sprint(err); strings.Contains(text, rotated.Key) || strings.Contains(text, "SharedKey") {
			t.Errorf("%s shows a secret: %v", method, err)
		}
	}
	if _, err := open(t, service, t.Name()).Stat(t.Context(), "new"); fault.Of(err) != fault.NotFound {
		t.Errorf("after all were refused, Stat of what was put: got %v, want not_found", err)
	}
}

func aServiceThatStumblesIsAskedAgain(t *testing.T, service *azuretest.Service) {
	var requests atomic.Int64
	s := between(t, service, func(w http.ResponseWriter, r *http.Request) bool {
		switch requests.Add(1) % 3 {
		case 1:
			refusal(w, http.StatusServiceUnavailable, "ServerBusy")
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

func aServiceThatIsBrokenPasses(t *testing.T, service *azuretest.Service) {
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
			wantPassing(t, all(t, s), "azureblob: ")
		})
	}
	closed := httptest.NewServer(nil)
	nobody := *service
	nobody.URL = closed.URL + "/" + service.Account
	closed.Close()
	wantPassing(t, all(t, open(t, &nobody, t.Name())), "did not answer")
}

func anObjectThatBreaksOffIsNotTakenForWhole(t *testing.T, service *azuretest.Service) {
	mustPut(t, open(t, service, t.Name()), "k", bytes.Repeat([]byte("x"), 100_000))
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

func aTransferThatStandsStillEnds(t *testing.T, service *azuretest.Service) {
	release := make(chan struct{})
	s := between(t, service, func(w http.ResponseWriter, r *http.Request) bool {
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

func whatIsDamagedOnTheWayIsNotStored(t *testing.T, service *azuretest.Service) {
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
		wantPassing(t, map[string]error{fmt.Sprintf("Put of %d bytes", size): err}, "azureblob: ")
		if _, err := open(t, service, t.Name()).Stat(t.Context(), "k"); fault.Of(err) != fault.NotFound {
			t.Errorf("Stat of what was damaged: got %v, want not_found", err)
		}
	}
}

func aLargeObjectIsSentInBlocksAndSeenWhole(t *testing.T, service *azuretest.Service) {
	data := make([]byte, 3<<20+345)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	sum := sha256.Sum256(data)
	var blocks atomic.Int64
	var broken atomic.Bool
	s := between(t, service, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("comp") != "block" {
			return false
		}
		if blocks.Add(1)%4 == 2 && broken.Load() {
			refusal(w, http.StatusForbidden, "AuthenticationFailed")
			return true
		}
		return false
	})
	info, err := s.Put(t.Context(), "large", bytes.NewReader(data), &blob.PutOptions{ContentType: "video/mp4", Size: int64(len(data))})
	if err != nil || info.SHA256 != hex.EncodeToString(sum[:]) || blocks.Load() != 4 {
		t.Fatalf("Put: got %+v, %v in %d blocks; want the checksum, in 4 blocks", info, err, blocks.Load())
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
	wantPassing(t, map[string]error{"Put of which a block fails": err}, "azureblob: ")
	if _, err := s.Stat(t.Context(), "half"); fault.Of(err) != fault.NotFound {
		t.Errorf("after a block has failed, Stat says %v, want not_found", err)
	}
}

func TestWhatCannotBeAContainerIsRefused(t *testing.T) {
	t.Parallel()
	for name, try := range map[string]struct {
		account, container, key string
		azureblob.Options
	}{
		"no account":             {"", "c", "a2V5", azureblob.Options{}},
		"an account with a dot":  {"a.blob", "c", "a2V5", azureblob.Options{}},
		"no container":           {"a", "", "a2V5", azureblob.Options{}},
		"a key that is cut":      {"a", "c", "hunter2", azureblob.Options{}},
		"an endpoint of no kind": {"a", "c", "a2V5", azureblob.Options{Endpoint: "localhost:10000"}},
		"an endpoint with a key": {"a", "c", "a2V5", azureblob.Options{Endpoint: "https://user:hunter2@localhost:9000"}},
		"a prefix that is none":  {"a", "c", "a2V5", azureblob.Options{Prefix: "a//b"}},
		"blocks that are small":  {"a", "c", "a2V5", azureblob.Options{PartSize: 1 << 10}},
	} {
		_, err := azureblob.Open(try.account, try.container, try.key, &try.Options)
		if fault.Of(err) != fault.Invalid || strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("Open with %s: got %v, want kind invalid and no secret", name, err)
		}
	}
}
