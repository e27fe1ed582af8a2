package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/machine"
)

// Lost says that a runner has ended without having been told to.
type Lost struct {
	Runner   string        // its name
	Exit     *machine.Exit // how its machine ended; nil when nobody knows
	MemoryMB int           // how much memory it might use; 0 when its Size does not say
	Printed  string        // the end of what it printed, when that may say why
	Cause    error         // why the link is over, or nil
}

// OOM reports whether the kernel has killed it for want of memory.
func (l *Lost) OOM() bool { return l.Exit != nil && l.Exit.OOMKilled }

// Error is a sentence that says how it ended, as far as that is known.
func (l *Lost) Error() string {
	text := "runner " + l.Runner + " was lost: " + l.how()
	if l.Printed != "" {
		text += "; the last it printed is: " + l.Printed
	}
	return text
}

func (l *Lost) how() string {
	exit := l.Exit
	switch {
	case exit != nil && exit.OOMKilled:
		return "it was killed for want of memory; " + memory(l.MemoryMB)
	case exit != nil && exit.Expired:
		return "its machine has reached the end of its lifetime"
	case exit != nil:
		return "its process " + ended(exit)
	}
	if end, ok := errors.AsType[*link.End](l.Cause); ok && end.Reason != "" {
		return end.Reason
	}
	return "its machine is gone"
}

// Unwrap returns fault.Unavailable, because another runner may do better, and the cause.
func (l *Lost) Unwrap() []error {
	if l.Cause == nil {
		return []error{fault.Unavailable}
	}
	return []error{fault.Unavailable, l.Cause}
}

// memory says how much there was, and what to do for more.
func memory(mb int) string {
	if mb == 0 {
		return "its machine has no more; give the pool a Size with more memory, or its runners less to do at once"
	}
	return fmt.Sprintf("it has %d MiB; give the pool a Size with more memory, or its runners less to do at once", mb)
}

// ended says how a process ended, as the end of a sentence.
func ended(exit *machine.Exit) string {
	switch {
	case exit.Message != "":
		return "ended: " + strings.TrimSuffix(exit.Message, ".")
	case exit.Signal != "":
		return "was ended by " + exit.Signal
	case exit.DiskFull:
		return fmt.Sprintf("ended with status %d while its disk was full", exit.Code)
	}
	return fmt.Sprintf("ended with status %d", exit.Code)
}

// reason says why the runner is over. end is how its link ended, nil if that has not.
func (r *Runner) reason(end *link.End) error {
	r.mu.Lock()
	stopped := r.stopped
	r.mu.Unlock()
	if end != nil && (!end.Lost || stopped) {
		switch {
		case end.Reason != "":
			return end
		case stopped:
			return fault.Say(fault.Unavailable, "runner %s was stopped, and what ran on it had not ended within the pool's ShutdownTimeout", r.name)
		}
		return fault.Say(fault.Unavailable, "runner %s has ended", r.name)
	}
	lost := &Lost{Runner: r.name, Exit: r.exit(), MemoryMB: r.memoryMB}
	if end != nil {
		lost.Cause = end
	}
	if exit := lost.Exit; exit != nil && !exit.OOMKilled && exit.Signal == "" {
		lost.Printed, _ = r.printed(context.Background(), lostPrintedWithin) // without it there is still the status
	}
	return lost
}

// exitedEarly says why a machine has ended before it dialed home.
func (r *Runner) exitedEarly(ctx context.Context, invitation *link.Invitation) error {
	exit := r.exit()
	const early = "The runner %s ended before it had dialed home: "
	switch {
	case exit == nil:
		return fault.Say(fault.Unavailable, early+"its machine is gone, and nobody knows why.", r.name)
	case r.booter.options.Lent: // it has been up, and who lends it has said all there is to say
		return fault.Say(fault.Unavailable, "The runner that was lent to be %s has not dialed home: it %s. Its way is %s; see that it leads here, or name another "+
			"in the pool's Address.", r.name, ended(exit), strings.Join(invitation.Addresses, ", "))
	}
	said := r.said(context.WithoutCancel(ctx))
	switch {
	case exit.OOMKilled:
		return fault.Say(fault.Invalid, early+"it was killed for want of memory; %s.", r.name, memory(r.memoryMB))
	case exit.Expired:
		return fault.Say(fault.Invalid, early+"its lifetime of %v is over; give the pool's Spec a longer one.", r.name, r.booter.options.Spec.Lifetime)
	case exit.Code == statusNotFound || exit.Code == statusNotExecutable || exit.Code < 0 && exit.Signal == "":
		return fault.Say(fault.Invalid, "The program of the runner %s cannot be started: it %s. %s", r.name, ended(exit), said)
	case exit.OK():
		return fault.Say(fault.Invalid, early+"the program ended as if it had done its work. Call dayfly.Main() first of all in main. %s", r.name, said)
	}
	return fault.Say(fault.Unavailable, early+"it %s. %s", r.name, ended(exit), said)
}

// What a shell, and package pid1, make of a program that they cannot execute, and of one that they do not find.
const (
	statusNotExecutable = 126
	statusNotFound      = 127
)

// late says why a machine that was made has not dialed home before the end of ctx, and canceled if nobody waits for it.
func (r *Runner) late(ctx context.Context, invitation *link.Invitation) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return canceled(ctx)
	}
	r.ask(context.WithoutCancel(ctx))
	if isClosed(r.exited) {
		return r.exitedEarly(ctx, invitation)
	}
	r.mu.Lock()
	state := r.machine.State
	r.mu.Unlock()
	took := time.Since(r.began).Round(100 * time.Millisecond)
	if state == machine.Creating {
		return fault.Say(fault.Unavailable, "The machine of the runner %s was made %v ago and does not run yet.", r.name, took)
	}
	said := r.said(context.WithoutCancel(ctx))
	return fault.Say(fault.Unavailable, "The runner %s runs, and has not dialed home in %v. Its way is %s; see that it leads here and that no "+
		"firewall is in it, or name another in the pool's Address, and that main calls dayfly.Main() first of all. %s", r.name, took, strings.Join(invitation.Addresses, ", "), said)
}

// said is a sentence about what the machine printed.
func (r *Runner) said(ctx context.Context) string {
	printed, err := r.printed(ctx, printedWithin)
	switch {
	case errors.Is(err, fault.Unsupported):
		return "What it printed is not to be had from this provider."
	case printed != "":
		return "It printed: " + printed
	case err != nil:
		return "What it printed was not to be had in time."
	}
	return "It printed nothing."
}

// How long it may take to find out what a machine has printed: one that did not boot, and one whose calls wait to be told why.
const (
	printedWithin     = 3 * time.Second
	lostPrintedWithin = 300 * time.Millisecond
)

// maxPrinted is how much of what a machine printed is told, in bytes.
const maxPrinted = 1 << 10

// printed returns the end of what the machine printed, or why it crashed, in one line.
func (r *Runner) printed(ctx context.Context, within time.Duration) (string, error) {
	r.mu.Lock()
	id := r.machine.ID
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return Printed(ctx, r.booter.provider, id)
}

// Printed returns the end of what a machine has printed, or why the program in it crashed, in one line of at most some 1 KiB.
// Errors are those of machine.Logs.
func Printed(ctx context.Context, p machine.Provider, id string) (string, error) {
	var out, errs tail
	if err := machine.Logs(ctx, p, id, false, &out, &errs); err != nil {
		return "", err
	}
	kept := errs.kept
	if len(bytes.TrimSpace(kept)) == 0 {
		kept = out.kept
	}
	if i := crashIn(kept); i >= 0 {
		return shorten(oneLine(string(kept[i:min(len(kept), i+maxPrinted)]), 4*maxPrinted), maxPrinted), nil
	}
	return oneLine(string(kept), maxPrinted), nil
}

// crashIn returns where the Go runtime begins to say why it ends the program, or -1. What all goroutines did comes after that, and can
// be very long.
func crashIn(text []byte) int {
	at := -1
	for _, begin := range []string{"panic: ", "fatal error: ", "SIG"} {
		if bytes.HasPrefix(text, []byte(begin)) {
			at = max(at, 0)
		}
		if i := bytes.LastIndex(text, []byte("\n"+begin)); i >= 0 {
			at = max(at, i+1)
		}
	}
	if at >= 0 && !bytes.Contains(text[at:], []byte("\ngoroutine ")) {
		return -1 // words of the program's own
	}
	return at
}

// maxKept is how much of what a machine printed is looked through, in bytes.
const maxKept = 256 << 10

// tail keeps the last of what is written to it, at least maxKept bytes.
type tail struct{ kept []byte }

// Write implements io.Writer.
func (t *tail) Write(text []byte) (int, error) {
	t.kept = append(t.kept, text...)
	if len(t.kept) > 2*maxKept { // seldom, as it moves all that is kept
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-maxKept:]...)
	}
	return len(text), nil
}

// oneLine puts the end of a text on one line, without what would change a terminal, in at most so many bytes.
func oneLine(text string, most int) string {
	text = strings.ToValidUTF8(text, "")
	text = strings.Join(strings.FieldsFunc(text, func(c rune) bool { return c == '\n' || c == '\r' }), " | ")
	text = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.TrimSpace(text))
	if len(text) > most {
		text = "…" + strings.ToValidUTF8(text[len(text)-most:], "")
	}
	return text
}

// shorten cuts a text to so many bytes.
func shorten(text string, most int) string {
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "")
	}
	return text
}
