package azureblob_test

import (
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"unicode"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/azureblob"
	"github.com/dayfly-run/dayfly/blob/azureblob/azuretest"
	"github.com/dayfly-run/dayfly/blob/blobtest"
)

func open(t *testing.T, s *azuretest.Service, prefix string) *azureblob.Store {
	t.Helper()
	return openWith(t, s, &azureblob.Options{Endpoint: s.URL, Prefix: prefix, PartSize: 1 << 20})
}

func openWith(t *testing.T, s *azuretest.Service, o *azureblob.Options) *azureblob.Store {
	t.Helper()
	o.SpoolDir = t.TempDir()
	store, err := azureblob.Open(s.Account, s.Container, s.Key, o)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestStore(t *testing.T) {
	t.Parallel()
	service := azuretest.Start(t)
	var cases atomic.Int64
	blobtest.Run(t, blobtest.Harness{
		New:    func(t *testing.T) blob.Store { return open(t, service, "case-"+strconv.FormatInt(cases.Add(1), 10)) },
		Reopen: func(t *testing.T, s blob.Store) blob.Store { return open(t, service, s.(*azureblob.Store).Prefix()) },
		Holds: func(key string) bool {
			return !strings.ContainsFunc(key, unicode.IsControl) && !strings.Contains(key, "\\") && !strings.Contains(key+"/", "./")
		},
	})
}
