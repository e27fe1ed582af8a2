package link

import (
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// A silence is so many heartbeats long.
const (
	beatsPerSilence = 15
	beatsPerSign    = 3  // after so many a side that had nothing to say gives a sign of life
	beatsToCut      = 7  // after so many without one a connection is given up, so that another has time to be made
	beatsToLoss     = 14 // after so many the peer is lost; the last may come at once after it was heard
)

// beats is the rhythm of a link.
type beats struct {
	silence time.Duration
	period  time.Duration
}

func newBeats(silence time.Duration) beats {
	return beats{silence: silence, period: silence / beatsPerSilence}
}

// startHeart lets the heart beat. mu is held.
func (l *Link) startHeart() {
	l.heart = time.AfterFunc(l.beats.period, l.heartbeat)
}

// heartbeat counts how long nothing was heard, in beats of this process: one that was stopped for an hour counts one,
// and then reads what the other has sent before it was stopped and since. While a frame is being handled nothing can
// be heard and nothing is counted.
func (l *Link) heartbeat() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over != nil {
		return
	}
	l.heart.Reset(l.beats.period)
	l.beat++
	quiet := int32(0)
	if l.turn.Load()%2 == 0 {
		quiet = l.quiet.Add(1)
	}
	switch {
	case quiet >= beatsToLoss:
		l.end(&End{Lost: true, Kind: fault.Unavailable, Reason: fmt.Sprintf(
			"nothing was heard of the other process for %v", l.beats.silence)})
	case quiet >= beatsToCut && l.resumable && l.wire != nil:
		l.drop(l.wire)
	case l.beat%beatsPerSign == 0 && l.wire != nil:
		l.signOfLife()
	}
}

// signOfLife tells the peer that this side lives, unless it has been told otherwise since the last time. mu is held.
func (l *Link) signOfLife() {
	if l.idle && l.sent == l.out.end {
		l.putBeat()
		l.kick()
	}
	l.idle = true
	if !l.writing {
		l.wire.relax()
	}
}
