package agent_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// slotted is an agent on a machine of a pool with several slots.
type slotted struct {
	*memhome.Machine
	home *memhome.Home
	logs *memhome.Log
	stop context.CancelFunc
	exit chan machine.Exit

	renewed [8]atomic.Pointer[error] // what the renewal of each slot returns, if it is set
	working atomic.Int64             // attempts that have begun and not been renewed after
}

// newSlotted starts an agent on a machine with so many slots. The test fails if anything runs on it in the end.
func newSlotted(t *testing.T, slots int) *slotted {
	t.Helper()
	home := memhome.New(t)
	link := agent.NewShared("test")
	t.Cleanup(link.Close)
	s := &slotted{Machine: home.AddMachine(slots), home: home, logs: &memhome.Log{}, exit: make(chan machine.Exit, 1)}
	place := newPlace(t, s.Boot)
	place.Begin = func() error { s.working.Add(1); return nil }
	place.Divide = func(number int) ([]*agent.Place, error) {
		places := make([]*agent.Place, number)
		for i := range places {
			part, err := place.Group.Part(i+1, number)
			if err != nil {
				return nil, err
			}
			dir := filepath.Join(place.ScratchDir, strconv.Itoa(i+1))
			own := *place
			own.Group, own.WorkDir, own.ScratchDir = part, filepath.Join(dir, "work"), filepath.Join(dir, "scratch")
			own.Env = append(slices.Clone(place.Env), "TMPDIR="+filepath.Join(dir, "tmp"))
			make := func() error {
				if err := os.RemoveAll(dir); err != nil {
					return err
				}
				for _, name := range []string{"work", "scratch", "tmp"} {
					if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
						return err
					}
				}
				return nil
			}
			own.Renew = func(context.Context) error {
				s.working.Add(-1)
				if err := s.renewed[i].Load(); err != nil {
					return *err
				}
				if err := part.Renew(); err != nil {
					return err
				}
				return make()
			}
			if err := make(); err != nil {
				return nil, err
			}
			places[i] = &own
		}
		return places, nil
	}
	ctx, stop := context.WithCancel(t.Context())
	s.stop = stop
	options := &agent.Options{Version: "test", Logger: slog.New(slog.NewTextHandler(s.logs, nil))}
	go func() { s.exit <- agent.Run(ctx, link, place, options) }()
	t.Cleanup(func() {
		stop()
		<-s.exit
		if t.Failed() {
			t.Log(s.logs.String())
		}
	})
	return s
}

// ends waits until the agent has ended.
func (s *slotted) ends(t *testing.T) machine.Exit {
	t.Helper()
	exit := <-s.exit
	s.exit <- exit
	return exit
}

// result waits until an attempt has a result.
func (s *slotted) result(attempt string) memhome.Attempt {
	return s.home.Await(attempt, "it has a result", func(a memhome.Attempt) bool { return a.Result != nil })
}

func stdout(a memhome.Attempt) string { return string(a.Streams[wire.Stdout].Data) }

// printed waits until an attempt has printed something that ends in a newline, and returns its words.
func (s *slotted) printed(attempt string) []string {
	a := s.home.Await(attempt, "it has printed a line", func(a memhome.Attempt) bool { return strings.HasSuffix(stdout(a), "\n") })
	return strings.Fields(stdout(a))
}

// lives reports whether a process runs; a zombie does not.
func lives(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// awaitEnd waits until a process has ended.
func awaitEnd(t *testing.T, pid string) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for lives(pid) {
		select {
		case <-poll.C:
		case <-deadline.C:
			t.Fatalf("process %s still lives after 20 s", pid)
		}
	}
}

func TestTheSlotsOfAMachineHaveJobsAtOnceEachInItsOwnDirectories(t *testing.T) {
	t.Parallel()
	const slots = 3
	s := newSlotted(t, slots)
	meeting := t.TempDir()
	var attempts []string
	for k := 1; k <= slots; k++ {
		attempts = append(attempts, s.Give(k, script(fmt.Sprintf( // each waits for all of them
			`pwd; echo $TMPDIR; ls -A . $TMPDIR; touch mine $TMPDIR/mine %[1]s/%[2]d; while [ $(ls %[1]s | wc -l) -lt %[3]d ]; do sleep 0.01; done`, meeting, k, slots))))
	}
	seen := map[string]bool{}
	for i, attempt := range attempts {
		a := s.result(attempt)
		if a.Result.Outcome != wire.Succeeded {
			t.Errorf("the job in slot %d: got %+v, want success", i+1, a.Result)
		}
		words := strings.Fields(stdout(a))
		if len(words) != 4 || strings.Contains(stdout(a), "mine") {
			t.Fatalf("the job in slot %d: it printed %q, want its directories, and that they are empty", i+1, words)
		}
		for _, dir := range words[:2] {
			if seen[dir] {
				t.Errorf("the job in slot %d has the directory %s of another", i+1, dir)
			}
			seen[dir] = true
		}
		s.AwaitReady(i + 1)
	}
	if n := s.working.Load(); n != 0 {
		t.Errorf("attempts that have begun and whose place was not renewed: got %d, want none", n)
	}
	next := s.result(s.Give(2, script("ls -A . $TMPDIR")))
	if strings.Contains(stdout(next), "mine") {
		t.Errorf("the second job in slot 2: it finds %q, want nothing of the first", stdout(next))
	}
}

func TestAJobIsNotDisturbedByWhatBecomesOfAnotherBesideIt(t *testing.T) {
	t.Parallel()
	s := newSlotted(t, 2)
	steady := s.Give(1, script(`touch kept; sleep 1000 & echo $$ $!; while [ ! -e end ]; do sleep 0.02; done; kill $!; ls; echo farewell`))
	pids := s.printed(steady)
	work, err := os.Readlink("/proc/" + pids[0] + "/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		passing := s.Give(2, script(`(setsid env -i /bin/sh -c 'trap "" TERM; echo $$ > daemon; exec /bin/sleep 1000' &); while [ ! -s daemon ]; do sleep 0.01; done; cat daemon`))
		daemon := s.printed(passing)[0]
		s.AwaitReady(2)
		if lives(daemon) {
			t.Errorf("process %s, which a job in slot 2 has left, lives when the slot is ready for another; want it ended", daemon)
		}
		for _, pid := range pids {
			if !lives(pid) {
				t.Fatalf("process %s of the job in slot 1 has ended with a job in slot 2", pid)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(work, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if a := s.result(steady); a.Result.Outcome != wire.Succeeded || !strings.HasSuffix(stdout(a), "\nend\nkept\nfarewell\n") {
		t.Errorf("the job in slot 1: got %+v and output %q, want success, its files and all its output", a.Result, stdout(a))
	}
}

func TestAJobThatIsCanceledEndsAloneInItsSlot(t *testing.T) {
	t.Parallel()
	s := newSlotted(t, 2)
	steady, canceled := s.Give(1, script("echo $$; exec sleep 1000")), s.Give(2, script("echo $$; exec sleep 1000"))
	pids := []string{s.printed(steady)[0], s.printed(canceled)[0]}
	s.home.Order(canceled, wire.Canceled)
	if a := s.result(canceled); a.Result.Outcome != wire.Canceled {
		t.Errorf("the job that was canceled: got %+v, want that outcome", a.Result)
	}
	if lives(pids[1]) || !lives(pids[0]) {
		t.Errorf("the job that was canceled lives: %v, the one beside it: %v; want only the latter", lives(pids[1]), lives(pids[0]))
	}
}

func TestASlotThatIsNotWantedEndsAloneAndTheMachineWithTheLast(t *testing.T) {
	t.Parallel()
	s := newSlotted(t, 3)
	for k := 1; k <= 3; k++ {
		s.AwaitReady(k)
	}
	s.Refuse(1)
	s.AwaitOver(1)
	if a := s.result(s.Give(3, script("exit 3"))); a.Result.Exit.Code != 3 {
		t.Errorf("a job in a slot of a machine whose first slot has ended: got %+v, want it carried out", a.Result)
	}
	superseded := s.Give(2, script("echo $$; touch /proc/$$/cwd/left; exec sleep 1000"))
	pid := s.printed(superseded)[0]
	s.home.Supersede(superseded)
	awaitEnd(t, pid)
	s.AwaitReady(3)
	select {
	case exit := <-s.exit:
		t.Fatalf("the agent has ended with %+v while one slot is wanted", exit)
	default:
	}
	s.Refuse(3)
	if exit := s.ends(t); exit.Code != agent.ExitNotOurs || exit.Message == "" {
		t.Errorf("the agent of a machine of which no slot is wanted: got %+v, want code %d and why", exit, agent.ExitNotOurs)
	}
	if n := s.working.Load(); n != 0 {
		t.Errorf("attempts after which nothing was renewed: got %d, want none, also where the slot has ended with the attempt", n)
	}
}

func TestWhatSpoilsOneSlotIsToldByAll(t *testing.T) {
	t.Parallel()
	s := newSlotted(t, 2)
	steady := s.Give(1, script("echo $$; while [ ! -e end ]; do sleep 0.02; done"))
	work, err := os.Readlink("/proc/" + s.printed(steady)[0] + "/cwd")
	if err != nil {
		t.Fatal(err)
	}
	left := fault.Say(fault.Conflict, "Something is left.")
	s.renewed[1].Store(&left)
	s.result(s.Give(2, script("true")))
	s.AwaitOver(2)
	if s.Spoiled() != "Something is left." {
		t.Errorf("what the agent says of its machine: got %q, want what the renewal of slot 2 said", s.Spoiled())
	}
	if err := os.WriteFile(filepath.Join(work, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if a := s.result(steady); a.Result.Outcome != wire.Succeeded {
		t.Errorf("the job in the other slot: got %+v, want it to go on to its end", a.Result)
	}
	s.ends(t)
	if calls := s.Calls(1); calls[len(calls)-1].Spoiled == "" {
		t.Errorf("the last call of the other slot: got %+v, want it to say that the machine is spoiled", calls[len(calls)-1])
	}
}

func TestAllSlotsEndWithTheMachine(t *testing.T) {
	t.Parallel()
	s := newSlotted(t, 3)
	pids := []string{}
	for k := 1; k <= 2; k++ {
		pids = append(pids, s.printed(s.Give(k, script(`trap "" TERM; setsid sleep 1000 & echo $$ $!; while :; do sleep 1000; done`)))...)
	}
	s.AwaitReady(3)
	s.stop()
	if exit := s.ends(t); exit.Code != agent.ExitNotOurs {
		t.Errorf("an agent that was told to end: got %+v, want code %d", exit, agent.ExitNotOurs)
	}
	for _, pid := range pids {
		if lives(pid) {
			t.Errorf("process %s lives, want nothing left of any slot", pid)
		}
	}
}

func TestAMachineThatCannotBeDividedHasOneSlot(t *testing.T) {
	t.Parallel()
	for name, divide := range map[string]func(int) ([]*agent.Place, error){
		"that knows of no slots": nil,
		"that fails":             func(int) ([]*agent.Place, error) { return nil, fault.Say(fault.Exhausted, "There is no room.") },
	} {
		home := memhome.New(t)
		link := agent.NewShared("test")
		t.Cleanup(link.Close)
		m := home.AddMachine(2)
		place := newPlace(t, m.Boot)
		place.Renew, place.Divide = emptied(place), divide
		exit := make(chan machine.Exit, 1)
		go func() { exit <- agent.Run(t.Context(), link, place, nil) }()
		for range 2 {
			attempt := m.Give(1, script("pwd"))
			a := home.Await(attempt, "it has a result", func(a memhome.Attempt) bool { return a.Result != nil })
			if got := stdout(a); got != place.WorkDir+"\n" {
				t.Errorf("a job on a machine %s: it ran in %q, want %q", name, got, place.WorkDir)
			}
		}
		m.Refuse(1)
		if got := (<-exit).Code; got != agent.ExitNotOurs || len(m.Calls(2)) > 0 {
			t.Errorf("the agent of a machine %s: it ended with %d after %d calls for slot 2, want %d and none", name, got, len(m.Calls(2)), agent.ExitNotOurs)
		}
	}
}
