package call

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/link"
)

// Call is a call that was started. Its methods are for one goroutine at a time.
type Call struct {
	Request
	client  *Client
	id      uint64
	allowed []*allowance // of the readers in the argument, nil where there is none
	flows   context.Context
	stop    context.CancelFunc
	isStuck bool          // guarded by the client
	sentAt  atomic.Uint64 // one more than the position of the open, as a tracing Link says it; 0: it is not known

	mu       sync.Mutex
	wake     chan struct{} // holds one token when something has changed
	started  bool
	done     bool // the result is here, or failure
	failure  error
	data     value
	types    string
	items    []item
	held     int // bytes of items that have come and were not credited
	results  []*inflow
	progress *report
	unread   error // why a reader of the argument has failed
	left     bool  // nobody waits any more
	canceled bool
	reason   byte // why it was canceled
	stuck    *time.Timer
	unfollow func() bool // ends what ends the readers of the result with the context

	arriving  value // of the value whose parts come; for the link's goroutine alone
	isItem    bool
	outcome   outcome
	itemTypes string
	taken     int // bytes of items read since the last credit; for the reader's goroutine alone
}

// report is the last progress that was not told yet.
type report struct {
	fraction float64
	text     string
}

// item is one of a stream.
type item struct {
	types string
	data  value
}

// prepare makes what the readers of the argument need.
func (k *Call) prepare(ctx context.Context) {
	if len(k.Argument.Readers) == 0 {
		return
	}
	k.allowed = make([]*allowance, len(k.Argument.Readers))
	k.flows, k.stop = context.WithCancel(context.WithoutCancel(ctx))
	for i, r := range k.Argument.Readers {
		if r != nil {
			k.allowed[i] = newAllowance()
		}
	}
}

// sendOpen sends the argument. When it fails the call is over, or will be when the runner has answered.
func (k *Call) sendOpen(ctx context.Context, flags byte, types []byte) error {
	scratch := heads.Get().(*[]byte)
	defer heads.Put(scratch)
	head := header(*scratch, kindOpen, k.id)
	head = append(head, flags)
	left := uint64(0)
	if !k.Deadline.IsZero() {
		left = uint64(max(time.Until(k.Deadline), 1))
	}
	head = binary.AppendUvarint(head, left)
	head = field(head, k.Function)
	readers := uint64(0)
	for i, allowed := range k.allowed {
		if allowed != nil {
			readers |= 1 << i
		}
	}
	head = binary.AppendUvarint(head, readers)
	head = field(head, types)
	head = appendNumber(head, len(k.Argument.Data))
	sent, err := sendValue(ctx, k, k.client.link, scratch, head, k.id, k.Argument.Data)
	if err == nil {
		return nil
	}
	if sent {
		k.leave()
		k.cancel(cancelCaller)
	} else {
		k.client.finish(k)
	}
	return &Failure{Err: sendError(ctx, err)}
}

// send sends the first frame of the call, and notes where it is.
func (k *Call) send(ctx context.Context, parts ...[]byte) error {
	if k.client.trace == nil {
		return k.client.link.Send(ctx, parts...)
	}
	position, err := k.client.trace.SendAt(ctx, parts...)
	k.sentAt.Store(position + 1)
	return err
}

// neverArrived reports whether it is certain that the other side has heard nothing of the call, now that the link is over.
func (k *Call) neverArrived() bool {
	position := k.sentAt.Load()
	return position > 0 && position > k.client.trace.Tried()
}

// sendValue sends a value behind the head of its first frame, in as many frames as it takes. It says whether any was sent. k is the
// call that it opens, nil if it is what a runner sends.
func sendValue(ctx context.Context, k *Call, l Link, scratch *[]byte, head []byte, id uint64, data []byte) (sent bool, err error) {
	part := data
	if len(part) > maxWhole || len(head)+len(part) > link.MaxFrame {
		part = part[:maxPart]
	}
	data = data[len(part):]
	parts := make([][]byte, 1, 2)
	if len(part) <= maxInline {
		head = append(head, part...)
	} else {
		parts = append(parts, part)
	}
	parts[0], *scratch = head, head
	if k != nil {
		err = k.send(ctx, parts...)
	} else {
		err = l.Send(ctx, parts...)
	}
	for err == nil && len(data) > 0 {
		sent = true
		part, data = data[:min(len(data), maxPart)], data[min(len(data), maxPart):]
		err = l.Send(ctx, header(*scratch, kindPart, id), part)
	}
	return sent, err
}

// sendError says why nothing could be sent.
func sendError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return endOf(ctx)
	}
	return &lostError{err}
}

// readerFailed remembers why a reader of the argument has failed: the function learns only the text.
func (k *Call) readerFailed(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unread == nil {
		k.unread = err
	}
}

// Wait waits for the result, which Result and Reader then return. The error is a *FunctionError, or a *Failure. When the context
// ends the function is canceled, unless it is detached; that its context ends later ends the readers of the result.
func (k *Call) Wait(ctx context.Context) error {
	if err := k.await(ctx, func() bool { return k.done }); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.results != nil {
		k.unfollow = context.AfterFunc(ctx, func() { k.cancel(reasonOf(ctx)) })
	}
	return nil
}

// Result returns the description and the bytes of the value, after Wait. They are valid until Free.
func (k *Call) Result() (types string, data []byte) { return k.types, k.data.data }

// Free gives back the memory of the result.
func (k *Call) Free() { k.data.release() }

// Discard is for who wants nothing of the result, after Wait.
func (k *Call) Discard() {
	k.leave()
	k.Free()
}

// Reader returns a reader of the result, after Wait, or nil.
func (k *Call) Reader(i int) io.ReadCloser {
	if i >= len(k.results) || k.results[i] == nil {
		return nil
	}
	return k.results[i]
}

// Started waits until a placed function has been started, or has failed to.
func (k *Call) Started(ctx context.Context) error {
	return k.await(ctx, func() bool { return k.started || k.done })
}

// Next waits for the next item of a stream, calls use with it and returns true. After the last it returns false, with what the
// function returned: nil or an error as Wait gives.
func (k *Call) Next(ctx context.Context, use func(types string, data []byte) error) (bool, error) {
	var next *item
	err := k.await(ctx, func() bool {
		if len(k.items) > 0 {
			next = &k.items[0]
			return true
		}
		return k.done
	})
	if err != nil || next == nil {
		return false, err
	}
	k.mu.Lock()
	got := *next
	*next = item{}
	k.items = k.items[1:]
	k.held -= got.data.total + itemCost
	k.mu.Unlock()
	k.taken += got.data.total + itemCost
	if k.taken >= window/2 {
		k.credit(k.taken)
		k.taken = 0
	}
	err = use(got.types, got.data.data)
	got.data.release()
	return err == nil, err
}

// credit lets the function yield so many more bytes.
func (k *Call) credit(n int) {
	head := header(make([]byte, 0, 16), kindCredit, k.id)
	_ = k.client.link.Post(appendNumber(append(head, 0), n)) // the link's end ends the call, too
}

// Cancel ends the function's context.
func (k *Call) Cancel() {
	k.leave()
	k.cancel(cancelCaller)
}

// await waits until ready, which is called under the lock, or until the call fails.
func (k *Call) await(ctx context.Context, ready func() bool) error {
	var expired <-chan time.Time
	for {
		k.mu.Lock()
		now, ok, failure := k.progress, ready(), k.failure
		k.progress = nil
		k.mu.Unlock()
		if now != nil {
			k.tell(now)
		}
		switch {
		case ok && failure == nil, ok && !k.finished():
			return nil
		case failure != nil:
			return failure
		}
		if k.client.shared != nil && k.client.shared.Lead(ctx, k.Deadline, k.wake) {
			<-k.wake
			continue
		}
		if own, has := ctx.Deadline(); expired == nil && !k.Deadline.IsZero() && (!has || own.After(k.Deadline)) {
			t := k.client.timer(time.Until(k.Deadline))
			expired = t.C
			defer func() {
				t.Stop()
				k.client.timers.Put(t)
			}()
		}
		select {
		case <-k.wake:
		case <-ctx.Done():
			return k.abandon(reasonOf(ctx), endOf(ctx))
		case <-expired:
			return k.abandon(cancelDeadline, context.DeadlineExceeded)
		}
	}
}

// tell passes on what the function reports. If that panics nobody waits for the call any more.
func (k *Call) tell(now *report) {
	told := false
	defer func() {
		if !told {
			_ = k.abandon(cancelCaller, nil) // the panic is what its caller gets
		}
	}()
	k.Progress(now.fraction, now.text)
	told = true
}

// finished reports whether there is nothing left to read, so that a failure counts.
func (k *Call) finished() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.items) == 0
}

// abandon is what a caller does that waits no longer.
func (k *Call) abandon(reason byte, why error) error {
	k.leave()
	if !k.Detached { // its deadline is for the runner to keep
		k.cancel(reason)
	}
	return &Failure{Ran: true, Err: why}
}

// leave says that nobody waits for the call any more.
func (k *Call) leave() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left = true
	for i := range k.items {
		k.items[i].data.release()
	}
	k.items = nil
	for _, f := range k.results {
		if f != nil {
			_ = f.Close() // it cannot fail
		}
	}
}

// endOf returns why the context has ended: its own error, which says that it was canceled or too late, and the cause it was given.
func endOf(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

func reasonOf(ctx context.Context) byte {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return cancelDeadline
	}
	return cancelCaller
}

// cancel tells the runner, once. It does not wait.
func (k *Call) cancel(reason byte) {
	k.mu.Lock()
	first := !k.canceled
	k.canceled = true
	if first {
		k.reason = reason
	}
	if first && k.client.o.Stuck != nil && k.client.o.Patience > 0 {
		k.stuck = time.AfterFunc(k.client.o.Patience, func() { k.client.despair(k) })
	}
	k.mu.Unlock()
	if !first || !k.client.has(k) {
		return
	}
	_ = k.client.link.Post(append(header(make([]byte, 0, 16), kindCancel, k.id), reason)) // the link's end ends the call, too
}

func (c *Client) has(k *Call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[k.id] != nil
}

// release frees the slot.
func (k *Call) release() {
	if k.Slot != nil {
		k.Slot.Release()
	}
}

// ended is called once, when the work has ended on the runner or the runner is lost.
func (k *Call) ended() {
	k.mu.Lock()
	if k.stuck != nil {
		k.stuck.Stop()
	}
	flows, unfollow, canceled, reason, failure := k.results, k.unfollow, k.canceled, k.reason, k.failure
	k.mu.Unlock()
	if unfollow != nil {
		unfollow()
	}
	for _, f := range flows {
		if f == nil {
			continue
		}
		switch {
		case failure != nil:
			f.end(failure)
		case canceled:
			f.end(canceledFor(reason))
		default:
			f.end(&Failure{Ran: true, Err: io.ErrUnexpectedEOF}) // unless it has ended in order
		}
	}
	if k.stop != nil {
		k.stop()
	}
	k.release()
}

// settle changes the call and wakes who waits.
func (k *Call) settle(change func()) {
	k.mu.Lock()
	change()
	k.mu.Unlock()
	k.notify()
}

func (k *Call) notify() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// The functions below run on the link's goroutine.

func (k *Call) takeResult(r *reader) error {
	what, readers, types, total := outcome(r.byte()), r.number(), r.bytes(), r.number()
	if r.bad || what > outcomeCanceled || readers>>maxReaders != 0 {
		return errMalformed
	}
	limit := uint64(maxReason)
	if what == outcomeValue {
		limit = uint64(k.client.settings.MaxResult)
	}
	if total > limit || k.done {
		return errMalformed
	}
	k.outcome, k.isItem = what, false
	known := k.client.learn(k, types)
	if !k.arriving.begin(int(total), r.rest, k.Retains) {
		return errMalformed
	}
	k.mu.Lock()
	k.types = known
	k.results = inflows(k.client.link, k.id, readers, k.told)
	k.mu.Unlock()
	if k.arriving.complete() {
		k.deliver()
	}
	return nil
}

func (k *Call) takeItem(r *reader) error {
	types, total := r.bytes(), r.number()
	k.mu.Lock()
	flooded := k.held > window
	k.held += int(total) + itemCost
	k.mu.Unlock()
	if r.bad || flooded || total > uint64(k.client.settings.MaxResult) {
		return errMalformed
	}
	k.isItem = true
	k.itemTypes = k.client.learn(k, types)
	if !k.arriving.begin(int(total), r.rest, k.Retains) {
		return errMalformed
	}
	if k.arriving.complete() {
		k.deliver()
	}
	return nil
}

func (k *Call) takePart(part []byte) error {
	if !k.arriving.add(part) {
		return errMalformed
	}
	if k.arriving.complete() {
		k.deliver()
	}
	return nil
}

// deliver gives a value that has arrived to the caller.
func (k *Call) deliver() {
	v := k.arriving
	k.arriving = value{}
	if k.isItem {
		k.mu.Lock()
		if k.left {
			v.release()
		} else {
			k.items = append(k.items, item{k.itemTypes, v})
		}
		k.mu.Unlock()
		k.notify()
		return
	}
	k.mu.Lock()
	k.done = true
	if k.outcome == outcomeValue {
		k.data = v
	} else {
		k.failure = failureOf(k.outcome, v.data)
		if own, ok := errors.AsType[*FunctionError](k.failure); ok {
			own.Reader = k.unread
		}
		v.release()
	}
	open, left := k.results != nil, k.left
	k.mu.Unlock()
	if !open { // otherwise a reader in the result may read on in one of the argument, until the end comes
		k.client.finish(k) // before the caller goes on, so that it finds the slot free
	} else if left {
		k.leave() // the readers, too
	}
	k.notify()
}

// failureOf reads what a result says that brings no value.
func failureOf(what outcome, data []byte) error {
	r := &reader{rest: data}
	switch what {
	case outcomeError:
		e := &FunctionError{Kind: fault.Kind(r.text()), Message: r.text()}
		if e.Kind == "" {
			e.Kind = fault.Internal
		}
		return e
	case outcomePanic:
		return &FunctionError{Kind: fault.Internal, Message: r.text(), Stack: r.text()}
	case outcomeRefused:
		return &Failure{Err: fault.Say(fault.Kind(r.text()), "%s", r.text())}
	case outcomeUnsent:
		return &Failure{Ran: true, Err: fault.Say(fault.Kind(r.text()), "%s", r.text())}
	}
	return canceledFor(r.byte())
}

// canceledFor is what a call ends with that was canceled for a reason.
func canceledFor(reason byte) error {
	switch reason {
	case cancelDeadline:
		return &Failure{Ran: true, Err: context.DeadlineExceeded}
	case cancelDrained:
		return &Failure{Ran: true, Err: &lostError{fault.Say(fault.Unavailable, "the runner was stopped before the function had ended")}}
	default:
		return &Failure{Ran: true, Err: context.Canceled}
	}
}

// told makes of why the readers of the result end what they return.
func (k *Call) told(err error) error {
	if failed, ok := errors.AsType[*readError](err); ok {
		err = &FunctionError{Kind: fault.Of(failed), Message: failed.Error()}
	}
	if k.Told != nil {
		return k.Told(err)
	}
	return err
}

func (k *Call) takeCredit(r *reader) error {
	channel, n := int(r.byte()), r.number()
	if r.bad || channel >= len(k.allowed) || k.allowed[channel] == nil || n > math.MaxInt32 {
		return errMalformed
	}
	k.allowed[channel].give(int(n))
	return nil
}

func (k *Call) takeProgress(r *reader) error {
	fraction, text := math.Float64frombits(r.number()), string(r.rest)
	if r.bad {
		return errMalformed
	}
	if k.Progress != nil {
		k.settle(func() { k.progress = &report{fraction, text} })
	}
	return nil
}

// timer returns a timer for a call whose deadline is not that of its context.
func (c *Client) timer(d time.Duration) *time.Timer {
	if t, ok := c.timers.Get().(*time.Timer); ok {
		t.Reset(d)
		return t
	}
	return time.NewTimer(d)
}
