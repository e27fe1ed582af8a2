package call

import (
	"encoding/binary"
	"errors"
)

// kind is the first byte of a frame. The id of the call is next, except in settings, drain, log and leaving.
type kind byte

const (
	kindSettings kind = iota + 1 // JSON of Settings; the parent's first frame
	kindOpen                     // flags, time left, function, readers, types, length, the argument's first part
	kindPart                     // more of the value that was begun last in this direction
	kindCancel                   // reason
	kindCredit                   // channel, bytes; 0 bytes: no more are wanted
	kindData                     // channel, flags, bytes
	kindDrain                    // no more calls come, and what runs should come to its end
	kindStarted                  // a placement: its function is about to run
	kindResult                   // outcome, flags, readers, types, length, the value's first part
	kindItem                     // like a result
	kindEnd                      // the readers of the result have been sent
	kindProgress                 // fraction, text
	kindLog                      // records
	kindLeaving                  // the runner was told to stop, by somebody other than its parent
)

// Flags of an open.
const (
	flagDetached     = 1 << iota // goes on without its caller
	flagPlaced                   // says when it starts
	flagTypes                    // the types of the argument are here
	flagResultsKnown             // the types of the results need not be sent
)

// Flags of a data frame.
const (
	dataEnd    = 1 << iota // the reader is at its end
	dataFailed             // the reader has failed; the bytes are two fields, the kind and how
)

// The reasons of a cancel.
const (
	cancelCaller   = 0 // the caller's context was canceled, its handle closed or its loop left
	cancelDeadline = 1 // the time is up
	cancelDrained  = 2 // the runner is stopped, and the time to come to an end is up
)

// outcome says how a call has ended.
type outcome byte

const (
	outcomeValue    outcome = iota // the function returned a value
	outcomeError                   // the function returned an error: kind, message
	outcomePanic                   // the function panicked: message, stack
	outcomeRefused                 // the function was not run: kind, sentence
	outcomeUnsent                  // the function returned a value that cannot be sent: kind, sentence
	outcomeCanceled                // the function returned the error of its context, which had ended
)

const (
	// maxWhole is how large a value may be to be sent in one frame. The other side then keeps the frame instead of copying
	// the value out of it.
	maxWhole = 1 << 20
	// maxPart is how many bytes of a larger one are in a frame. Larger parts are no faster, and smaller ones let others pass
	// sooner.
	maxPart = 256 << 10
)

// errMalformed is what a frame is that this package did not write.
var errMalformed = errors.New("a frame makes no sense")

// reader takes a frame apart. After the first field that is not there all are zero and bad is set.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.bad = true
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.bad = true
		r.rest = nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

// bytes returns the next field, which is part of the frame.
func (r *reader) bytes() []byte {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.bad = true
		r.rest = nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) text() string { return string(r.bytes()) }

// header begins a frame about a call.
func header(b []byte, k kind, id uint64) []byte {
	return binary.AppendUvarint(append(b[:0], byte(k)), id)
}

// field appends a field that reader.bytes reads.
func field[T string | []byte](b []byte, f T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(f))), f...)
}
