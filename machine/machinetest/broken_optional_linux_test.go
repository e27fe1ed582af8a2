package machinetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

func brokenInExec() []broken {
	// altered runs commands after a change.
	altered := func(change func(cmd *machine.Command)) func(b *backend, h *hooks) {
		return func(_ *backend, h *hooks) {
			h.exec = func(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
				other := *cmd
				change(&other)
				return h.Provider.Exec(ctx, id, &other)
			}
		}
	}
	return []broken{
		{"reports every status of a command as 1", func(_ *backend, h *hooks) {
			h.exec = func(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
				exit, err := h.Provider.Exec(ctx, id, cmd)
				if err == nil && exit.Code > 1 && exit.Code < 127 {
					exit.Code = 1
				}
				return exit, err
			}
		}, []string{
			"ExecReturnsTheStatusAndBothStreams", "ExecReadsItsInput", "ExecTalksBackAndForth", "ExecGivesATerminal", "CommandsAtOnceDoNotMeet",
		}, nil},
		{"mixes the streams of a command", altered(func(cmd *machine.Command) { cmd.Stderr = cmd.Stdout }), []string{
			"ExecReturnsTheStatusAndBothStreams", "ExecLosesNoOutput", "ExecEndsWhenNobodyTakesItsOutput",
		}, nil},
		{"joins a command's words", altered(func(cmd *machine.Command) {
			if len(cmd.Args) > 3 {
				cmd.Args = []string{"sh", "-c", strings.Join(cmd.Args[2:], " ")}
			}
		}), []string{"ExecReturnsTheStatusAndBothStreams"}, nil},
		{"takes a program that does not exist for a failure of its own", func(_ *backend, h *hooks) {
			h.exec = func(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
				exit, err := h.Provider.Exec(ctx, id, cmd)
				if err == nil && exit.Code == 127 {
					return nil, fmt.Errorf("no program: %w", fault.Invalid)
				}
				return exit, err
			}
		}, []string{"ExecOfNoProgramIsStatus127"}, nil},
		{"gives commands no input", altered(func(cmd *machine.Command) { cmd.Stdin = nil }), []string{
			"ExecReadsItsInput", "ExecTalksBackAndForth", "ExecLosesNoOutput", "CommandsAtOnceDoNotMeet", "ExecGivesATerminal",
		}, nil},
		{"reads all input before it begins", func(_ *backend, h *hooks) {
			h.exec = func(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
				other := *cmd
				if cmd.Stdin != nil && !cmd.Terminal {
					text := make(chan []byte, 1)
					go func() {
						all, _ := io.ReadAll(cmd.Stdin)
						text <- all
					}()
					select {
					case all := <-text:
						other.Stdin = bytes.NewReader(all)
					case <-ctx.Done():
						return nil, context.Cause(ctx)
					}
				}
				return h.Provider.Exec(ctx, id, &other)
			}
		}, []string{"ExecReadsItsInput", "ExecTalksBackAndForth"}, nil},
		{"delivers output at the end", func(_ *backend, h *hooks) {
			h.exec = func(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
				other := *cmd
				var out buffered
				if cmd.Stdin != nil && cmd.Stdout != nil && !cmd.Terminal {
					other.Stdout = &out
				}
				exit, err := h.Provider.Exec(ctx, id, &other)
				if other.Stdout == &out {
					_, _ = cmd.Stdout.Write(out.text.Bytes())
				}
				return exit, err
			}
		}, []string{"ExecTalksBackAndForth"}, nil},
		{"runs commands without the machine's environment", altered(func(cmd *machine.Command) {
			env := map[string]string{"MT_ONE": "", "MT_TWO": ""}
			maps.Copy(env, cmd.Env)
			cmd.Env = env
		}), []string{"ExecHasTheMachinesEnvironmentAndDirectory"}, nil},
		{"ignores a command's environment", altered(func(cmd *machine.Command) {
			if _, odd := cmd.Env["A=B"]; !odd {
				cmd.Env = nil
			}
		}), []string{"ExecHasTheMachinesEnvironmentAndDirectory"}, nil},
		{"runs commands in the root directory", altered(func(cmd *machine.Command) {
			if cmd.Dir == "" {
				cmd.Dir = "/"
			}
		}), []string{"ExecHasTheMachinesEnvironmentAndDirectory"}, nil},
		{"runs every command as its own user", altered(func(cmd *machine.Command) { cmd.User = "" }), []string{"ExecAsAnotherUser"}, nil},
		{"gives no terminal", altered(func(cmd *machine.Command) { cmd.Terminal = false }), []string{"ExecGivesATerminal"}, nil},
		{"does not tell the size of the window", altered(func(cmd *machine.Command) { cmd.Resize = nil }), []string{"ExecGivesATerminal"}, nil},
		{"lets commands go on whose context has ended", func(_ *backend, h *hooks) {
			h.exec = func(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
				type result struct {
					exit *machine.Exit
					err  error
				}
				ended := make(chan result, 1)
				go func() {
					exit, err := h.Provider.Exec(context.WithoutCancel(ctx), id, cmd)
					ended <- result{exit, err}
				}()
				select {
				case r := <-ended:
					return r.exit, r.err
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
			}
		}, []string{"ExecEndsWithItsContext"}, nil},
		{"says that an interrupted command was killed", func(_ *backend, h *hooks) {
			h.exec = func(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
				exit, err := h.Provider.Exec(ctx, id, cmd)
				if ctx.Err() != nil {
					return &machine.Exit{Code: -1, Signal: "SIGKILL"}, nil
				}
				return exit, err
			}
		}, []string{"ExecEndsWithItsContext"}, nil},
		{"says that a command in a machine which ends has succeeded", func(_ *backend, h *hooks) {
			h.exec = func(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
				exit, err := h.Provider.Exec(ctx, id, cmd)
				if errors.Is(err, fault.Canceled) && ctx.Err() == nil {
					return &machine.Exit{}, nil
				}
				return exit, err
			}
		}, []string{"ExecEndsWithTheMachine", "ExecEndsAtTheEndOfTheLifetime"}, nil},
		{"enters machines that do not exist", func(_ *backend, h *hooks) {
			h.exec = func(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
				exit, err := h.Provider.Exec(ctx, id, cmd)
				if errors.Is(err, fault.NotFound) || errors.Is(err, fault.Conflict) {
					return &machine.Exit{}, nil
				}
				return exit, err
			}
		}, []string{"ExecOfWhatDoesNotRunIsRefused"}, nil},
		{"throws away what nobody takes", altered(func(cmd *machine.Command) {
			cmd.Stdout, cmd.Stderr = careless{cmd.Stdout}, careless{cmd.Stderr}
		}), []string{"ExecEndsWhenNobodyTakesItsOutput"}, nil},
		{"cuts a command's output", altered(func(cmd *machine.Command) {
			cmd.Stdout, cmd.Stderr = &cut{w: cmd.Stdout}, &cut{w: cmd.Stderr}
		}), []string{"ExecLosesNoOutput"}, nil},
		{"runs one command at a time", func(_ *backend, h *hooks) {
			var busy atomic.Int64
			h.exec = func(ctx context.Context, id string, cmd *machine.Command) (*machine.Exit, error) {
				defer busy.Add(-1)
				if busy.Add(1) > 1 {
					return nil, fmt.Errorf("busy: %w", fault.Exhausted)
				}
				<-time.After(20 * time.Millisecond)
				return h.Provider.Exec(ctx, id, cmd)
			}
		}, []string{"CommandsAtOnceDoNotMeet"}, nil},
	}
}

// buffered keeps what is written.
type buffered struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffered) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(text)
}

// careless does not care whether anything was written.
type careless struct{ w io.Writer }

func (c careless) Write(text []byte) (int, error) {
	if c.w != nil {
		_, _ = c.w.Write(text)
	}
	return len(text), nil
}

// cut passes on the first mebibyte.
type cut struct {
	w    io.Writer
	done int
}

func (c *cut) Write(text []byte) (int, error) {
	if c.w == nil || c.done > 1<<20 {
		return len(text), nil
	}
	c.done += len(text)
	return c.w.Write(text)
}

func brokenInSignals() []broken {
	return []broken{
		{"sends every signal as SIGTERM", func(_ *backend, h *hooks) {
			h.signal = func(ctx context.Context, id, name string) error {
				if name == "SIGURG" {
					name = "SIGUSR1"
				}
				return h.Provider.Signal(ctx, id, name)
			}
		}, []string{"SignalReachesTheFirstProcess"}, nil},
		{"sends no signal that cannot be caught", func(_ *backend, h *hooks) {
			h.signal = func(ctx context.Context, id, name string) error {
				if name == "SIGKILL" {
					return nil
				}
				return h.Provider.Signal(ctx, id, name)
			}
		}, []string{"SignalReachesTheFirstProcess"}, nil},
		{"does not mind what signal it is, nor to whom", func(_ *backend, h *hooks) {
			h.signal = func(ctx context.Context, id, name string) error {
				err := h.Provider.Signal(ctx, id, name)
				if errors.Is(err, fault.Invalid) || errors.Is(err, fault.NotFound) {
					return nil
				}
				return err
			}
		}, []string{"SignalsThatCannotBeSentAreRefused"}, nil},
		{"ends a machine for a signal that it does not know", func(_ *backend, h *hooks) {
			h.signal = func(ctx context.Context, id, name string) error {
				err := h.Provider.Signal(ctx, id, name)
				if errors.Is(err, fault.Invalid) {
					_ = h.Provider.Signal(ctx, id, "SIGKILL")
				}
				return err
			}
		}, []string{"SignalsThatCannotBeSentAreRefused"}, nil},
		{"does not suspend", func(_ *backend, h *hooks) {
			h.suspend = func(ctx context.Context, id string) error {
				if err := h.Provider.Suspend(ctx, id); err != nil {
					return err
				}
				return h.Provider.Resume(ctx, id)
			}
		}, []string{"ASuspendedMachineGoesOnWhereItWas", "ASuspendedMachineStaysSoWithoutItsCreator"}, nil},
		{"does not resume", func(_ *backend, h *hooks) {
			h.resume = func(ctx context.Context, id string) error {
				_, err := h.Provider.Get(ctx, id)
				return err
			}
		}, []string{"ASuspendedMachineGoesOnWhereItWas", "ASuspendedMachineStaysSoWithoutItsCreator", "WhatDoesNotRunIsNotSuspended"}, nil},
		{"suspends only once", func(b *backend, h *hooks) {
			h.suspend = func(ctx context.Context, id string) error {
				if b.before("suspended " + id) {
					return fmt.Errorf("suspended already: %w", fault.Conflict)
				}
				return h.Provider.Suspend(ctx, id)
			}
		}, []string{"ASuspendedMachineGoesOnWhereItWas", "ASuspendedMachineStaysSoWithoutItsCreator"}, nil},
		{"shows a suspended machine as exited", func(b *backend, h *hooks) {
			h.suspend = func(ctx context.Context, id string) error {
				b.notes.Store("halted "+id, true)
				return h.Provider.Suspend(ctx, id)
			}
			h.resume = func(ctx context.Context, id string) error {
				b.notes.Delete("halted " + id)
				return h.Provider.Resume(ctx, id)
			}
			h.show = func(m *machine.Machine) {
				if _, halted := b.notes.Load("halted " + m.ID); halted && m.State == machine.Running {
					m.State = machine.Creating
				}
			}
		}, []string{"ASuspendedMachineGoesOnWhereItWas"}, nil},
		{"resumes its machines when it is opened again", func(b *backend, h *hooks) {
			for _, m := range b.cloud.Machines() {
				_ = h.Provider.Resume(context.Background(), m.ID)
			}
		}, []string{"ASuspendedMachineStaysSoWithoutItsCreator"}, nil},
		{"lets a suspended machine live on", func(b *backend, h *hooks) {
			var lasting sync.Map
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				if spec.Env["SCRIPT"] == "" || spec.Lifetime > time.Minute {
					return refuseImages(ctx, h, spec)
				}
				m, err := createFor(ctx, h, spec, machine.MaxLifetime)
				if err == nil {
					lasting.Store(m.ID, true)
				}
				return m, err
			}
		}, []string{"ASuspendedMachineEndsAtItsEndDate"}, nil},
		{"suspends what has exited", func(_ *backend, h *hooks) {
			h.suspend = func(ctx context.Context, id string) error {
				if err := h.Provider.Suspend(ctx, id); !errors.Is(err, fault.Conflict) {
					return err
				}
				return nil
			}
		}, []string{"WhatDoesNotRunIsNotSuspended"}, nil},
	}
}

func brokenInLogs() []broken {
	type logs = func(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error
	// relayed is the reference's Logs with something done to the call.
	relayed := func(change func(b *backend, h *hooks, next logs) logs) func(b *backend, h *hooks) {
		return func(b *backend, h *hooks) { h.logs = change(b, h, h.Provider.Logs) }
	}
	return []broken{
		{"mixes the streams of a machine", relayed(func(_ *backend, _ *hooks, next logs) logs {
			return func(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
				return next(ctx, id, follow, stdout, stdout)
			}
		}), []string{"LogsHoldBothStreams", "LogsOutliveTheMachinesEnd", "LogsAreFollowedToTheEnd", "LogsKeepAMebibyte"}, nil},
		{"forgets what a machine has printed when it exits", relayed(func(_ *backend, h *hooks, next logs) logs {
			return func(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
				if m, err := h.Provider.Get(ctx, id); err == nil && m.State == machine.Exited {
					return nil
				}
				return next(ctx, id, follow, stdout, stderr)
			}
		}), []string{"LogsOutliveTheMachinesEnd", "LogsKeepAMebibyte"}, nil},
		{"forgets what a machine has printed when it is opened again", relayed(func(b *backend, _ *hooks, next logs) logs {
			return func(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
				if b.reopened() {
					return nil
				}
				return next(ctx, id, follow, stdout, stderr)
			}
		}), []string{"LogsHoldBothStreams", "LogsOutliveTheMachinesEnd"}, nil},
		{"does not follow", relayed(func(_ *backend, _ *hooks, next logs) logs {
			return func(ctx context.Context, id string, _ bool, stdout, stderr io.Writer) error {
				return next(ctx, id, false, stdout, stderr)
			}
		}), []string{"LogsAreFollowedToTheEnd", "FollowingEndsWithItsContextAndItsWriter"}, nil},
		{"follows for ever", relayed(func(_ *backend, _ *hooks, next logs) logs {
			return func(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
				err := next(ctx, id, follow, stdout, stderr)
				if follow && err == nil && stdout != nil && stderr != nil {
					<-ctx.Done()
				}
				return err
			}
		}), []string{"LogsAreFollowedToTheEnd"}, nil},
		{"does not care whether logs are taken", relayed(func(_ *backend, _ *hooks, next logs) logs {
			return func(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
				return next(ctx, id, follow && stderr != nil, careless{stdout}, careless{stderr})
			}
		}), []string{"FollowingEndsWithItsContextAndItsWriter"}, nil},
		{"keeps little of what is printed", relayed(func(_ *backend, _ *hooks, next logs) logs {
			return func(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
				return next(ctx, id, follow, &short{w: stdout}, stderr)
			}
		}), []string{"LogsKeepAMebibyte"}, nil},
		{"has nothing printed of machines that it does not know", relayed(func(_ *backend, _ *hooks, next logs) logs {
			return func(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
				err := next(ctx, id, follow, stdout, stderr)
				if errors.Is(err, fault.NotFound) {
					return nil
				}
				return err
			}
		}), []string{"LogsOfUnknownAreNotFound"}, nil},
	}
}

// short passes on the last kilobytes of every write.
type short struct{ w io.Writer }

func (s *short) Write(text []byte) (int, error) {
	if s.w == nil {
		return len(text), nil
	}
	if _, err := s.w.Write(text[max(0, len(text)-1000<<10):]); err != nil {
		return 0, err
	}
	return len(text), nil
}

func brokenInPrepare() []broken {
	return []broken{
		{"creates what it should prepare", func(b *backend, h *hooks) {
			h.prepare = func(ctx context.Context, spec *machine.Spec, report func(machine.Preparation)) error {
				if err := h.Provider.Prepare(ctx, spec, report); err != nil {
					return err
				}
				_, err := h.Provider.Create(ctx, spec)
				return err
			}
		}, []string{"PrepareMakesNoMachine"}, nil},
		{"reports more than there is", func(_ *backend, h *hooks) {
			h.prepare = func(ctx context.Context, spec *machine.Spec, report func(machine.Preparation)) error {
				if report != nil {
					report(machine.Preparation{Text: "fetching", Done: 2, Total: 1})
				}
				return h.Provider.Prepare(ctx, spec, report)
			}
		}, []string{"PrepareMakesNoMachine"}, nil},
		{"cannot prepare without being listened to", func(_ *backend, h *hooks) {
			h.prepare = func(ctx context.Context, spec *machine.Spec, report func(machine.Preparation)) error {
				err := h.Provider.Prepare(ctx, spec, report)
				if err == nil && report == nil {
					return fmt.Errorf("nobody listens: %w", fault.Internal)
				}
				return err
			}
		}, []string{"PrepareMayBeCalledAtOnce"}, nil},
		{"brings a program along without its arguments", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				if spec.Program != nil {
					spec = &machine.Spec{Name: spec.Name, Owner: spec.Owner, Labels: spec.Labels, Lifetime: spec.Lifetime, Env: spec.Env,
						Program: &machine.Program{File: spec.Program.File, Args: spec.Program.Args[:2]}}
				}
				return refuseImages(ctx, h, spec)
			}
		}, []string{"AProgramIsBroughtAlong"}, nil},
		{"takes every file for a program", func(_ *backend, h *hooks) {
			h.check = func(context.Context, *machine.Program) error { return nil }
		}, []string{"AProgramThatIsNotThereIsRefused"}, nil},
		{"prepares whatever it is asked to", func(_ *backend, h *hooks) {
			h.prepare = func(context.Context, *machine.Spec, func(machine.Preparation)) error { return nil }
		}, []string{"PrepareRefusesWhatCreateRefuses"}, nil},
		{"forgets the files", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				bare := *spec
				bare.Files = nil
				return refuseImages(ctx, h, &bare)
			}
		}, []string{"FilesAreThereBeforeAnythingRuns"}, nil},
		{"forgets the modes of files", func(_ *backend, h *hooks) {
			h.create = func(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
				plain := *spec
				plain.Files = nil
				for _, file := range spec.Files {
					plain.Files = append(plain.Files, machine.File{Path: file.Path, Data: file.Data})
				}
				return refuseImages(ctx, h, &plain)
			}
		}, []string{"FilesAreThereBeforeAnythingRuns"}, nil},
	}
}
