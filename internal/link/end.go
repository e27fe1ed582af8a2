package link

import (
	"fmt"

	"github.com/dayfly-run/dayfly/fault"
)

// End says why a link is over. It is what [Link.Serve], [Link.Err] and a refused [Link.Send] return.
type End struct {
	// Lost is whether the peer is gone without a goodbye: its process died, it was silent, or it has given this side up.
	// What was sent shortly before may or may not have arrived.
	Lost bool
	// Here is whether this side ended it, with [Link.Close] or [Link.Lose].
	Here bool
	// Reason is why, as a sentence without a full stop; "" when the link was closed without a reason.
	Reason string
	// Kind is the kind of the reason: fault.Unavailable for a link that was lost by itself, "" without a reason.
	Kind fault.Kind
	// Cause is what this side's Close or Lose was given, or the failure of the connection; it may be nil.
	Cause error
}

// Error says who ended the link, and why.
func (e *End) Error() string {
	what := "link: closed by the peer"
	switch {
	case e.Lost:
		what = "link: lost"
	case e.Here:
		what = "link: closed"
	}
	if e.Reason == "" {
		return what
	}
	return what + ": " + e.Reason
}

// Unwrap returns the kind, with which [fault.Of] answers for a link that ended with a reason, and the cause.
func (e *End) Unwrap() []error {
	var inside []error
	if e.Cause != nil {
		inside = append(inside, e.Cause)
	}
	switch {
	case e.Kind != "":
		inside = append(inside, e.Kind)
	case e.Cause == nil:
		inside = append(inside, fault.Unavailable) // what was to be sent cannot be, here
	}
	return inside
}

// Mismatch says that parent and runner are not of the same build, and so would not understand each other's functions.
// Both sides get it: [Guest.Wait] and [Dial]. Its kind is fault.Invalid, because trying again changes nothing.
type Mismatch struct {
	Parent Hello // what the parent is
	Runner Hello // what the runner is
}

// Error names both builds.
func (m *Mismatch) Error() string {
	return fmt.Sprintf("link: the runner is another build than its parent: the runner is %s and the parent %s; start runners from the parent's own binary",
		m.Runner.describe(), m.Parent.describe())
}

// Unwrap returns fault.Invalid.
func (m *Mismatch) Unwrap() error { return fault.Invalid }

// Refused says that a parent did not admit a runner. Dialing again with the same invitation changes nothing.
type Refused struct {
	Kind   fault.Kind // fault.Unauthenticated for a wrong or used token, fault.Invalid for a protocol or build
	Reason string     // what the parent said
}

// Error says what the parent said.
func (r *Refused) Error() string { return "link: the parent refused: " + r.Reason }

// Unwrap returns the kind.
func (r *Refused) Unwrap() error { return r.Kind }
