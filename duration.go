package dayfly

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// MaxDuration is the longest Duration a request may name: about 68 years, so that sums of a few cannot overflow.
const MaxDuration = Duration(math.MaxInt64 / 4)

// String returns d in the form of time.Duration: "1m30s".
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes d in the form "1m30s". JSON has that as a string; there is no MarshalJSON, because what that returns
// is checked and copied, which takes longer than to write it, and a job has ten durations.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalJSON reads a string such as "90s", or a number of seconds. Less than a nanosecond, but not nothing, is one
// nanosecond. A negative duration, or one above MaxDuration, is fault.Invalid.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte{'"'}) {
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		return d.UnmarshalText([]byte(text))
	}
	var seconds float64
	if err := json.Unmarshal(data, &seconds); err != nil {
		return fmt.Errorf("%w: a duration is a string such as \"90s\" or a number of seconds", fault.Invalid)
	}
	if seconds < 0 || seconds > time.Duration(MaxDuration).Seconds() {
		return fmt.Errorf("%w: a duration must be between 0 and %v", fault.Invalid, MaxDuration)
	}
	*d = Duration(seconds * float64(time.Second))
	if seconds > 0 {
		*d = max(*d, 1) // nothing often stands for a default, or for no limit
	}
	return nil
}

// UnmarshalText reads a duration in the form "90s". Errors are fault.Invalid.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%w: %q is not a duration such as \"90s\" or \"1h30m\"", fault.Invalid, text)
	}
	if parsed < 0 || parsed > time.Duration(MaxDuration) {
		return fmt.Errorf("%w: a duration must be between 0 and %v", fault.Invalid, MaxDuration)
	}
	*d = Duration(parsed)
	if bytes.ContainsAny(text, "123456789") {
		*d = max(*d, 1) // as for a number of seconds
	}
	return nil
}
