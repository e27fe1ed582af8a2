package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// artifactsNamed returns n artifacts with different names of that many bytes.
func artifactsNamed(n, bytes int) []wire.Artifact {
	all := make([]wire.Artifact, n)
	for i := range all {
		all[i].Name = fmt.Sprintf("%0*d", bytes, i)
		if bytes > 255 {
			all[i].Name = strings.Repeat("d/", (bytes-8)/2) + fmt.Sprintf("%08d", i)
		}
	}
	return all
}

func TestAResultOverALimitOfTheProtocolIsRefused(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", wire.MaxSentence+1)
	for name, test := range map[string]struct {
		change func(r *wire.Result)
		field  string
	}{
		"too large a value":        {func(r *wire.Result) { r.Value = make([]byte, wire.MaxResultValue+1) }, "value"},
		"too long a reason":        {func(r *wire.Result) { r.Reason = long }, "reason"},
		"too long a message":       {func(r *wire.Result) { r.Message = long }, "message"},
		"too long a message of it": {func(r *wire.Result) { r.Exit = &machine.Exit{Code: 1, Message: long} }, "exit.message"},
		"too many warnings":        {func(r *wire.Result) { r.Warnings = make([]string, wire.MaxWarnings+1) }, "warnings"},
		"too long a warning":       {func(r *wire.Result) { r.Warnings = []string{"", long} }, "warnings"},
		"too many artifacts":       {func(r *wire.Result) { r.Artifacts = artifactsNamed(wire.MaxArtifacts+1, 10) }, "artifacts"},
		"too long a name":          {func(r *wire.Result) { r.Artifacts = artifactsNamed(1, wire.MaxArtifactName+2) }, "artifacts[0].name"},
		"too long names together":  {func(r *wire.Result) { r.Artifacts = artifactsNamed(257, wire.MaxArtifactName) }, "artifacts"},
		"a name that is no text":   {func(r *wire.Result) { r.Artifacts = []wire.Artifact{{Name: "a"}, {Name: "b\tc"}} }, "artifacts[1].name"},
	} {
		r := &wire.Result{Outcome: wire.Failed}
		if err := checkResult(r); err != nil {
			t.Fatalf("without anything wrong: %v", err)
		}
		test.change(r)
		err := checkResult(r)
		if general := fault.Of(err).General(); general != fault.Invalid {
			t.Errorf("%s: got error %v, want a kind of fault.Invalid", name, err)
		}
		if wrong, ok := errors.AsType[*fault.FieldError](err); !ok || wrong.Field != test.field {
			t.Errorf("%s: got %v, want an error about %s", name, err, test.field)
		}
	}
	most := &wire.Result{Outcome: wire.Failed, Artifacts: artifactsNamed(256, wire.MaxArtifactName)}
	if err := checkResult(most); err != nil {
		t.Errorf("the longest names that are allowed: got %v, want nil", err)
	}
}
