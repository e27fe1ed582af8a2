package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/dayfly-run/dayfly/fault"
)

// terminal is the right to write to the terminal: whoever asks a question holds it until it is answered.
type terminal struct{ mu sync.Mutex }

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
		switch {
		case signal == syscall.SIGHUP && id != "":
			r.cancel(errHungUp)
			return
		case id == "" || canceled:
			r.cancel(errGivenUp)
			return
		}
		choice := 'c'
		if signal == syscall.SIGINT && r.p.inTTY && r.p.errTTY {
			choice = r.ask(id, signals)
		}
		switch choice {
		case 'd':
			r.cancel(errDetached)
			return
		case 'c':
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

// ask asks what Ctrl-C was meant to do and returns 'd' to detach, 'c' to cancel or ' ' to go on. Ctrl-C once more, by
// key or by signal, is 'c'.
func (r *runner) ask(id string, signals <-chan os.Signal) rune {
	r.talk.mu.Lock()
	defer r.talk.mu.Unlock()
	fmt.Fprintf(r.p.err, "\n%s still runs. [c]ancel it, [d]etach and leave it running, or any other key to go on watching: ", id)
	defer fmt.Fprintln(r.p.err)

	fd := int(r.p.in.Fd())
	before, err := term.MakeRaw(fd) // one key is the answer, without Enter
	if err != nil {
		return 'c'
	}
	defer term.Restore(fd, before)
	keys := make(chan byte, 1)
	go func() {
		key := make([]byte, 1)
		if _, err := r.p.in.Read(key); err != nil {
			key[0] = 'c' // the terminal has gone away
		}
		keys <- key[0]
	}()
	select {
	case <-signals:
		return 'c'
	case key := <-keys:
		switch key {
		case 'd', 'D':
			return 'd'
		case 'c', 'C', 0x03: // Ctrl-C is a key in this mode
			return 'c'
		}
		return ' '
	}
}
