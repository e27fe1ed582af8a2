package sqlite

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
)

// The bounds of the writer. A full queue makes callers wait, which is the back-pressure.
const (
	maxGroup   = 512  // writes that share one transaction
	maxWaiting = 1024 // writes that wait for their turn
)

// calm is how long nobody has written when a caller writes by himself. Under load a group takes about as long.
const calm = 2 * time.Millisecond

// writer owns the connection that writes. See the package comment for what it does and why.
//
// Whoever holds turn carries out a group of requests. That is the writer's own goroutine, or, when nothing is going on, the
// caller himself.
type writer struct {
	connect func(context.Context) (*session, error)
	tally   *tally

	queue    chan *request
	closing  chan struct{} // closed by close
	stopped  chan struct{} // closed when run has returned
	closeOne sync.Once

	turn    sync.Mutex // held by whoever carries out a group
	closed  bool       // guarded by turn: nothing more is carried out
	ended   time.Time  // guarded by turn: when the last group was answered
	session *session   // guarded by turn; nil while there is none
	tx      tx         // guarded by turn: the transaction under way
	group   []*request // guarded by turn: those it is for
	batch   string     // the statement that writes a batch of events
}

// request is one caller's write.
type request struct {
	ctx    context.Context
	op     string
	run    func(*tx) error
	done   chan error // holds one, so that the writer never waits for a caller that gave up
	err    error      // what run returned when it changed nothing
	passed bool       // its failpoint before the commit has been passed
}

// tx is the transaction that a request runs in. A request must not keep it.
type tx struct {
	*session
	pairs   pairs
	wrote   bool     // a statement of this request has changed something
	changes []change // of the group, for the tally
	events  []event  // of the group, to be written
}

// exec runs a statement that writes.
func (t *tx) exec(text string, args ...any) (changed, key int64, err error) {
	changed, key, err = t.session.exec(text, args...)
	t.wrote = t.wrote || changed > 0 && err == nil
	return changed, key, err
}

func newWriter(connect func(context.Context) (*session, error), first *session, t *tally) *writer {
	return &writer{
		connect: connect,
		session: first,
		tx:      tx{pairs: pairs{}},
		batch:   insertEventBatch(),
		tally:   t,
		queue:   make(chan *request, maxWaiting),
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
		group:   make([]*request, 0, maxGroup),
	}
}

// write has run carried out in a transaction and returns when that has been committed, or with what run returned,
// or with why it could not be committed.
//
// A write whose turn has not come is given up when ctx ends. One that is being carried out is waited for: a caller that
// left then, because its client has hung up, would not know what it has done, and would leave undone what follows from it.
//
// run is called by whoever carries out the group: this goroutine, the writer's, or another caller's. It is called more
// than once if a transaction has to be repeated. So what it finds out it leaves in variables that it sets anew each time.
func (w *writer) write(ctx context.Context, op string, run func(*tx) error) error {
	r := &request{ctx: ctx, op: op, run: run, done: make(chan error, 1)}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("sqlite: %s: %w: %w", op, fault.Canceled, err)
	}
	select {
	case <-w.closing:
		return closed(op)
	default:
	}
	if w.alone(r) {
		return <-r.done
	}
	select {
	case w.queue <- r:
	case <-ctx.Done():
		return fmt.Errorf("sqlite: %s: %w before its turn: %w", op, fault.Canceled, ctx.Err())
	case <-w.closing:
		return closed(op)
	}
	select {
	case err := <-r.done:
		return err
	case <-w.stopped:
		select {
		case err := <-r.done:
			return err
		default:
			return closed(op)
		}
	}
}

// alone carries out a request on its caller's goroutine, if nobody writes and nobody has for a moment: handing it over and
// back would wake two threads, which takes as long as the flush when the computer is idle. Otherwise others are about to
// write as well, and one flush should do for all of them.
func (w *writer) alone(r *request) bool {
	if !w.turn.TryLock() {
		return false
	}
	defer w.turn.Unlock()
	if w.closed || time.Since(w.ended) <= calm {
		return false
	}
	w.carryOut(w.gather(r))
	return true
}

func closed(op string) error {
	return fmt.Errorf("sqlite: %s: %w: the store has been closed", op, fault.Unavailable)
}

// close lets the writes that wait be carried out, and ends run.
func (w *writer) close() {
	w.closeOne.Do(func() { close(w.closing) })
	<-w.stopped
}

// run carries out requests until close is called.
func (w *writer) run() {
	defer close(w.stopped)
	for closing := false; !closing; {
		var first *request
		select {
		case first = <-w.queue:
			// Callers whose last write has just been answered are about to write again. Letting them run first
			// makes the group larger, and so the number of flushes smaller, at the cost of one switch.
			runtime.Gosched()
		case <-w.closing:
			closing = true
		}
		w.turn.Lock()
		for first != nil || len(w.queue) > 0 {
			w.carryOut(w.gather(first))
			first = nil
		}
		w.closed = closing
		w.turn.Unlock()
	}
}

// gather makes a group of a request, which may be nil, and those that wait, as many as it holds. The caller holds turn.
func (w *writer) gather(first *request) []*request {
	clear(w.group)
	w.group = w.group[:0]
	if first != nil {
		w.group = append(w.group, first)
	}
	w.group = w.fill(w.group)
	return w.group
}

// fill adds the requests that wait to the group, as many as it holds.
func (w *writer) fill(group []*request) []*request {
	for len(group) < maxGroup {
		select {
		case r := <-w.queue:
			group = append(group, r)
		default:
			return group
		}
	}
	return group
}

// carryOut commits a group of requests in one transaction and answers each of them.
//
// A request that fails before it has changed anything is only refused. One that fails afterwards takes the whole
// transaction with it, so the others are run again without it. A failure of the database itself is everybody's.
func (w *writer) carryOut(group []*request) {
	defer func() { w.ended = time.Now() }()
	for len(group) > 0 {
		failed, err := w.commit(group)
		if err == nil {
			for _, r := range group {
				r.done <- r.outcome()
			}
			return
		}
		if failed == nil {
			for _, r := range group {
				r.done <- fmt.Errorf("%s: %w", r.op, err)
			}
			return
		}
		failed.done <- err
		group = slices.DeleteFunc(group, func(r *request) bool { return r == failed })
	}
}

// outcome is what the caller of a request whose transaction has been committed is told.
func (r *request) outcome() error {
	if r.err == nil && failpoint.Enabled {
		if err := failpoint.Hit("store." + r.op + ".after"); err != nil {
			return fmt.Errorf("sqlite: %s: %w, though it was committed: %w", r.op, fault.Unavailable, err)
		}
	}
	return r.err
}

// commit runs the requests of a group in one transaction and commits it. If it fails, nothing has been changed, and
// failed is the request that is to blame, or nil if it is the database.
func (w *writer) commit(group []*request) (failed *request, err error) {
	if err := w.begin(); err != nil {
		return nil, err
	}
	t := &w.tx
	t.session, t.changes, t.events = w.session, t.changes[:0], t.events[:0]
	for _, r := range group {
		changes, events := len(t.changes), len(t.events)
		t.wrote = false
		if r.err = r.perform(t); r.err == nil {
			continue
		}
		if !harmless(r.err) {
			w.rollback()
			return nil, r.err
		}
		if t.wrote {
			w.rollback()
			return r, r.err
		}
		t.changes, t.events = t.changes[:changes], t.events[:events]
	}
	err = t.writeEvents(w.batch)
	if err == nil {
		_, _, err = w.session.exec("COMMIT")
	}
	if err != nil {
		w.rollback()
		return nil, err
	}
	w.tally.apply(t.changes)
	return nil, nil
}

// perform runs a request in a transaction. A panic in it is an error of that request, because others share the
// transaction and wait for its end.
func (r *request) perform(t *tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("sqlite: %s: %w: panic: %v\n%s", r.op, fault.Internal, p, debug.Stack())
		}
	}()
	if err := r.ctx.Err(); err != nil {
		return fmt.Errorf("sqlite: %s: %w before its turn: %w", r.op, fault.Canceled, err)
	}
	if err := r.run(t); err != nil {
		return err
	}
	if failpoint.Enabled && !r.passed {
		r.passed = true
		return failpoint.Hit("store." + r.op + ".before")
	}
	return nil
}

// begin starts a transaction, on a new connection if the last one had to be given up. It takes SQLite's write lock at
// once, because a transaction that asks for it halfway can be refused when it has already done its work.
func (w *writer) begin() error {
	if w.session == nil {
		fresh, err := w.connect(context.Background())
		if err != nil {
			return err
		}
		w.session = fresh
	}
	_, _, err := w.session.exec("BEGIN IMMEDIATE")
	return err
}

// rollback undoes the transaction. SQLite has done so itself after some errors, and then this fails. As it cannot be
// told apart from a connection in an unknown state, the connection is given up in either case.
func (w *writer) rollback() {
	clear(w.tx.pairs)
	if _, _, err := w.session.exec("ROLLBACK"); err != nil {
		_ = w.session.close()
		w.session = nil
	}
}
