package s3blob_test

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"unicode"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/blobtest"
	"github.com/dayfly-run/dayfly/blob/s3blob"
	"github.com/dayfly-run/dayfly/blob/s3blob/s3test"
)

func open(t *testing.T, s *s3test.Service, prefix string) *s3blob.Store {
	t.Helper()
	return openWith(t, s, &s3blob.Options{Endpoint: s.URL, Prefix: prefix, PartSize: 5 << 20})
}

func openWith(t *testing.T, s *s3test.Service, o *s3blob.Options) *s3blob.Store {
	t.Helper()
	o.AccessKey, o.SecretKey, o.SpoolDir = s.AccessKey, s.SecretKey, t.TempDir()
	store, err := s3blob.Open(s.Bucket, o)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestStore(t *testing.T) {
	t.Parallel()
	service := s3test.Start(t, "")
	var cases atomic.Int64
	blobtest.Run(t, blobtest.Harness{
		New:    func(t *testing.T) blob.Store { return open(t, service, "case-"+strconv.FormatInt(cases.Add(1), 10)) },
		Reopen: func(t *testing.T, s blob.Store) blob.Store { return open(t, service, s.(*s3blob.Store).Prefix()) },
		Flat:   true,
		Holds: func(key string) bool { // the service makes files of the parts
			long := func(part string) bool { return len(part) > 255 }
			return !slices.ContainsFunc(strings.Split(key, "/"), long) && !strings.ContainsFunc(key, unicode.IsControl)
		},
		Many: 1001, // more than one page of a listing
	})
}
