package dayfly

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// Prepare implements machine.Preparer. The Program of the Spec is uploaded first, if the server does not have it, which is not
// reported.
func (h *Hired) Prepare(ctx context.Context, spec *machine.Spec, report func(machine.Preparation)) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	hire := &wire.Hire{Holder: h.holder, Spec: *spec}
	return h.programs.with(ctx, spec.Program, func(program *machine.Program) error {
		hire.Spec.Program = program
		var step wire.HiredStep
		return h.lines(ctx, request{method: http.MethodPost, path: h.path("preparations"), body: hire}, func(text []byte) (bool, *wire.Problem, error) {
			step = wire.HiredStep{}
			err := json.Unmarshal(text, &step)
			return step.End, step.Problem, err
		}, func() error {
			if report != nil && step.Text != "" {
				report(machine.Preparation{Text: step.Text, Done: step.Done, Total: step.Total})
			}
			return nil
		})
	})
}

// Logs implements machine.Logger. fault.Unsupported if the server's provider does not keep what machines print. When the
// connection breaks it returns fault.Unavailable, and what it has written is only the beginning.
func (h *Hired) Logs(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
	if id == "" || id == "." || id == ".." {
		return fault.Say(fault.NotFound, "%q is not the id of a machine", id)
	}
	query := url.Values{"follow": {strconv.FormatBool(follow)}}
	var line wire.HiredOutput
	return h.lines(ctx, request{method: http.MethodGet, path: h.path("machines", id, "logs"), query: query}, func(text []byte) (bool, *wire.Problem, error) {
		line = wire.HiredOutput{}
		err := json.Unmarshal(text, &line)
		return line.End, line.Problem, err
	}, func() error {
		for _, piece := range []struct {
			text []byte
			to   io.Writer
		}{{line.Out, stdout}, {line.Errors, stderr}} {
			if len(piece.text) == 0 || piece.to == nil {
				continue
			}
			if _, err := piece.to.Write(piece.text); err != nil {
				return err
			}
		}
		return nil
	})
}

// lines makes a request that is answered with lines, for as long as that takes. Each is taken in, which tells whether it is
// the last and what went wrong at the server, and then used, which may take its time.
func (h *Hired) lines(ctx context.Context, r request, take func(text []byte) (end bool, problem *wire.Problem, err error), use func() error) error {
	if err := ctx.Err(); err != nil {
		return h.broken(ctx, err)
	}
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	watchdog := time.AfterFunc(silence, func() { stop(fault.Say(fault.Unavailable, "the server has fallen silent")) })
	defer watchdog.Stop()
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return fmt.Errorf("dayfly: encoding the request: %w: %w", fault.Invalid, err)
		}
	}
	req, err := h.client.newRequest(reading, r, body)
	if err != nil {
		return err
	}
	resp, err := h.client.http.Do(req)
	if err != nil {
		return h.broken(ctx, unreachable(reading, req, err))
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return readProblem(resp)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 2*wire.MaxHiredPiece)
	for lines.Scan() {
		watchdog.Stop()
		end, problem, err := take(lines.Bytes())
		switch {
		case err != nil:
			return fmt.Errorf("dayfly: %s %s: %w: the answer is not what a Dayfly server sends", r.method, r.path, fault.Unavailable)
		case end:
			return nil
		case problem != nil:
			return h.broken(ctx, fault.Say(fault.Kind(problem.Code), "%s", problem.Detail))
		}
		if err := use(); err != nil {
			return err
		}
		watchdog.Reset(silence)
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return h.broken(ctx, unreachable(reading, req, err))
}

// broken is an error of what has ended too early: the caller's own, if it was he who has ended it.
func (h *Hired) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("dayfly: %w: %w", fault.Canceled, context.Cause(ctx))
	}
	if fault.Of(err) == fault.Canceled { // the server's own affair
		return fault.Say(fault.Unavailable, "%v", err)
	}
	return err
}
