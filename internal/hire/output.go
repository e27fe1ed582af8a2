package hire

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

const (
	// maxLong is how many requests are answered at once that may take as long as they like.
	maxLong = 256
	// takeTimeout is how long a client may take to take a line.
	takeTimeout = 30 * time.Second
)

// showLogs answers with what a machine has printed.
func (s *Service) showLogs(tenant string, w http.ResponseWriter, r *http.Request) (any, error) {
	follow, err := strconv.ParseBool(r.FormValue("follow"))
	if err != nil {
		return nil, fault.Say(fault.Invalid, "follow must be true or false")
	}
	return s.inLines(w, r, func(ctx context.Context, o *output) error {
		return s.Logs(ctx, tenant, r.PathValue("provider"), r.PathValue("id"), follow, stream{o, false}, stream{o, true})
	})
}

// prepare answers with how far a provider is in making ready for a machine.
func (s *Service) prepare(_ string, w http.ResponseWriter, r *http.Request) (any, error) {
	var h wire.Hire
	if err := read(w, r, &h); err != nil {
		return nil, err
	}
	return s.inLines(w, r, func(ctx context.Context, o *output) error {
		return s.Prepare(ctx, r.PathValue("provider"), &h, func(step machine.Preparation) {
			_ = o.line(&wire.HiredStep{Text: step.Text, Done: step.Done, Total: step.Total}) // who is gone ends it
		})
	})
}

// inLines answers with lines, as long as do takes.
func (s *Service) inLines(w http.ResponseWriter, r *http.Request, do func(context.Context, *output) error) (any, error) {
	select {
	case s.long <- struct{}{}:
		defer func() { <-s.long }()
	default:
		return nil, fault.Say(fault.Unavailable, "the server answers %d requests that take long, which is the limit; try again in a moment", maxLong)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	o := &output{w: w, connection: http.NewResponseController(w), failed: cancel}
	signs := make(chan struct{})
	go func() {
		defer close(signs)
		o.giveSigns(ctx)
	}()
	err := do(ctx, o)
	cancel()
	<-signs
	if err != nil && !o.begun {
		return nil, err
	}
	last := &lastLine{End: true}
	if err != nil {
		text, said := fault.Sentence(err)
		if !said {
			text = "the server cannot go on with it"
			s.Logger.Warn("an answer to a program that hires machines broke off", "path", r.URL.Path, "error", err)
		}
		last = &lastLine{Problem: &wire.Problem{Code: string(fault.Of(err)), Detail: text}}
	}
	_ = o.line(last) // who is gone does not miss it
	return answered{}, nil
}

// lastLine is the end of every kind of line.
type lastLine struct {
	End     bool          `json:"end,omitempty"`
	Problem *wire.Problem `json:"problem,omitempty"`
}

// output is an answer of lines. It is safe for concurrent use.
type output struct {
	w          http.ResponseWriter
	connection *http.ResponseController
	failed     context.CancelFunc

	mu    sync.Mutex
	begun bool // guarded by mu, while there are several who write
}

func (o *output) line(line any) error {
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.begun {
		o.begun = true
		o.w.Header().Set("Content-Type", "application/x-ndjson")
		o.w.Header().Set("X-Content-Type-Options", "nosniff")
	}
	_ = o.connection.SetWriteDeadline(time.Now().Add(takeTimeout)) // where there is none, the server's own limits hold
	_, err = o.w.Write(append(text, '\n'))
	if err == nil {
		err = o.connection.Flush()
	}
	if err != nil {
		o.failed()
	}
	return err
}

// giveSigns lets the client know that there is nothing new, until ctx ends.
func (o *output) giveSigns(ctx context.Context) {
	ticker := time.NewTicker(wire.HiredSign)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if o.line(struct{}{}) != nil {
				return
			}
		}
	}
}

// stream is one of the two that a machine prints.
type stream struct {
	*output
	errors bool
}

var _ io.Writer = stream{}

// Write implements io.Writer.
func (s stream) Write(text []byte) (n int, err error) {
	for n < len(text) {
		piece := text[n:min(len(text), n+wire.MaxHiredPiece)]
		line := &wire.HiredOutput{Out: piece}
		if s.errors {
			line = &wire.HiredOutput{Errors: piece}
		}
		if err := s.line(line); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}
