package azureblob_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/azureblob"
	"github.com/dayfly-run/dayfly/blob/azureblob/azuretest"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/remoteblob/remoteblobtest"
)

// TestFaults tries them all on one service, which takes a while to start.
func TestFaults(t *testing.T) {
	t.Parallel()
	service := azuretest.Start(t)
	remoteblobtest.Run(t, remoteblobtest.Harness{
		URL: service.URL,
		Open: func(t *testing.T, p remoteblobtest.Place) blob.Store {
			return openWith(t, service, &azureblob.Options{Endpoint: p.URL, Prefix: p.Prefix, PartSize: p.PartSize, Patience: p.Patience})
		},
		PartSize: 1 << 20,
		IsPart:   func(r *http.Request) bool { return r.URL.Query().Get("comp") == "block" },
	})
	t.Run("AContainerThatIsGoneIsNotTakenForObjectsThatAreGone", func(t *testing.T) {
		t.Parallel()
		own := service.AnotherContainer(t)
		s := open(t, own, "")
		remoteblobtest.MustPut(t, s, "k", []byte("x"))
		own.RemoveContainer(t)
		remoteblobtest.WantPassing(t, remoteblobtest.All(t, s), "there is no container another at ")
	})
	t.Run("ARefusedKeyPassesAndIsNotShown", func(t *testing.T) {
		t.Parallel()
		right := open(t, service, t.Name())
		remoteblobtest.MustPut(t, right, "k", []byte("x"))
		rotated := *service
		rotated.Key = "c2VjcmV0LW9mLWJlZm9yZQ=="
		errs := remoteblobtest.All(t, open(t, &rotated, t.Name()))
		remoteblobtest.WantPassing(t, errs, "the access key is wrong or has been replaced")
		for method, err := range errs {
			if text := fmt.Sprint(err); strings.Contains(text, rotated.Key) || strings.Contains(text, "SharedKey") {
				t.Errorf("%s shows a secret: %v", method, err)
			}
		}
		remoteblobtest.WantAbsent(t, right, "new")
	})
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
