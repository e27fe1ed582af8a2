package link

import (
	"encoding/json"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// Close ends the link in order: what was sent before arrives, then the peer is told the reason, which is err's kind
// and sentence and may be nil. It returns when the peer has read all that, which Serve must be running for at both ends,
// or has not within a few seconds. What arrives meanwhile is not handled. Closing again waits as well.
func (l *Link) Close(err error) {
	l.mu.Lock()
	if l.over == nil && l.closing == nil && l.left == nil {
		l.closing = &End{Here: true, Cause: err}
		if err != nil {
			l.closing.Kind, l.closing.Reason = fault.Of(err), sentence(err)
		}
		l.farewell(recordGoodbye, l.closing)
		for _, w := range l.waiters {
			close(w.ready) // to be refused
			l.granted += w.need
		}
		l.waiters = nil
		if s := l.stint.Load(); s != nil {
			s.callBack() // the answer is waited for
		}
		if !l.served {
			l.served = true
			go func() { _ = l.serve(func([]byte) {}) }() // why it ends is in over
		}
	}
	over := l.closing
	l.mu.Unlock()
	limit := time.NewTimer(linger)
	defer limit.Stop()
	select {
	case <-l.done:
	case <-limit.C:
		l.mu.Lock()
		defer l.mu.Unlock()
		if over == nil {
			over = &End{Here: true, Cause: err}
		}
		l.end(over)
	}
}

// Lose ends the link at once, because somebody knows that the peer is gone: err says so. Nothing more is sent.
func (l *Link) Lose(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(&End{Lost: true, Here: true, Kind: fault.Of(err), Reason: sentence(err), Cause: err})
}

// sentence returns what to say of an error: its sentence if it has one, since that may be shown, or all of it.
func sentence(err error) string {
	if err == nil {
		return ""
	}
	if s, ok := fault.Sentence(err); ok {
		return s
	}
	return err.Error()
}

// goodbye is the body of a record that says why the link ends.
type goodbye struct {
	Kind   fault.Kind `json:"kind,omitempty"`
	Reason string     `json:"reason,omitempty"`
}

// maxReason bounds the text of a goodbye.
const maxReason = 8 << 10

// farewell sends the last record of this side. mu is held.
func (l *Link) farewell(kind byte, e *End) {
	body := []byte{}
	if e != nil {
		reason := e.Reason
		if len(reason) > maxReason {
			reason = reason[:maxReason]
		}
		body, _ = json.Marshal(goodbye{e.Kind, reason}) // two texts; bytes that are no text are replaced
	}
	l.put(kind, len(body), body)
	l.kick()
}
