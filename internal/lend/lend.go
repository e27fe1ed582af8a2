// Package lend lends a reader to an HTTP transport, as the body of a request, and takes it back.
//
// A transport may go on reading a body when the request has been answered, refused or given up: the goroutine that sends
// is not the one that the caller waits for. Who rewinds the reader then, to send it again, moves it under the hands of
// somebody who still reads, and neither of the two sends what it should. A [Body] ends that: after [Body.TakeBack] the
// transport is turned away, and the reader is its owner's alone.
package lend

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
)

// Body is the body of one request, read from somebody else's reader. It is safe for concurrent use.
type Body struct {
	r     io.Reader
	turn  chan struct{} // holds one element while r is being read
	left  int64         // how many bytes are still to come, if it was known; whose turn it is may use it
	ended atomic.Bool
}

// New lends r for one request of so many bytes, of which a negative number means that nobody knows.
func New(r io.Reader, size int64) *Body {
	return &Body{r: r, turn: make(chan struct{}, 1), left: size}
}

// errTakenBack tells a transport that it need not go on. It is not io.EOF, because what is sent in chunks would look whole.
var errTakenBack = errors.New("the body of the request has been taken back")

// Read reads from the reader, unless it has been taken back. Who has read all that there is only finds the end then, so
// a connection on which everything was sent is not lost.
func (b *Body) Read(p []byte) (int, error) {
	b.turn <- struct{}{}
	defer func() { <-b.turn }()
	switch {
	case !b.ended.Load():
		n, err := b.r.Read(p)
		b.left -= int64(n)
		return n, err
	case b.left == 0:
		return 0, io.EOF
	}
	return 0, errTakenBack
}

// Close is how a transport says that it reads no more. The reader is not closed.
func (b *Body) Close() error {
	b.ended.Store(true)
	return nil
}

// TakeBack ends the loan. A Read that is under way is waited for as long as ctx lasts; whether it has ended, so that the
// reader is its owner's alone, is what TakeBack reports.
func (b *Body) TakeBack(ctx context.Context) bool {
	b.ended.Store(true)
	select {
	case b.turn <- struct{}{}:
	default:
		select {
		case b.turn <- struct{}{}:
		case <-ctx.Done():
			return false
		}
	}
	<-b.turn
	return true
}
