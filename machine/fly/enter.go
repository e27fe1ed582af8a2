package fly

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// The limits of Fly's exec.
const (
	maxStdin    = 1 << 20
	maxOutput   = 16 << 20 // of an answer that holds all output
	execDefault = 30 * time.Second
	execLongest = 60 * time.Second // Fly has been seen to give up after that
)

// execRequest is the body of an exec. Stdin and Timeout are left out when they say nothing.
type execRequest struct {
	Command []string `json:"command"`
	Stdin   string   `json:"stdin,omitempty"`
	Timeout int      `json:"timeout,omitempty"` // seconds
}

type execAnswer struct {
	Code   int    `json:"exit_code"`
	Signal int    `json:"exit_signal"`
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
}

// Exec runs a command in the machine, as [machine.Execer] says, within what Fly's API can do: at most a MiB of input, which
// is read before the command starts; no terminal; all output at once at the end; and no longer than a minute, or than
// what is left until ctx ends, whichever is less. A longer one is fault.Unavailable and may run on. Its variables are
// set by the image's env and its directory by the image's sh.
func (p *Provider) Exec(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
	what := "run a command in machine " + plain(id, 64)
	request, err := execOf(ctx, cmd)
	if err != nil {
		return nil, wrap(what, err)
	}
	if _, err := p.running(ctx, id); err != nil {
		return nil, wrap(what, err)
	}
	timeout := execDefault
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(time.Until(deadline), execLongest)
	}
	request.Timeout = max(int(timeout.Seconds()), 1)
	o := &call{action: "exec", method: http.MethodPost, machine: id, verb: "exec", body: request, limit: maxOutput, timeout: execLongest + 15*time.Second}
	a, err := p.client.do(ctx, o)
	if err != nil {
		return nil, wrap(what, err)
	}
	if a.status == http.StatusRequestTimeout {
		return nil, wrap(what, fault.Say(fault.Unavailable, "the command did not end within %v, which is as long as Fly waits; it may still run%s",
			timeout.Round(time.Second), inRequest(a.id)))
	}
	if !a.ok() {
		return nil, wrap(what, p.client.refusal(what, a))
	}
	var out execAnswer
	if err := p.client.decode(o, a, &out); err != nil {
		return nil, wrap(what, err)
	}
	if err := write(cmd.Stdout, out.Stdout); err != nil {
		return nil, err
	}
	if err := write(cmd.Stderr, out.Stderr); err != nil {
		return nil, err
	}
	exit := &machine.Exit{Code: out.Code}
	if out.Signal > 0 {
		exit.Code, exit.Signal = -1, signalName(out.Signal)
	}
	return exit, nil
}

func write(w io.Writer, text string) error {
	if w == nil {
		return nil
	}
	_, err := io.WriteString(w, text)
	return err
}

// execOf returns the request for a command, or why Fly cannot run it.
func execOf(ctx context.Context, cmd *machine.Command) (*execRequest, error) {
	if err := cmd.Validate(); err != nil {
		return nil, err
	}
	switch {
	case cmd.Terminal:
		return nil, fault.Say(fault.Unsupported, "Fly's API gives no terminal; run a command without one, or use fly ssh console")
	case cmd.User != "":
		return nil, fault.Say(fault.Unsupported, "Fly's API runs commands as the machine's own user only")
	}
	args := slices.Clone(cmd.Args)
	if len(cmd.Env) > 0 {
		set := []string{"env"}
		for _, key := range slices.Sorted(maps.Keys(cmd.Env)) {
			set = append(set, key+"="+cmd.Env[key])
		}
		args = append(set, args...)
	}
	if cmd.Dir != "" {
		args = append([]string{"sh", "-c", `cd "$1" && shift && exec "$@"`, "sh", cmd.Dir}, args...)
	}
	request := &execRequest{Command: args}
	if cmd.Stdin != nil {
		input, err := readAll(ctx, cmd.Stdin)
		if err != nil {
			return nil, err
		}
		request.Stdin = string(input)
	}
	return request, nil
}

// readAll reads what a command is given. It returns when ctx ends, though the reader may not.
func readAll(ctx context.Context, r io.Reader) ([]byte, error) {
	var input []byte
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		input, err = io.ReadAll(io.LimitReader(r, maxStdin+1))
	}()
	select {
	case <-ctx.Done():
		return nil, canceled(ctx)
	case <-done:
	}
	if err == nil && len(input) > maxStdin {
		err = fault.Say(fault.TooLarge, "the command's input is larger than the %d bytes that Fly takes", maxStdin)
	}
	return input, err
}

// running returns a machine of ours that runs, and fault.Conflict for one that does not.
func (p *Provider) running(ctx context.Context, id string) (*flyMachine, error) {
	m, _, err := p.get(ctx, id)
	if err != nil {
		return nil, err
	}
	if m.state() != machine.Running {
		return nil, fault.Say(fault.Conflict, "the machine does not run: Fly shows it as %s", plain(m.State, 32))
	}
	return m, nil
}

// Signal sends a signal to what runs first in the machine, as [machine.Signaler] says. Fly itself sends the ones that end
// programs, and SIGUSR1; one that it refuses is fault.Unsupported.
func (p *Provider) Signal(ctx context.Context, id, name string) error {
	what := "send a signal to machine " + plain(id, 64)
	if err := machine.CheckSignal(name); err != nil {
		return wrap(what, err)
	}
	if _, err := p.running(ctx, id); err != nil {
		return wrap(what, err)
	}
	err := p.post(ctx, what, id, "signal", map[string]string{"signal": name})
	if errors.Is(err, fault.Invalid) {
		return wrap(what, fault.Say(fault.Unsupported, "Fly does not send %s: %v", name, err))
	}
	return err
}

// Suspend halts the machine, as [machine.Suspender] says. Its clock halts with it, so a lifetime that the agent enforces
// ends as much later. Fly can suspend machines with at most 4 GiB of memory.
func (p *Provider) Suspend(ctx context.Context, id string) error {
	what := "suspend machine " + plain(id, 64)
	m, err := p.running(ctx, id)
	if err != nil {
		return wrap(what, err)
	}
	if m.State == "suspended" || m.State == "suspending" {
		return nil
	}
	return p.post(ctx, what, id, "suspend", nil)
}

// Resume lets a suspended machine go on, as [machine.Suspender] says. It starts nothing that has exited, which would run
// its job again.
func (p *Provider) Resume(ctx context.Context, id string) error {
	what := "resume machine " + plain(id, 64)
	m, err := p.running(ctx, id)
	if err != nil {
		return wrap(what, err)
	}
	if m.State != "suspended" && m.State != "suspending" {
		return nil
	}
	return p.post(ctx, what, id, "start", nil)
}

// post makes a call that answers nothing of interest.
func (p *Provider) post(ctx context.Context, what, id, verb string, body any) error {
	a, err := p.client.do(ctx, &call{action: verb, method: http.MethodPost, machine: id, verb: verb, body: body})
	if err != nil {
		return wrap(what, err)
	}
	if !a.ok() {
		err := p.client.refusal(what, a)
		if errors.Is(err, fault.NotFound) && p.unsettled(id) {
			err = fault.Say(fault.Unavailable, "%v", err)
		}
		return wrap(what, err)
	}
	return nil
}
