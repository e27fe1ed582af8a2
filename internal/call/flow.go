package call

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/link"
)

// window is how many bytes of a reader, or of the items of a stream, are on their way or wait to be read. Both sides know it.
const window = 512 << 10

// itemCost is what an item costs besides its bytes, so that items of nothing cannot pile up.
const itemCost = 64

// errUnwanted is what a sender learns when its receiver wants no more.
var errUnwanted = errors.New("nobody reads it any more")

// allowance is how much a sender may still send.
type allowance struct {
	mu      sync.Mutex
	left    int
	stopped bool
	wake    chan struct{} // holds one token when something has changed
}

func newAllowance() *allowance { return &allowance{left: window, wake: make(chan struct{}, 1)} }

// take waits until something may be sent and takes n bytes off, more than are left if need be: so what is larger than the
// window can be sent too.
func (a *allowance) take(ctx context.Context, n int) error {
	for {
		a.mu.Lock()
		stopped, ok := a.stopped, a.left > 0
		if ok && !stopped {
			a.left -= n
		}
		a.mu.Unlock()
		switch {
		case stopped:
			return errUnwanted
		case ok:
			return nil
		}
		select {
		case <-a.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// give allows n more bytes; none says that no more are wanted.
func (a *allowance) give(n int) {
	a.mu.Lock()
	a.left += n
	a.stopped = a.stopped || n == 0
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// inflow is a reader whose bytes come over the link.
type inflow struct {
	credit func(n int)       // tells the sender that n bytes were read, or with 0 that no more are wanted
	told   func(error) error // makes of why it ends what Read returns; nil leaves it

	mu     sync.Mutex
	change sync.Cond
	chunks [][]byte
	held   int // bytes in chunks
	taken  int // bytes read since the last credit
	err    error
	closed bool
}

func newInflow(credit func(n int)) *inflow {
	f := &inflow{credit: credit}
	f.change.L = &f.mu
	return f
}

// add takes bytes that have arrived. It reports false when the sender has not kept to its allowance.
func (f *inflow) add(data []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed || f.err != nil || len(data) == 0:
		return true
	case f.held > window:
		return false
	}
	if len(data) < link.OwnFrame {
		data = append([]byte(nil), data...)
	}
	f.chunks = append(f.chunks, data)
	f.held += len(data)
	f.change.Broadcast()
	return true
}

// end makes Read return err after what has arrived.
func (f *inflow) end(err error) {
	if f.told != nil && !errors.Is(err, io.EOF) {
		err = f.told(err)
	}
	f.mu.Lock()
	if f.err == nil {
		f.err = err
	}
	f.change.Broadcast()
	f.mu.Unlock()
}

// Read waits for bytes, or the end.
func (f *inflow) Read(p []byte) (int, error) {
	f.mu.Lock()
	for len(f.chunks) == 0 && f.err == nil && !f.closed && len(p) > 0 {
		f.change.Wait()
	}
	n := 0
	switch {
	case f.closed:
		f.mu.Unlock()
		return 0, io.ErrClosedPipe
	case len(f.chunks) > 0:
		n = copy(p, f.chunks[0])
		if f.chunks[0] = f.chunks[0][n:]; len(f.chunks[0]) == 0 {
			f.chunks[0] = nil
			f.chunks = f.chunks[1:]
		}
	case len(p) > 0:
		err := f.err
		f.mu.Unlock()
		return 0, err
	}
	f.held -= n
	f.taken += n
	due := 0
	if f.taken >= window/2 && f.err == nil {
		due, f.taken = f.taken, 0
	}
	f.mu.Unlock()
	if due > 0 {
		f.credit(due)
	}
	return n, nil
}

// Close says that no more will be read. The sender stops, and what has arrived is forgotten.
func (f *inflow) Close() error {
	f.mu.Lock()
	tell := !f.closed && f.err == nil
	f.closed = true
	f.chunks, f.held = nil, 0
	f.change.Broadcast()
	f.mu.Unlock()
	if tell {
		f.credit(0)
	}
	return nil
}

// outflow sends what a reader gives.
type outflow struct {
	link    Link
	id      uint64
	channel int
	allowed *allowance
	failed  func(error) // is told why the reader has failed, before the other side is; may be nil
}

// pump reads r to its end, or until the context ends or nobody wants more. The other side is told the end, unless it
// wanted none.
func (o *outflow) pump(ctx context.Context, r io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		// Room first: what was read and cannot be sent would be lost to whoever reads on.
		if o.allowed.take(ctx, 0) != nil {
			return
		}
		n, err := readSafely(r, buf)
		if n > 0 {
			if o.allowed.take(ctx, n) != nil || o.send(ctx, 0, buf[:n]) != nil {
				return
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			_ = o.send(ctx, dataEnd, nil) // the link is over, and so everybody knows
			return
		default:
			if o.failed != nil {
				o.failed(err)
			}
			_ = o.send(ctx, dataEnd|dataFailed, field(field(nil, string(fault.Of(err))), clip(err.Error(), maxMessage)))
			return
		}
	}
}

// readSafely is r.Read, whose panic is an error: it is not run by whoever made the reader, and would take the process along, with
// all other calls there are.
func readSafely(r io.Reader, buf []byte) (n int, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			n, err = 0, fault.Say(fault.Internal, "the reader panicked: %v", cause)
		}
	}()
	return r.Read(buf)
}

func (o *outflow) send(ctx context.Context, flags byte, data []byte) error {
	head := header(make([]byte, 0, 16), kindData, o.id)
	head = append(head, byte(o.channel), flags)
	return o.link.Send(ctx, head, data)
}

// maxReaders is how many readers a value can have.
const maxReaders = 32

// inflows makes the readers that the bits of set name. told makes of why they end what they return; nil leaves it.
func inflows(l Link, id uint64, set uint64, told func(error) error) []*inflow {
	if set == 0 {
		return nil
	}
	var all []*inflow
	for i := range maxReaders {
		if set>>i == 0 {
			break
		}
		var f *inflow
		if set&(1<<i) != 0 {
			f = newInflow(func(n int) {
				head := header(make([]byte, 0, 16), kindCredit, id)
				head = append(head, byte(i))
				head = appendNumber(head, n)
				_ = l.Post(head) // when it cannot be sent the sender has gone
			})
			f.told = told
		}
		all = append(all, f)
	}
	return all
}

// receive gives a data frame to its reader.
func receive(flows []*inflow, r *reader) error {
	channel, flags := int(r.byte()), r.byte()
	if r.bad || channel >= len(flows) || flows[channel] == nil {
		return errMalformed
	}
	f := flows[channel]
	switch {
	case flags&dataFailed != 0:
		failed := &readError{kind: fault.Kind(r.text()), message: r.text()}
		if r.bad {
			return errMalformed
		}
		f.end(failed)
	case flags&dataEnd != 0:
		f.end(io.EOF)
	case !f.add(r.rest):
		return errMalformed
	}
	return nil
}

// readError is why a reader failed on the other side, and of which kind that was.
type readError struct {
	kind    fault.Kind
	message string
}

func (e *readError) Unwrap() error { return e.kind }

func (e *readError) Error() string {
	return "the reader failed on the other side of the call: " + e.message
}
