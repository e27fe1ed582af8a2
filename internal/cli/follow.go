package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly"
)

// lateString is a value that is known later than it is asked for. It is safe for concurrent use.
type lateString struct {
	mu    sync.Mutex
	value string
}

func (s *lateString) set(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value = value
}

func (s *lateString) get() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value
}

// outputs are where the two streams of a job's output go.
type outputs struct {
	stdout, stderr io.Writer
	screens        []*screen
	missing        int64 // bytes that the log does not have
}

// outputs returns the writers for a job's output: disarmed where they are a terminal, untouched elsewhere.
func (p *program) outputs(raw bool) *outputs {
	o := &outputs{stdout: p.out, stderr: p.err}
	if p.outTTY && !raw {
		s := &screen{w: p.out, colorless: !p.colors}
		o.stdout, o.screens = s, append(o.screens, s)
	}
	if p.errTTY && !raw {
		s := &screen{w: p.err, colorless: !p.colors}
		o.stderr, o.screens = s, append(o.screens, s)
	}
	return o
}

// errOutput wraps a failure to write what the job prints: nobody reads it any more.
var errOutput = errors.New("the output cannot be written")

// write writes one record. What is missing is said on standard error.
func (o *outputs) write(p *program, r dayfly.LogRecord) error {
	if r.Gap > 0 {
		o.missing += r.Gap
		p.note("dayfly: %d bytes of %s are missing here: %s", r.Gap, r.Stream, plain(r.Why))
		return nil
	}
	w := o.stdout
	if r.Stream == "stderr" {
		w = o.stderr
	}
	if _, err := w.Write(r.Data); err != nil {
		return errors.Join(errOutput, err)
	}
	return nil
}

func (o *outputs) flush() {
	for _, s := range o.screens {
		_ = s.Flush() // a terminal that has gone away has no use for the end of a line
	}
}

// follow prints the job's output until it has ended, and leaves the job as it ended in r.job.
func (r *runner) follow(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	switch {
	case r.summary && r.p.errTTY:
		go r.sayWhyItWaits(ctx)
	case !r.f.quiet && !r.p.json:
		go r.sayWhatItFetches(ctx)
	}
	if !r.p.json {
		out := r.p.outputs(r.f.raw)
		defer out.flush()
		defer func() { r.missing = out.missing }()
		for record, err := range r.c.Logs(ctx, r.job.ID, &dayfly.LogOptions{Follow: true}) {
			if err != nil {
				return err
			}
			if err := r.show(out, record); err != nil {
				return err
			}
		}
	}
	job, err := r.c.Job(ctx, r.job.ID)
	if err == nil && !job.State.Terminal() { // the output can end a moment before the job does
		job, err = r.c.Wait(ctx, r.job.ID)
	}
	if err == nil {
		r.job = job
	}
	return err
}

// show writes one record, if that is to the terminal not while a question is being asked.
func (r *runner) show(out *outputs, record dayfly.LogRecord) error {
	if record.Gap > 0 || record.Stream == "stderr" && r.p.errTTY || record.Stream != "stderr" && r.p.outTTY {
		r.talk.mu.Lock()
		defer r.talk.mu.Unlock()
	}
	return out.write(r.p, record)
}

// patient is how long a job may wait to run before somebody at a terminal is told why, and glance how often he is shown how
// far its provider is with what it fetches.
const (
	patient = 2 * time.Second
	glance  = 500 * time.Millisecond
)

// sayWhyItWaits tells somebody at a terminal why nothing happens yet.
func (r *runner) sayWhyItWaits(ctx context.Context) {
	said, drawn := "", ""
	draw := func(text string) {
		if text == drawn {
			return
		}
		drawn = text
		r.talk.mu.Lock()
		fmt.Fprintf(r.p.err, "\r\x1b[K%s", r.p.colored(r.p.err, dim, text))
		r.talk.mu.Unlock()
	}
	defer draw("")
	for next := time.Now().Add(patient); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(glance):
		}
		job, err := r.c.Job(ctx, r.job.ID)
		if err != nil || job.State.Terminal() || job.State == dayfly.Running {
			return // there is output to look at, or an error that the main loop meets too
		}
		if text := fetching(job); text != "" {
			if width := max(20, r.p.width-1); utf8.RuneCountInString(text) <= width {
				draw(text)
			} else { // a reason why it takes longer, which is worth lines of its own
				draw("")
				r.sayOnce(&said, text)
			}
			next = time.Now().Add(patient)
			continue
		}
		draw("")
		if time.Now().Before(next) {
			continue
		}
		next = time.Now().Add(patient)
		why, err := r.c.Why(ctx, r.job.ID)
		if err == nil && len(why.Answers) > 0 && why.State != dayfly.Running && !why.State.Terminal() {
			r.sayOnce(&said, plain(why.Answers[0]))
		}
	}
}

// sayOnce tells somebody at a terminal why a job waits, unless it was the last that was said.
func (r *runner) sayOnce(said *string, why string) {
	if *said == why {
		return
	}
	*said = why
	r.talk.mu.Lock()
	defer r.talk.mu.Unlock()
	r.p.note("%s", r.p.colored(r.p.err, dim, "waiting: "+why))
}

// sayWhatItFetches tells whoever reads standard error later what the job's provider fetches, if that takes its time, and why
// it takes longer: each once, and no numbers.
func (r *runner) sayWhatItFetches(ctx context.Context) {
	said := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(patient):
		}
		job, err := r.c.Job(ctx, r.job.ID)
		if err != nil || job.State.Terminal() || job.State == dayfly.Running {
			return // there is output to look at, or an error that the main loop meets too
		}
		if len(job.Attempts) == 0 {
			continue
		}
		now := job.Attempts[len(job.Attempts)-1].Preparation
		if now == nil || now.Text == "" || said[now.Text] || len(said) > 1000 {
			continue
		}
		said[now.Text] = true
		r.p.note("dayfly: waiting: %s", plain(now.Text))
	}
}

// fetching says how far the provider is with what the job's machine needs, or "" when it does not fetch.
func fetching(job *dayfly.Job) string {
	if len(job.Attempts) == 0 {
		return ""
	}
	f := job.Attempts[len(job.Attempts)-1].Preparation
	switch {
	case f == nil || f.Text == "":
		return ""
	case f.Total > 0:
		return fmt.Sprintf("%s  %d %%  of %s", plain(f.Text), min(100, f.Done*100/f.Total), bytesOf(f.Total))
	case f.Done > 0:
		return fmt.Sprintf("%s  %s", plain(f.Text), bytesOf(f.Done))
	}
	return plain(f.Text)
}
