package s3blob_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/s3blob"
	"github.com/dayfly-run/dayfly/blob/s3blob/s3test"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/remoteblob/remoteblobtest"
)

func TestFaults(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	h := remoteblobtest.Harness{
		URL: service.URL,
		Open: func(t *testing.T, p remoteblobtest.Place) blob.Store {
			return openWith(t, service, &s3blob.Options{Endpoint: p.URL, Prefix: p.Prefix, PartSize: p.PartSize, Patience: p.Patience})
		},
		PartSize: 5 << 20,
		IsPart:   func(r *http.Request) bool { return r.URL.Query().Has("partNumber") },
		Aborts:   1,
	}
	remoteblobtest.Run(t, h)
	t.Run("AWrongClockIsNamed", func(t *testing.T) {
		t.Parallel()
		skewed := h.Between(t, func(w http.ResponseWriter, _ *http.Request) bool {
			remoteblobtest.Refuse(w, http.StatusForbidden, "RequestTimeTooSkewed")
			return true
		})
		remoteblobtest.WantPassing(t, remoteblobtest.All(t, h.Open(t, remoteblobtest.Place{URL: skewed})), "set the clock")
	})
	t.Run("RefusedCredentialsPassAndAreNotShown", func(t *testing.T) {
		t.Parallel()
		right := open(t, service, t.Name())
		remoteblobtest.MustPut(t, right, "k", []byte("x"))
		rotated, other := *service, *service
		rotated.SecretKey, other.AccessKey = "the-secret-of-before", "the-key-of-before"
		for name, of := range map[string]*s3test.Service{"another secret": &rotated, "another key": &other} {
			errs := remoteblobtest.All(t, open(t, of, t.Name()))
			remoteblobtest.WantPassing(t, errs, "credentials")
			for method, err := range errs {
				if text := fmt.Sprint(err); strings.Contains(text, of.SecretKey) || strings.Contains(text, "Signature=") {
					t.Errorf("%s with %s shows a secret: %v", method, name, err)
				}
			}
		}
		remoteblobtest.WantAbsent(t, right, "new")
	})
}

func TestABucketThatIsGoneIsNotTakenForObjectsThatAreGone(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	s := open(t, service, "")
	remoteblobtest.MustPut(t, s, "k", []byte("x"))
	if err := os.RemoveAll(service.Dir); err != nil {
		t.Fatal(err)
	}
	remoteblobtest.WantPassing(t, remoteblobtest.All(t, s), "there is no bucket bucket at ")
	if err := os.Mkdir(service.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	remoteblobtest.WantAbsent(t, s, "k") // it went with its bucket
	remoteblobtest.MustPut(t, s, "k", []byte("x"))
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
