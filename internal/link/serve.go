package link

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/dayfly-run/dayfly/fault"
)

// Serve reads frames and calls handle for each, one after the other, until the link is over, and returns why, an
// *[End]. It must be running for the link to live: what nobody reads is silence.
//
// A frame shorter than OwnFrame is valid until handle returns; a longer one is handle's to keep. While handle works
// nothing is read, so it must be short, and it must call neither Send nor Close. Serve is called once.
func (l *Link) Serve(handle func(frame []byte)) error {
	l.mu.Lock()
	served := l.served
	l.served = true
	l.mu.Unlock()
	if served {
		<-l.done // it was closed before anybody read from it
		return l.Err()
	}
	return l.serve(handle)
}

func (l *Link) serve(handle func([]byte)) error {
	for {
		w := l.current()
		if w == nil {
			return l.Err()
		}
		err := l.read(w, handle)
		l.lostWire(w, err)
	}
}

// current returns the wire to read from, and waits for it or goes to get it; nil when the link is over.
func (l *Link) current() *wire {
	for {
		l.mu.Lock()
		w, over := l.wire, l.over
		l.mu.Unlock()
		switch {
		case over != nil:
			return nil
		case w != nil:
			return w
		case l.redial != nil:
			l.reconnect()
		default:
			select {
			case <-l.arrived:
			case <-l.done:
			}
		}
	}
}

// lostWire is called when a wire can be read no more.
func (l *Link) lostWire(w *wire, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire != w {
		return // it was replaced, or the link is over
	}
	violation, violated := errors.AsType[*violation](err)
	switch {
	case violated:
		l.end(&End{Lost: true, Kind: fault.Internal, Reason: violation.Error()})
	case l.left != nil:
		l.end(l.left)
	case !l.resumable:
		l.end(&End{Lost: true, Kind: fault.Unavailable, Reason: "the other process has ended, or has given this one up: its socket was closed without a goodbye", Cause: unless(err, io.EOF)})
	default:
		l.drop(w)
	}
}

func unless(err, ordinary error) error {
	if errors.Is(err, ordinary) {
		return nil
	}
	return err
}

// drop gives up a wire that is broken. mu is held.
func (l *Link) drop(w *wire) {
	if !l.resumable {
		l.broken = true
		w.closeRead() // there is no other, so what the peer sent before is read from this one
		return
	}
	w.close()
	if l.wire != w {
		return
	}
	l.retract(w)
	l.wire = nil
	select {
	case l.cuts <- struct{}{}:
	default:
	}
}

// attach makes w the link's wire. The peer has received everything up to position. It returns whether the attempt is
// still the newest and the position one that can be.
func (l *Link) attach(w *wire, attempt, position uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil || attempt != l.attempt {
		return false
	}
	if position < l.acked || position > l.out.end {
		l.end(&End{Lost: true, Kind: fault.Internal, Reason: fmt.Sprintf(
			"the peer has received %d bytes, it says, of a stream of which it has acknowledged %d and that has %d", position, l.acked, l.out.end)})
		return false
	}
	l.wire = w
	w.hurry(&l.hasty)
	l.acked, l.sent = position, position
	l.trim()
	l.quiet.Store(0)
	select {
	case <-l.cuts: // that is over
	default:
	}
	select {
	case l.arrived <- struct{}{}:
	default:
	}
	l.kick()
	if l.heart == nil {
		l.startHeart()
	}
	return true
}

// detach makes room for a newer connection: what arrives on the old one does not count from now on. It returns how
// much has been received, and whether the attempt is newer than those before.
func (l *Link) detach(attempt uint64) (received uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil || attempt <= l.attempt || !l.resumable && l.heart != nil {
		return 0, false
	}
	l.attempt = attempt
	if l.wire != nil {
		l.wire.close()
		l.wire = nil
	}
	l.told = l.in
	return l.in, true
}

// stint is the reading of one wire. Its goroutine may change, see Pass and Lead.
type stint struct {
	wire   *wire
	reader reader
	handle func([]byte)
	ended  chan error    // gets one element
	called chan struct{} // has an element when the goroutine of Serve is called back
	failed error         // guarded by the link's mu: why a leader could not read on
	count  int           // frames that were handled since the last wait for one
	lone   int           // frames in a row after which nobody waited
}

// read reads from w until it breaks or is replaced. Frames are handled on a goroutine that may be left to a handler.
func (l *Link) read(w *wire, handle func([]byte)) error {
	s := &stint{wire: w, reader: reader{conn: w.conn, quiet: &l.quiet, tiny: w.sealer != nil}, handle: handle, ended: make(chan error, 1), called: make(chan struct{}, 1)}
	l.stint.Store(s)
	go l.readOn(s)
	return <-s.ended
}

// readOn reads until the wire ends, or until another goroutine was told to read on.
func (l *Link) readOn(s *stint) {
	for {
		passed, err := l.readOne(s)
		if passed {
			return
		}
		if err == nil && l.isCalm(s) {
			err = l.standBy(s)
		}
		if err != nil {
			s.reader.release()
			s.ended <- err
			return
		}
	}
}

// readOne reads one record. passed says that another goroutine reads on.
func (l *Link) readOne(s *stint) (passed bool, err error) {
	if !s.reader.holdsRecord() { // nothing may wait for a record that is not there yet
		if l.late.Load() {
			l.sendLate()
		}
		if l.gathers && s.count > 0 {
			l.gatherFor(s.count)
		}
		s.count = 0
	}
	kind, body, err := s.reader.next()
	if err != nil {
		return false, err
	}
	ignore, err := l.received(s.wire, headerSize+len(body))
	if err != nil {
		return false, err
	}
	switch kind {
	case recordFrame:
		if ignore {
			return false, nil
		}
		s.count++
		turn := l.turn.Add(1)
		s.handle(body)
		if !l.turn.CompareAndSwap(turn, turn+1) {
			return true, nil
		}
	case recordBeat:
		err = l.acknowledged(body)
	case recordGoodbye:
		err = l.goodbye(s.wire, body)
	case recordFarewell:
		l.mu.Lock()
		l.end(&End{Lost: true, Kind: fault.Internal, Reason: "the peer said farewell to a goodbye that nobody said"})
		l.mu.Unlock()
	default:
		err = &violation{fmt.Sprintf("the peer sent a record of the unknown kind %d", kind)}
	}
	return false, err
}

// Turn returns the number of the frame that is being handled, for Pass. It is for handle to call.
func (l *Link) Turn() uint64 { return l.turn.Load() }

// Pass lets another goroutine read on while the frame of that turn is still being handled, and does nothing if it is not any
// more. So a handler can do work itself that is probably short, which saves waking a goroutine for it, and somebody
// who sees that it is not can call Pass. The frame must not be used any more then, unless it is the handler's own.
func (l *Link) Pass(turn uint64) {
	if turn%2 == 0 || !l.turn.CompareAndSwap(turn, turn+1) {
		return
	}
	s := l.stint.Load()
	go func() {
		l.sendLate()
		l.readOn(s)
	}()
}

// sendLate writes what PostLate has left.
func (l *Link) sendLate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late.Store(false)
	l.kick()
}

// violation is an error of a peer that does not keep to the protocol.
type violation struct{ what string }

func (v *violation) Error() string { return v.what }

var errReplaced = errors.New("a newer connection has replaced this one")

// received counts a record, and returns whether its frame is not to be handled.
func (l *Link) received(w *wire, size int) (ignore bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wire != w && l.resumable || l.over != nil {
		return false, errReplaced // it is sent again on the newer one
	}
	l.in += uint64(size)
	if l.resumable && l.in-l.told >= ackAlone {
		l.putBeat()
		l.kick()
	}
	return l.closing != nil || l.left != nil, nil
}

func (l *Link) acknowledged(body []byte) error {
	if len(body) != 8 {
		return &violation{fmt.Sprintf("the peer sent a heartbeat of %d bytes", len(body))}
	}
	position := binary.BigEndian.Uint64(body)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.resumable {
		return nil
	}
	if position > l.out.end {
		return &violation{fmt.Sprintf("the peer acknowledged %d bytes of a stream of %d", position, l.out.end)}
	}
	if position > l.acked { // one that was overtaken, and sent again after a cut, says less
		l.acked = position
		l.trim()
	}
	return nil
}

// goodbye is called when the peer leaves. Its farewell is answered, and then it is the peer's to close the connection.
func (l *Link) goodbye(w *wire, body []byte) error {
	var g goodbye
	if err := json.Unmarshal(body, &g); err != nil {
		return &violation{"the peer sent a goodbye that cannot be read"}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == nil {
		l.left = &End{Kind: g.Kind, Reason: g.Reason}
		l.farewell(recordFarewell, nil)
		l.limitReading(w)
	}
	return nil
}
