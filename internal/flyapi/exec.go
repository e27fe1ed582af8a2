package flyapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// The bounds of an exec.
const (
	defaultExec = 30 * time.Second
	maxExec     = 60 * time.Second
	maxOutput   = 1 << 20 // bytes of each stream; what is above is cut off
)

// execRequest is the body of an exec.
type execRequest struct {
	Command []string `json:"command"`
	Cmd     string   `json:"cmd"` // words separated by spaces, for no shell
	Stdin   string   `json:"stdin"`
	Timeout int      `json:"timeout"` // seconds
}

// execMachine runs a command in a machine. Whatever its status the answer is 200; one that takes too long is a 408.
func (s *Service) execMachine(r *request) (int, any, error) {
	wanted := &execRequest{}
	if err := r.read(maxExecBody, wanted); err != nil {
		return 0, nil, err
	}
	words := wanted.Command
	if len(words) == 0 {
		words = strings.Fields(wanted.Cmd)
	}
	if len(words) == 0 || words[0] == "" {
		return 0, nil, invalid("command is required")
	}
	if wanted.Timeout < 0 {
		return 0, nil, invalid("timeout must not be negative")
	}
	timeout := defaultExec
	if wanted.Timeout > 0 {
		timeout = min(time.Duration(wanted.Timeout)*time.Second, maxExec)
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	var stdout, stderr limited
	exit, err := s.exec(ctx, r.entry, &machine.Command{Args: words, Stdin: strings.NewReader(wanted.Stdin), Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return 0, nil, err
	}
	event := exitOf(exit, false, s.Now())
	return http.StatusOK, map[string]any{
		"exit_code": event.ExitCode, "exit_signal": event.GuestSignal, "stdout": stdout.text(), "stderr": stderr.text(),
	}, nil
}

// exec runs a command in a machine that runs.
func (s *Service) exec(ctx context.Context, e *entry, command *machine.Command) (*machine.Exit, error) {
	m, err := s.runs(e, "exec in")
	if err != nil {
		return nil, err
	}
	select {
	case s.inside <- struct{}{}:
		defer func() { <-s.inside }()
	case <-ctx.Done():
		return nil, refuse(http.StatusRequestTimeout, "deadline_exceeded: too many commands run in machines at once")
	}
	exit, err := machine.Exec(ctx, s.Provider, s.providerID(e, m), command)
	switch {
	case err != nil && (fault.Of(err) == fault.Canceled || ctx.Err() != nil):
		return nil, refuse(http.StatusRequestTimeout, "deadline_exceeded: the command did not end in time")
	case errors.Is(err, fault.Conflict), errors.Is(err, fault.NotFound):
		return nil, precondition("unable to exec in machine: it has just ended")
	}
	return exit, err
}

// limited keeps the beginning of what is written to it.
type limited struct{ bytes.Buffer }

// Write implements io.Writer. It never fails: a command whose output is cut off should not be stopped by that.
func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), max(0, maxOutput-l.Len()))])
	return len(p), nil
}

func (l *limited) text() string { return strings.ToValidUTF8(l.String(), "\uFFFD") }

var _ io.Writer = (*limited)(nil)

// processView is one process of a machine.
type processView struct {
	PID           int      `json:"pid"`
	Stime         int64    `json:"stime"`
	Rtime         int64    `json:"rtime"`
	Command       string   `json:"command"`
	Directory     string   `json:"directory"`
	CPU           int64    `json:"cpu"`
	RSS           int64    `json:"rss"`
	ListenSockets []string `json:"listen_sockets"`
}

// listProcesses prints what /proc knows of each process, for [parseProcesses]. It needs a shell and cat in the machine.
const listProcesses = `for p in /proc/[0-9]*; do
	[ "$p" != "/proc/$$" ] || continue
	s=$(cat "$p/stat" 2>/dev/null) || continue
	printf '\001%s\002' "$s"; cat "$p/cmdline" 2>/dev/null
	printf '\002'; cat "$p/environ" 2>/dev/null
done`

// processes lists what runs in a machine, by looking from inside.
func (s *Service) processes(r *request) (int, any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), defaultExec)
	defer cancel()
	var out limited
	exit, err := s.exec(ctx, r.entry, &machine.Command{Args: []string{"/bin/sh", "-c", listProcesses}, Stdout: &out})
	if err != nil {
		return 0, nil, err
	}
	if exit.Code == 127 || exit.Code == 126 {
		return 0, nil, precondition("unable to list processes: the machine's image has no /bin/sh to look with")
	}
	only := ""
	if s.Images != nil { // its processes are among those of the whole computer
		only = "FLY_ALLOC_ID=" + r.entry.record().ID
	}
	list := parseProcesses(out.String(), only)
	query := r.URL.Query()
	sortProcesses(list, query.Get("sort_by"), query.Get("order"))
	return http.StatusOK, list, nil
}

// parseProcesses reads the output of listProcesses. With only, those are left out that do not have it in their
// environment.
func parseProcesses(output, only string) []processView {
	list := []processView{}
	for part := range strings.SplitSeq(output, "\x01") {
		fields := strings.SplitN(part, "\x02", 3)
		if len(fields) < 3 || only != "" && !slices.Contains(strings.Split(fields[2], "\x00"), only) {
			continue
		}
		open, closing := strings.IndexByte(fields[0], '('), strings.LastIndexByte(fields[0], ')')
		if open < 0 || closing < open {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(fields[0][:open]))
		rest := strings.Fields(fields[0][closing+1:])
		if err != nil || len(rest) < 22 {
			continue
		}
		number := func(field int) int64 { // as proc(5) counts them
			n, _ := strconv.ParseInt(rest[field-3], 10, 64)
			return n
		}
		command := strings.TrimSpace(strings.ReplaceAll(fields[1], "\x00", " "))
		if command == "" {
			command = fields[0][open : closing+1]
		}
		list = append(list, processView{
			PID: pid, Command: strings.ToValidUTF8(command, "?"), CPU: number(14) + number(15), Stime: number(15), Rtime: number(22),
			RSS: number(24) * 4096, ListenSockets: []string{},
		})
	}
	return list
}

func sortProcesses(list []processView, by, order string) {
	key := func(p processView) int64 {
		switch by {
		case "cpu":
			return p.CPU
		case "rss":
			return p.RSS
		case "rtime":
			return p.Rtime
		case "stime":
			return p.Stime
		}
		return int64(p.PID)
	}
	slices.SortStableFunc(list, func(a, b processView) int {
		c := 0
		if x, y := key(a), key(b); x < y {
			c = -1
		} else if x > y {
			c = 1
		}
		if order == "desc" {
			return -c
		}
		return c
	})
}
