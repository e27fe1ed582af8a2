package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/joblog"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/wire"
)

func (a *API) addStreams() {
	add(a, route{
		method: http.MethodGet, path: "/v1/jobs/{id}/logs", id: "read-job-logs", summary: "Read or follow what a job's command prints",
		text: "As plain text, or with Accept: text/event-stream as events: stdout and stderr carry pieces of the outputs, gap says that bytes " +
			"are missing and why, end is the last. The data of each is JSON: attempt, stream, offset, time, and text, or base64 if the piece " +
			"is not UTF-8. A stream goes on where it broke off with Last-Event-ID, and follows the job from attempt to attempt.",
	}, a.readLogs)
	add(a, route{
		method: http.MethodGet, path: "/v1/jobs/{id}/events", id: "read-job-events", summary: "Read or follow the events of a job",
		text: "As a JSON array of the first thousand after a number, or with Accept: text/event-stream as a stream that goes on until the " +
			"event that ends the job. The id of each is its seq, so a stream goes on where it broke off with Last-Event-ID.",
	}, a.readEvents)
}

type logsInput struct {
	caller
	ID      string `path:"id" maxLength:"128"`
	Stream  string `query:"stream" enum:"stdout,stderr" doc:"Only this one of the two outputs."`
	Attempt int    `query:"attempt" minimum:"1" maximum:"100000" doc:"The number of the attempt. Default: the last, and those that follow it."`
	Follow  bool   `query:"follow" doc:"Go on with new output until the job has finished."`
	LastID  string `header:"Last-Event-ID" maxLength:"64" doc:"Go on behind the event with this id."`
}

// ended is the id of a stream's last event. Who asks to go on from there is told that nothing more will come.
const ended = "end"

func (a *API) readLogs(ctx context.Context, in *logsInput) (*huma.StreamResponse, error) {
	at, err := parsePlace(in.LastID)
	if err != nil {
		return nil, err
	}
	job, err := a.engine.Job(ctx, in.ID)
	if err != nil {
		return nil, ofJob(in.ID, err)
	}
	if in.Attempt > 0 && attemptNumbered(job, in.Attempt) == nil {
		return nil, fault.Say(fault.NotFound, "job %s has no attempt %d; it has had %d", job.ID, in.Attempt, len(job.AttemptLog))
	}
	if in.Attempt > 0 && at.attempt != in.Attempt {
		at = place{attempt: in.Attempt}
	}
	if at.attempt == 0 {
		at.attempt = max(1, len(job.AttemptLog))
	}
	if in.LastID != "" && in.LastID != ended && !a.isPlace(job, at) {
		return nil, errPlace(in.LastID)
	}
	events := WantsEvents(in.r)
	if events && in.LastID == ended {
		return &huma.StreamResponse{Body: func(huma.Context) { in.w.WriteHeader(http.StatusNoContent) }}, nil
	}
	if last := attemptNumbered(job, at.attempt); !events && !in.Follow && last != nil && a.removed(last) {
		return nil, fault.Say(fault.NotFound, "the output of attempt %d of job %s has been removed", last.Number, job.ID)
	}
	contentType := "text/plain; charset=utf-8"
	if events {
		contentType = eventsType
	}
	s, closeStream, err := a.openStream(&in.caller, contentType)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(huma.Context) {
		defer closeStream()
		f := &follower{api: a, stream: s, job: job, at: at, only: in.Attempt > 0, follow: in.Follow && in.r.Method != http.MethodHead, filter: wire.Stream(in.Stream)}
		err := f.run(ctx)
		if err != nil && fault.Of(err) == fault.Internal {
			a.logger.DebugContext(ctx, "a stream of output ended early", "job", job.ID, "error", err)
		}
		// A stream of events that ends before its last is resumed by its reader, which is all that can be said now. Plain
		// text has no last event, so it is broken off where its reader notices.
		if err != nil && !events {
			panic(http.ErrAbortHandler)
		}
	}}, nil
}

// place is where a reader of a job's output is: the number of an attempt and a position in its output. As the id of an
// event it is written 2:1234.
type place struct {
	attempt  int
	position joblog.Position
}

func (p place) String() string { return fmt.Sprintf("%d:%d", p.attempt, p.position) }

// parsePlace reads the id of an event. "" and the id of the last one stand for nowhere.
func parsePlace(id string) (p place, err error) {
	if id == "" || id == ended {
		return p, nil
	}
	attempt, position, _ := strings.Cut(id, ":")
	n, err1 := strconv.ParseInt(attempt, 10, 32)
	at, err2 := strconv.ParseInt(position, 10, 64)
	if p = (place{int(n), joblog.Position(at)}); err1 != nil || err2 != nil || n < 1 || at < 0 || p.String() != id {
		return place{}, errPlace(id)
	}
	return p, nil
}

func errPlace(id string) error {
	return fault.Field("Last-Event-ID", "%.64q is not the id of an event of this stream", id)
}

// isPlace reports whether a job's output may be read on from a place: there is the attempt, and a record ends there, as
// far as it can still be looked at.
func (a *API) isPlace(job *store.Job, at place) bool {
	attempt := attemptNumbered(job, at.attempt)
	if attempt == nil {
		return false
	}
	records, err := a.logs.Read(attempt.ID, at.position)
	if err != nil {
		return fault.Of(err) != fault.Invalid
	}
	for _, err := range records {
		return fault.Of(err) != fault.Invalid
	}
	return true
}

func attemptNumbered(job *store.Job, n int) *store.Attempt {
	for _, a := range job.AttemptLog {
		if a.Number == n {
			return a
		}
	}
	return nil
}

// removed reports whether an attempt has printed something of which nothing is left.
func (a *API) removed(attempt *store.Attempt) bool {
	if attempt.StdoutLen+attempt.StderrLen == 0 {
		return false
	}
	_, err := a.logs.Read(attempt.ID, 0)
	return fault.Of(err) == fault.NotFound
}

// follower writes the output of a job's attempts, one after the other, to a stream.
type follower struct {
	api    *API
	stream *stream
	job    *store.Job  // as last read
	at     place       // behind what has been written
	only   bool        // stop after this attempt
	follow bool        // wait for more
	filter wire.Stream // "" for both

	ends [2]lengths // of the current attempt's streams, as far as they have been seen
}

// lengths is how far a stream has been seen. It is unknown in a stream that is resumed, until a record of it comes.
type lengths struct {
	known bool
	end   int64
}

// piece is the data of an event about output.
type piece struct {
	Attempt int         `json:"attempt"`
	Stream  wire.Stream `json:"stream"`
	Offset  int64       `json:"offset"`
	Time    *time.Time  `json:"time,omitempty"`
	Text    *string     `json:"text,omitempty"`
	Base64  []byte      `json:"base64,omitempty"`
	Gap     int64       `json:"gap,omitempty"`
	Why     string      `json:"why,omitempty"`
}

// farewell is the data of the last event.
type farewell struct {
	State   dayfly.State `json:"state"`
	Attempt int          `json:"attempt"`
}

func (f *follower) run(ctx context.Context) error {
	f.begin()
	changed, stop := f.api.engine.Watch(f.job.ID)
	defer stop()
	for {
		// The channels are taken before anything is read, so that nothing that happens in between is missed. What
		// has ended does not change, and is not asked to tell.
		var jobChanged, logChanged <-chan struct{}
		if f.follow && !f.job.State.Terminal() {
			jobChanged = changed()
			job, err := f.api.engine.Job(ctx, f.job.ID)
			if err != nil {
				return err
			}
			f.job = job
		}
		attempt := attemptNumbered(f.job, f.at.attempt)
		if attempt != nil && f.follow && !attempt.State.Terminal() {
			logChanged = f.api.logs.Changed(attempt.ID)
		}
		more, err := f.attempt(ctx, attempt, jobChanged, logChanged)
		if err != nil || !more {
			return err
		}
	}
}

// begin forgets what was seen of an earlier attempt.
func (f *follower) begin() {
	f.ends = [2]lengths{}
	if f.at.position == 0 {
		f.ends = [2]lengths{{known: true}, {known: true}}
	}
}

// attempt writes what there is of an attempt and waits for something to happen to it or to the job. It reports
// whether to look again.
func (f *follower) attempt(ctx context.Context, attempt *store.Attempt, jobChanged, logChanged <-chan struct{}) (more bool, err error) {
	for {
		if attempt != nil {
			if err := f.copy(attempt); err != nil {
				return false, err
			}
			if attempt.State.Terminal() || !f.follow {
				if err := f.rest(attempt); err != nil {
					return false, err
				}
				if !f.only && len(f.job.AttemptLog) > 0 && f.job.AttemptLog[len(f.job.AttemptLog)-1].Number > f.at.attempt {
					f.at = place{attempt: f.at.attempt + 1}
					f.begin()
					return true, nil
				}
			}
		}
		done := f.job.State.Terminal() || f.only && attempt != nil && attempt.State.Terminal()
		if done || !f.follow {
			return false, f.bye()
		}
		if err := f.stream.await(jobChanged, logChanged); err != nil {
			return false, err
		}
		select {
		case <-jobChanged:
			return true, nil
		default:
			logChanged = f.api.logs.Changed(attempt.ID)
		}
	}
}

// copy writes the records behind the place.
func (f *follower) copy(attempt *store.Attempt) error {
	records, err := f.api.logs.Read(attempt.ID, f.at.position)
	if fault.Of(err) == fault.NotFound {
		return nil // nothing yet, or nothing any more: rest knows
	}
	if err != nil {
		return err
	}
	for r, err := range records {
		if err != nil {
			return err
		}
		f.at.position = r.Next
		f.ends[streamIndex(r.Stream)] = lengths{true, r.Offset + int64(len(r.Data)) + r.Gap}
		if f.filter == "" || f.filter == r.Stream {
			if err := f.write(&r); err != nil {
				return err
			}
		}
	}
	return nil
}

// rest says what is missing at the end of an attempt's streams, whose lengths its agent has reported: what was over
// the limit, or lost with the power.
func (f *follower) rest(attempt *store.Attempt) error {
	for i, total := range []int64{attempt.StdoutLen, attempt.StderrLen} {
		seen := f.ends[i]
		name := []wire.Stream{wire.Stdout, wire.Stderr}[i]
		if !seen.known || seen.end >= total || f.filter != "" && f.filter != name {
			continue
		}
		f.ends[i].end = total
		err := f.write(&joblog.Record{Stream: name, Offset: seen.end, Gap: total - seen.end, Why: "the rest of this output was not kept"})
		if err != nil {
			return err
		}
	}
	return nil
}

func streamIndex(s wire.Stream) int {
	if s == wire.Stderr {
		return 1
	}
	return 0
}

func (f *follower) write(r *joblog.Record) error {
	if !f.stream.events {
		if r.Gap > 0 {
			return f.stream.bytes(fmt.Appendf(nil, "\n[%d bytes of %s are missing here: %s]\n", r.Gap, r.Stream, r.Why))
		}
		return f.stream.bytes(r.Data)
	}
	p := piece{Attempt: f.at.attempt, Stream: r.Stream, Offset: r.Offset, Gap: r.Gap, Why: r.Why}
	if !r.Time.IsZero() && r.Time.UnixMilli() != 0 {
		p.Time = &r.Time
	}
	name := string(r.Stream)
	switch {
	case r.Gap > 0:
		name = "gap"
	case utf8.Valid(r.Data):
		text := string(r.Data)
		p.Text = &text
	default:
		p.Base64 = r.Data
	}
	return f.stream.event(f.at.String(), name, &p)
}

// bye writes the last event.
func (f *follower) bye() error {
	if !f.stream.events {
		return nil
	}
	return f.stream.event(ended, "end", farewell{f.job.State, f.at.attempt})
}
