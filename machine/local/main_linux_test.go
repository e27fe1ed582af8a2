package local_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

// TestMain lets the test binary be its own supervisor: "TESTBINARY supervise [KEY=VALUE…] --dir DIR"; and remove what a
// test has left in the trash, seen from elsewhere: "TESTBINARY empty-trash DIR"; and run a command in a machine.
func TestMain(m *testing.M) {
	roles := map[string]func(args []string) error{
		"supervise":   supervise,
		"enter":       enter,
		"empty-trash": func(args []string) error { return local.EmptyTrash(args[0]) },
	}
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		if err := roles[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// These tests wait for processes much more than they compute, so more of them run at once than there are processors,
	// unless -parallel says otherwise.
	if err := flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func supervise(args []string) error {
	o := local.SupervisorOptions{
		Guest:  guest,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})),
		Grace:  300 * time.Millisecond,
	}
	for i, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "--dir":
			o.Dir = args[i+1]
		case "scan":
			o.DisableCgroups = true
		case "idle":
			o.Idle, _ = time.ParseDuration(value)
		case "max":
			o.MaxMachines, _ = strconv.Atoi(value)
		case "descriptors":
			most, _ := strconv.ParseUint(value, 10, 64)
			if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: most, Max: most}); err != nil {
				return err
			}
		case "fail":
			return fmt.Errorf("told to fail")
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return local.Supervise(ctx, o)
}

// guest is an agent whose attempt is a small script: "run SCRIPT", "busy SCRIPT" (holds as many descriptors as an agent may
// meanwhile), "rounds N SCRIPT" (twice in each of N parts of the machine), "home" (waits for a base URL and writes it to the work directory), "exit CODE", "say MESSAGE"; or what package
// machinetest makes up, which begins with "mt-".
func guest(ctx context.Context, c *local.Cell) machine.Exit {
	verb, rest, _ := strings.Cut(c.Spec.Agent.Attempt, " ")
	switch verb {
	case "busy":
		// With the record, the cgroup, which is open twice, and the process these are thirteen.
		for range 9 {
			file, err := os.Open(c.WorkDir)
			if err != nil {
				return machine.Exit{Code: 71, Message: err.Error()}
			}
			defer file.Close()
		}
		fallthrough
	case "run":
		p, err := c.Group.Start(&process.Command{Argv: []string{"sh", "-c", rest}, Env: c.Env, Dir: c.WorkDir})
		if err != nil {
			return machine.Exit{Code: 70, Message: err.Error()}
		}
		exit, _ := p.Exit()
		return exit
	case "home":
		for {
			url, renewed := c.Home()
			if url != "" && os.WriteFile(rest+".new", []byte(url), 0o600) == nil {
				_ = os.Rename(rest+".new", rest)
			}
			select {
			case <-ctx.Done():
				return machine.Exit{Code: 75}
			case <-renewed:
			}
		}
	case "rounds":
		return rounds(ctx, c, rest)
	case "true":
		p, err := c.Group.Start(&process.Command{Argv: []string{"/bin/true"}, Env: c.Env, Dir: c.WorkDir})
		if err != nil {
			return machine.Exit{Code: 70, Message: err.Error()}
		}
		exit, _ := p.Exit()
		return exit
	case "sleep":
		<-ctx.Done()
		return machine.Exit{Code: 75}
	case "exit":
		code, _ := strconv.Atoi(rest)
		return machine.Exit{Code: code}
	case "say":
		return machine.Exit{Code: 70, Message: rest}
	}
	if strings.HasPrefix(verb, "mt-") {
		return tell(c)
	}
	return machine.Exit{Code: 64}
}

// rounds runs a script in each of so many parts of the machine at once, and again in each that it has been made ready for it.
// PART and ROUND tell which it is. The exit is the first that is a failure.
func rounds(ctx context.Context, c *local.Cell, rest string) machine.Exit {
	number, script, _ := strings.Cut(rest, " ")
	parts, _ := strconv.Atoi(number)
	cells := []*local.Cell{c}
	if parts > 1 {
		var err error
		if cells, err = c.Divide(parts); err != nil {
			return machine.Exit{Code: 71, Message: err.Error()}
		}
	}
	exits := make(chan machine.Exit, parts)
	for i, cell := range cells {
		go func() {
			for round := 1; ; round++ {
				env := append(slices.Clone(cell.Env), fmt.Sprintf("PART=%d", i+1), fmt.Sprintf("ROUND=%d", round))
				p, err := cell.Group.Start(&process.Command{Argv: []string{"sh", "-c", script}, Env: env, Dir: cell.WorkDir})
				if err != nil {
					exits <- machine.Exit{Code: 70, Message: err.Error()}
					return
				}
				exit, _ := p.Exit()
				if err = cell.Group.Kill(ctx); err == nil {
					err = cell.Renew(ctx)
				}
				if !exit.OK() || err != nil || round == 2 {
					if err != nil {
						exit = machine.Exit{Code: 72, Message: err.Error()}
					}
					exits <- exit
					return
				}
			}
		}()
	}
	var failed machine.Exit
	for range cells {
		if exit := <-exits; failed.OK() {
			failed = exit
		}
	}
	return failed
}

// agentVariable is the variable in which a process of an agent's machine holds what the agent was told.
const agentVariable = "AGENT_WAS_TOLD"

// tell runs a process that shows what the agent was told to whoever reads its environment, until the machine is ended.
func tell(c *local.Cell) machine.Exit {
	told, err := json.Marshal(c.Spec.Agent)
	if err != nil {
		return machine.Exit{Code: 70, Message: err.Error()}
	}
	env := append(slices.Clone(c.Env), agentVariable+"="+string(told))
	p, err := c.Group.Start(&process.Command{Argv: []string{"sleep", "600"}, Env: env, Dir: c.WorkDir})
	if err != nil {
		return machine.Exit{Code: 70, Message: err.Error()}
	}
	exit, _ := p.Exit()
	return exit
}
