package dayfly_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
)

func TestADurationThatIsSomethingIsNeverReadAsNothing(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]dayfly.Duration{
		`0`: 0, `"0s"`: 0, `"0h0m0s"`: 0, `1e-10`: 1, `1e-300`: 1, `"0.1ns"`: 1, `"0.0000000001s"`: 1,
		`1e-9`: 1, `"1ns"`: 1, `1.5`: dayfly.Duration(1500 * time.Millisecond), `"10m"`: dayfly.Duration(10 * time.Minute),
	} {
		var got dayfly.Duration
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s: got %d ns, %v; want %d ns", text, int64(got), err, int64(want))
		}
	}
}
