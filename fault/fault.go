// Package fault names the kinds of failure that Dayfly tells apart.
//
// A [Kind] is itself an error. Whoever fails attaches one with %w and then tells the story:
//
//	fmt.Errorf("local: machine %s: %w: %w", name, fault.Unavailable, err)
//
// Whoever handles the failure asks for the kind with [Of] or errors.Is and never reads the text. The kind is also
// the "code" member of every error the HTTP API answers with, and the same word in every client, so a program in
// another language decides as a Go program would.
//
// Some kinds refine another: [StaleAttempt] is a [Conflict] that says which one. errors.Is(err, fault.Conflict)
// holds for both, and [Of] returns the finer.
//
// The package is a leaf: it imports the standard library only, and everything may import it.
package fault

import (
	"context"
	"errors"
	"fmt"
)

// Kind is one kind of failure. Its text is what the API sends as "code".
type Kind string

// The general kinds. Each says what the caller may do next.
const (
	Invalid         Kind = "invalid"         // The request can never succeed as written.
	Unauthenticated Kind = "unauthenticated" // No token, or one that is unknown, expired or revoked.
	Denied          Kind = "denied"          // The caller is known and may not do this.
	NotFound        Kind = "not_found"       // The thing named does not exist, or is not the caller's to know of.
	Conflict        Kind = "conflict"        // The thing exists already, or is in a state that forbids this.
	Exhausted       Kind = "exhausted"       // No capacity or quota; later, or elsewhere, may work.
	Unavailable     Kind = "unavailable"     // A passing failure; the same request may be tried again.
	Unsupported     Kind = "unsupported"     // This backend cannot do it.
	Canceled        Kind = "canceled"        // The caller gave up, or its deadline passed.
	Internal        Kind = "internal"        // A bug, or a failure nobody classified.
)

// The finer kinds, each of which is also the general kind named in its comment.
const (
	TooLarge            Kind = "too_large"            // Invalid: a body, field or file is over its limit.
	AlreadyClaimed      Kind = "already_claimed"      // Conflict: another instance holds this attempt.
	StaleAttempt        Kind = "stale_attempt"        // Conflict: the attempt is over or superseded; stop and discard.
	AlreadyFinished     Kind = "already_finished"     // Conflict: the job is in a terminal state.
	IdempotencyMismatch Kind = "idempotency_mismatch" // Conflict: this key was used with another body.
	StoreFull           Kind = "store_full"           // Exhausted: the disk under the store is full.
)

// Error returns the kind's name.
func (k Kind) Error() string { return string(k) }

// Is reports whether k refines target, so that errors.Is sees a StaleAttempt as a Conflict too.
func (k Kind) Is(target error) bool {
	t, ok := target.(Kind)
	return ok && (k == t || k.General() == t)
}

// General returns the general kind that k refines, or k itself.
func (k Kind) General() Kind {
	switch k {
	case TooLarge:
		return Invalid
	case AlreadyClaimed, StaleAttempt, AlreadyFinished, IdempotencyMismatch:
		return Conflict
	case StoreFull:
		return Exhausted
	default:
		return k
	}
}

// Of returns the kind of err: "" for nil, the first Kind in its tree, [Canceled] for the context errors, and
// [Internal] for an error nobody classified.
func Of(err error) Kind {
	if err == nil {
		return ""
	}
	if k, ok := errors.AsType[Kind](err); ok {
		return k
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return Canceled
	}
	return Internal
}

// FieldError says which part of a request is wrong. The API sends Field and Message to the caller, so Message is a
// sentence for a person and holds nothing internal.
type FieldError struct {
	Field   string // where, in the request's own words: "retry.max_attempts", "inputs[2].name"
	Kind    Kind   // Invalid or TooLarge
	Message string // what is wrong and what would be right
}

// Error returns the field and the message.
func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

// Unwrap returns the kind, which is how [Of] finds it.
func (e *FieldError) Unwrap() error { return e.Kind }

// Field returns a [FieldError] of kind [Invalid] whose message is formatted as by fmt.Sprintf.
func Field(field, format string, args ...any) error {
	return &FieldError{Field: field, Kind: Invalid, Message: fmt.Sprintf(format, args...)}
}

// Say returns an error of the given kind whose text is the formatted sentence alone. The sentence may be shown to
// the caller of the API. Use it for refusals that a person reads: "job job_… has already succeeded".
func Say(kind Kind, format string, args ...any) error {
	return &said{kind: kind, text: fmt.Sprintf(format, args...)}
}

// Sentence returns the sentence of the first [Say] or [FieldError] in err's tree, which is safe to show to the
// caller, and whether there was one.
func Sentence(err error) (string, bool) {
	if s, ok := errors.AsType[*said](err); ok {
		return s.text, true
	}
	if f, ok := errors.AsType[*FieldError](err); ok {
		return f.Error(), true
	}
	return "", false
}

type said struct {
	kind Kind
	text string
}

func (s *said) Error() string { return s.text }
func (s *said) Unwrap() error { return s.kind }
