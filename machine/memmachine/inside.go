package memmachine

import (
	"context"
	"io"

	"github.com/dayfly-run/dayfly/machine"
)

// Inside is what a [Guest] can do beside returning: it prints, and it hears signals. [In] returns that of the guest's
// context. It is safe for concurrent use.
type Inside struct {
	cloud    *Cloud
	instance *instance
}

type insideKey struct{}

// In returns the inside of the machine that a guest's context belongs to, or nil for any other context.
func In(ctx context.Context) *Inside {
	in, _ := ctx.Value(insideKey{}).(*Inside)
	return in
}

// Stdout is what the machine prints. A Write waits while the machine is suspended, and fails once it has ended.
func (in *Inside) Stdout() io.Writer { return &printer{in, 0} }

// Stderr is Stdout for what the machine says of its failures.
func (in *Inside) Stderr() io.Writer { return &printer{in, 1} }

// Signals returns where the names of signals come from, the same channel each time. From the first call on, a signal
// does nothing to the machine but be received here, except SIGKILL, which nobody can catch. What is not received is
// lost after the first 16.
func (in *Inside) Signals() <-chan string {
	in.cloud.mu.Lock()
	defer in.cloud.mu.Unlock()
	if in.instance.signals == nil {
		in.instance.signals = make(chan string, 16)
	}
	return in.instance.signals
}

// signal does to a machine that runs what a signal does. c.mu is held.
func (c *Cloud) signal(i *instance, name string) {
	switch {
	case name == "SIGKILL":
	case i.signals != nil:
		select {
		case i.signals <- name:
		default:
		}
		return
	case name == "SIGCHLD" || name == "SIGCONT" || name == "SIGURG" || name == "SIGWINCH":
		return // Whoever does not ask for these does not notice them.
	}
	c.end(i, machine.Exit{Code: -1, Signal: name}, nil)
}

// printer is one stream of a machine.
type printer struct {
	in     *Inside
	stream int
}

func (p *printer) Write(text []byte) (int, error) {
	c, i := p.in.cloud, p.in.instance
	for {
		c.mu.Lock()
		switch {
		case i.machine.State.Rank() >= machine.Exited.Rank():
			c.mu.Unlock()
			return 0, io.ErrClosedPipe
		case i.resumed == nil:
			i.printed[p.stream].add(text)
			i.news()
			c.mu.Unlock()
			return len(text), nil
		}
		resumed := i.resumed
		c.mu.Unlock()
		select {
		case <-resumed:
		case <-i.life.Done():
		}
	}
}

// keptBytes is how much is kept of each stream.
const keptBytes = 1 << 20

// journal is what was printed to one stream: its last bytes.
type journal struct {
	kept    []byte
	dropped int64 // how many came before
}

func (j *journal) add(text []byte) {
	j.kept = append(j.kept, text...)
	if over := len(j.kept) - keptBytes; over > keptBytes {
		j.kept = append([]byte(nil), j.kept[over:]...)
		j.dropped += int64(over)
	}
}

// from returns a copy of what came at an offset or later, and the offset after it.
func (j *journal) from(offset int64) ([]byte, int64) {
	at := max(offset-j.dropped, 0)
	return append([]byte(nil), j.kept[at:]...), j.dropped + int64(len(j.kept))
}

// news wakes whoever follows the machine's output. The cloud's mu is held.
func (i *instance) news() {
	close(i.changed)
	i.changed = make(chan struct{})
}

// logs writes what a machine prints, as machine.Logger says.
func (c *Cloud) logs(ctx context.Context, i *instance, follow bool, stdout, stderr io.Writer) error {
	writers := [2]io.Writer{stdout, stderr}
	var offsets [2]int64
	for {
		var texts [2][]byte
		c.mu.Lock()
		for stream := range i.printed {
			texts[stream], offsets[stream] = i.printed[stream].from(offsets[stream])
		}
		changed, over := i.changed, i.machine.State.Rank() >= machine.Exited.Rank()
		c.mu.Unlock()
		for stream, w := range writers {
			if w == nil || len(texts[stream]) == 0 {
				continue
			}
			if _, err := w.Write(texts[stream]); err != nil {
				return err
			}
		}
		if over || !follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
