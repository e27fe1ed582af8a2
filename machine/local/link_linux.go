package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// link is one connection to a supervisor, as the provider sees it. Many requests are on their way at once.
type link struct {
	number  int // of the supervisor
	conn    *net.UnixConn
	silence time.Duration // after which the supervisor is taken for one that does not answer
	changed func([]change)

	greeting greeting      // set before ready is closed
	ready    chan struct{} // closed once the supervisor has said hello
	broken   chan struct{} // closed once nothing can be read any more

	heard atomic.Int64 // clock() of the last frame
	mute  atomic.Bool  // it did not answer in time, and has not since

	out frameWriter

	mu      sync.Mutex
	last    uint64                  // guarded by mu; the last request's id
	waiting map[uint64]chan *answer // guarded by mu; each holds one answer
}

var (
	// errMute is returned for a supervisor that is there and does not answer. What was asked of it may happen when
	// it wakes up.
	errMute = errors.New("the supervisor does not answer")
	// errBroken is returned for a connection that ended before the answer came.
	errBroken = errors.New("the connection to the supervisor ended")
)

// dial connects to a supervisor and says hello. The link works also when that is not answered, which it says by mute.
func dial(ctx context.Context, l layout, number int, silence time.Duration, changed func([]change)) (*link, error) {
	var conn *net.UnixConn
	err := throughDescriptor(l.supervisor(number), func(address *net.UnixAddr) error {
		// Connecting to a stopped supervisor succeeds, until its backlog is full: then it waits.
		dialer := net.Dialer{Timeout: silence}
		c, err := dialer.DialContext(ctx, "unix", address.Name)
		if err != nil {
			return err
		}
		conn = c.(*net.UnixConn)
		return nil
	})
	if err != nil {
		return nil, err
	}
	k := &link{
		number:  number,
		conn:    conn,
		out:     frameWriter{conn: conn, timeout: silence},
		silence: silence,
		changed: changed,
		ready:   make(chan struct{}),
		broken:  make(chan struct{}),
		waiting: map[uint64]chan *answer{},
	}
	go k.read()
	_, err = k.call(ctx, &request{Hello: true})
	if err != nil && !errors.Is(err, errMute) {
		k.close()
		return nil, err
	}
	return k, nil
}

func (k *link) close() {
	k.conn.Close()
	<-k.broken
}

// usable reports whether new machines may be asked for here.
func (k *link) usable(program string) bool {
	return closed(k.ready) && !closed(k.broken) && !k.mute.Load() && !k.another(program)
}

// another reports whether the supervisor has said that it is not of this age.
func (k *link) another(program string) bool {
	return closed(k.ready) && (k.greeting.Protocol != protocolVersion || k.greeting.Program != program)
}

// read hands out answers until the connection ends, or what comes is not from a supervisor of this age.
func (k *link) read() {
	defer close(k.broken)
	defer k.conn.Close()
	_ = readFrames(k.conn, func(a *answer) error {
		k.heard.Store(int64(clock()))
		k.mute.Store(false)
		if a.Hello != nil && !closed(k.ready) {
			k.greeting = *a.Hello
			close(k.ready)
		}
		if len(a.Changed) > 0 {
			k.changed(a.Changed)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if waiting := k.waiting[a.ID]; waiting != nil {
			delete(k.waiting, a.ID)
			waiting <- a
		}
		return nil
	})
}

// expect reserves an id and returns where its answer will be.
func (k *link) expect() (uint64, chan *answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last++
	c := make(chan *answer, 1)
	k.waiting[k.last] = c
	return k.last, c
}

func (k *link) forget(id uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.waiting, id)
}

// call sends a request and waits for its answer, which may take as long as the supervisor goes on to say anything at
// all: when it has been silent for a while it is asked whether it is there. It returns errMute, errBroken, the cause
// of ctx, or the problem that the supervisor answered.
func (k *link) call(ctx context.Context, r *request) (*answer, error) {
	id, answered := k.expect()
	defer k.forget(id)
	r.ID = id
	if err := k.send(r); err != nil {
		return nil, err
	}
	since, asked := clock(), false
	half := time.NewTicker(k.silence / 2)
	defer half.Stop()
	for {
		select {
		case a := <-answered:
			return a.result()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-k.broken:
			select {
			case a := <-answered:
				return a.result()
			default:
				return nil, errBroken
			}
		case <-half.C:
		}
		switch heard := time.Duration(k.heard.Load()); {
		case heard > since:
			since, asked = heard, false
		case !asked:
			asked = true
			if err := k.send(&request{Hello: true}); err != nil {
				return nil, err
			}
		default:
			k.mute.Store(true)
			return nil, errMute
		}
	}
}

func (a *answer) result() (*answer, error) {
	if a.Error != nil {
		return nil, a.Error
	}
	return a, nil
}

// send sends a frame. A supervisor that has been stopped for so long that frames do not fit any more is cut off: half
// a frame cannot be taken back.
func (k *link) send(r *request) error {
	err := k.out.send(r)
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.ErrShortWrite) {
		k.mute.Store(true)
		return errMute
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	return nil
}
