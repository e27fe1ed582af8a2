package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/dayfly-run/dayfly/fault"
)

// terminal is the right to write to the terminal: whoever asks a question holds it until it is answered, or until what
// it was about is over.
type terminal struct {
	mu sync.Mutex

	state sync.Mutex // guards what follows
	stage stage
	over  chan struct{} // closed when the stage is
}

// stage is what dayfly run is doing, which is what Ctrl-C interrupts.
type stage int

const (
	settingOut stage = iota // the job is submitted, given its inputs and started
	watching
	downloading
)

// enter begins the next stage. A question about the one before is withdrawn, and the terminal is as it was, when enter
// returns.
func (t *terminal) enter(next stage) {
	t.state.Lock()
	if t.over != nil {
		close(t.over)
	}
	t.stage, t.over = next, make(chan struct{})
	t.state.Unlock()
	t.mu.Lock()
	t.mu.Unlock() //nolint:staticcheck // whoever held it has given it back
}

// now returns the stage, and a channel that is closed when it is over.
func (t *terminal) now() (stage, <-chan struct{}) {
	t.state.Lock()
	defer t.state.Unlock()
	return t.stage, t.over
}

// Write implements io.Writer for what is drawn on standard error by itself, such as progress bars.
func (r *runner) Write(p []byte) (int, error) {
	r.talk.mu.Lock()
	defer r.talk.mu.Unlock()
	return r.p.err.Write(p)
}

// heed acts on signals until ctx ends. At a terminal the first Ctrl-C asks; anything else, and the second one,
// cancels the job. A signal after that ends our watching: the cancel is known to the server, which carries it out.
// The end of the terminal is nobody's wish to end the job, so the job is left running.
func (r *runner) heed(ctx context.Context, signals <-chan os.Signal) {
	canceled := false
	for {
		var signal os.Signal
		select {
		case <-ctx.Done():
			return
		case signal = <-signals:
		}
		id := r.id.get()
		stage, over := r.talk.now()
		switch {
		case signal == syscall.SIGHUP && id != "":
			r.cancel(errHungUp)
			return
		case id == "" || canceled || stage == downloading:
			r.cancel(errGivenUp)
			return
		}
		choice := 'c'
		if signal == syscall.SIGINT && r.p.inTTY && r.p.errTTY {
			choice = r.ask(ctx, id, stage, over, signals)
		}
		switch {
		case choice == 'h':
			r.cancel(errHungUp)
			return
		case choice == 'd':
			r.cancel(errDetached)
			return
		case choice == 'c' && stage == settingOut: // who sets out cancels what has not begun
			r.cancel(errGivenUp)
			return
		case choice == 'c':
			canceled = true
			r.cancelJob(ctx, id)
		}
	}
}

// cancelJob asks the server to end the job; the main loop then sees it end.
func (r *runner) cancelJob(ctx context.Context, id string) {
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	if r.summary {
		r.p.note("canceling %s …", id)
	}
	_, err := r.c.Cancel(ctx, id)
	if err != nil && !errors.Is(err, fault.AlreadyFinished) && ctx.Err() == nil {
		r.p.note("dayfly: %s could not be canceled: %s", id, plain(err.Error()))
	}
}

// ask asks what Ctrl-C was meant to do and returns 'd' to detach, 'c' to cancel, 'h' when the terminal is gone, or ' ' to
// go on. Ctrl-C once more, by key or by signal, is 'c'. When there is nothing left to decide, because the stage is over or
// the job has ended, the question ends by itself. What the job prints on the terminal waits meanwhile.
func (r *runner) ask(ctx context.Context, id string, stage stage, over <-chan struct{}, signals <-chan os.Signal) rune {
	r.talk.mu.Lock()
	defer r.talk.mu.Unlock()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	question, ended := "Uploading to %s. [c]ancel, or any other key to go on: ", make(chan struct{})
	if stage == watching {
		question = "%s still runs. [c]ancel it, [d]etach and leave it running, or any other key to go on watching: "
		go func() {
			defer close(ended)
			_, _ = r.c.Wait(ctx, id) // whatever it says, the main loop hears it too
		}()
	}
	fmt.Fprintf(r.p.err, "\n"+question, id)
	defer fmt.Fprintln(r.p.err)

	fd := int(r.p.in.Fd())
	before, err := term.MakeRaw(fd) // one key is the answer, without Enter
	if err != nil {
		return 'c'
	}
	defer term.Restore(fd, before)
	keys := make(chan byte, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		readKey(ctx, r.p.in, keys)
	}()
	defer func() {
		stop()
		<-read // so that a key that is pressed later is nobody's but the next reader's
	}()
	select {
	case <-ctx.Done():
	case <-over:
	case <-ended:
	case signal := <-signals:
		if signal == syscall.SIGHUP {
			return 'h'
		}
		return 'c'
	case key := <-keys:
		switch {
		case (key == 'd' || key == 'D') && stage == watching:
			return 'd'
		case key == 'c' || key == 'C' || key == 0x03: // Ctrl-C is a key in this mode
			return 'c'
		}
	}
	return ' '
}

// readKey sends the next key, unless ctx ends first.
func readKey(ctx context.Context, in *os.File, keys chan<- byte) {
	const patience = 50 // milliseconds until it looks at ctx again
	ready := []unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}}
	for ctx.Err() == nil {
		n, err := unix.Poll(ready, patience)
		if errors.Is(err, unix.EINTR) || n == 0 {
			continue
		}
		key := make([]byte, 1)
		if n, err := in.Read(key); err == nil && n == 1 {
			keys <- key[0]
		}
		return // without a key the terminal has gone away, and SIGHUP says so
	}
}
