package process_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// newParts returns parts of a group, numbered from 1, that have equal shares.
func newParts(t *testing.T, group *process.Group, shares int) []*process.Group {
	t.Helper()
	parts := make([]*process.Group, shares)
	for i := range parts {
		var err error
		if parts[i], err = group.Part(i+1, shares); err != nil {
			t.Fatalf("Part(%d, %d): got error %v, want nil", i+1, shares, err)
		}
	}
	return parts
}

func TestAPartEndsWithItsDaemonsAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, scan bool) {
		dir := t.TempDir()
		parts := newParts(t, newGroup(t, newHost(t, scan), machine.Size{}), 2)
		var pids []int
		for i, part := range parts {
			file := filepath.Join(dir, strconv.Itoa(i))
			p, _ := start(t, part, "/", hidden(file))
			p.Exit()
			pids = append(pids, hiddenID(t, file))
		}
		for range 3 { // each is another tree in the same part
			p, _ := start(t, parts[1], dir, "sleep 1000 & exec sleep 1000")
			if err := parts[1].Renew(); !errors.Is(err, fault.Conflict) {
				t.Errorf("Renew of a part in which something runs: got error %v, want fault.Conflict", err)
			}
			if err := parts[1].Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.Exit()
			if err := parts[1].Renew(); err != nil {
				t.Fatalf("Renew of a part that was killed: got error %v, want nil", err)
			}
		}
		if !alive(pids[0]) || alive(pids[1]) {
			t.Errorf("the daemon of the part that was killed lives: %v, that of the other: %v, want only the other", alive(pids[1]), alive(pids[0]))
		}
		if empty, err := parts[0].Empty(); empty || err != nil {
			t.Errorf("the other part: got empty %v and error %v, want its daemon", empty, err)
		}
		if empty, err := parts[1].Empty(); !empty || err != nil {
			t.Errorf("the part that was killed: got empty %v and error %v, want nothing", empty, err)
		}
	})
}

func TestAGroupIsEndedWithAllItsPartsByWhoKnowsNothingOfThem(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, scan bool) {
		prefix, dir := newPrefix(), t.TempDir()
		host, err := process.NewHost(&process.Options{Prefix: prefix, DisableCgroups: scan})
		if err != nil {
			t.Fatal(err)
		}
		if !scan && host.Abilities().Kill == "scan" {
			t.Skipf("this computer has no usable cgroups: %v", host.Abilities().Why)
		}
		defer func() { eventually(t, "the host can be closed", func() bool { return host.Close() == nil }) }()
		parts := newParts(t, newGroup(t, host, machine.Size{}), 2)
		var pids []int
		for i, part := range parts {
			file := filepath.Join(dir, strconv.Itoa(i))
			start(t, part, "/", hidden(file)+"exec sleep 1000")
			eventually(t, "its daemon runs", func() bool { list, _ := filepath.Glob(file); return len(list) > 0 })
			pids = append(pids, hiddenID(t, file))
		}

		other, err := process.NewHost(&process.Options{Prefix: prefix, DisableCgroups: scan})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if names, err := other.Names("one"); err != nil || !slices.Equal(names, []string{"one"}) {
			t.Errorf("Names of groups, one of which has parts: got %v and error %v, want that one and none of its parts", names, err)
		}
		found, err := other.Find("one")
		if err != nil || found == nil {
			t.Fatalf("Find: got %v and error %v, want the group", found, err)
		}
		if err := found.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, pid := range pids {
			if alive(pid) {
				t.Errorf("the daemon of part %d lives, want none", i+1)
			}
		}
		if err := found.Close(); err != nil {
			t.Errorf("Close of a group whose parts are empty: got error %v, want nil", err)
		}
		if scan {
			return // nothing tells there that the group is gone
		}
		if _, err := parts[0].Start(&process.Command{Argv: []string{"true"}, Env: environment(), Dir: "/"}); !errors.Is(err, fault.Conflict) {
			t.Errorf("Start in a part of a group that was removed: got error %v, want fault.Conflict", err)
		}
		if err := parts[1].Renew(); err == nil {
			t.Error("Renew of a part of a group that was removed: got no error, want one")
		}
		if names, err := other.Names(); err != nil || len(names) > 0 {
			t.Errorf("the groups afterwards: got %v and error %v, want none", names, err)
		}
	})
}

func TestWhatIsDoneToAGroupIsDoneToItsParts(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, scan bool) {
		group := newGroup(t, newHost(t, scan), machine.Size{})
		parts := newParts(t, group, 2)
		p, _ := start(t, parts[0], "/", "exec sleep 1000")
		if err := group.Halt(); err != nil {
			t.Fatal(err)
		}
		started := make(chan error, 1)
		begin := func() {
			_, err := parts[1].Start(&process.Command{Argv: []string{"true"}, Env: environment(), Dir: "/"})
			started <- err
		}
		go begin()
		select {
		case err := <-started:
			t.Fatalf("Start in a part of a halted group: it returned error %v, want it to wait", err)
		case <-time.After(50 * time.Millisecond):
		}
		if err := group.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := <-started; err != nil {
			t.Errorf("Start in a part of a group that goes on: got error %v, want nil", err)
		}
		q, _ := start(t, parts[1], "/", "exec sleep 1000")
		if err := group.Halt(); err != nil {
			t.Fatal(err)
		}
		if err := parts[1].Kill(t.Context()); err != nil {
			t.Fatalf("Kill of a part of a halted group: got error %v, want nil", err)
		}
		if exit, _ := q.Exit(); exit.Signal != "SIGKILL" {
			t.Errorf("what ran in a killed part of a halted group: got %+v, want SIGKILL", exit)
		}
		if _, err := parts[0].Start(&process.Command{Argv: []string{"true"}, Env: environment(), Dir: "/"}); err != nil {
			t.Errorf("Start in another part then: got error %v, want the group to go on", err)
		}
		if err := parts[1].Renew(); err != nil {
			t.Fatal(err)
		}
		if empty, err := group.Empty(); empty || err != nil {
			t.Errorf("a group with something in a part: got empty %v and error %v, want false", empty, err)
		}
		if err := group.Close(); !errors.Is(err, fault.Conflict) {
			t.Errorf("Close of a group with something in a part: got error %v, want fault.Conflict", err)
		}
		if err := group.Renew(); !errors.Is(err, fault.Conflict) {
			t.Errorf("Renew of a group that has parts: got error %v, want fault.Conflict", err)
		}
		if err := group.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if exit, _ := p.Exit(); exit.Signal != "SIGKILL" {
			t.Errorf("what ran in a part of a killed group: got %+v, want SIGKILL", exit)
		}
		go begin()
		if err := <-started; !errors.Is(err, fault.Conflict) {
			t.Errorf("Start in a part of a killed group: got error %v, want fault.Conflict", err)
		}
		if _, err := group.Part(3, 1); !errors.Is(err, fault.Conflict) {
			t.Errorf("Part of a killed group: got error %v, want fault.Conflict", err)
		}
		if err := group.Close(); err != nil {
			t.Fatal(err)
		}
		if err := parts[1].Renew(); !errors.Is(err, fault.Conflict) {
			t.Errorf("Renew of a part of a closed group: got error %v, want fault.Conflict", err)
		}
	})
}

func TestNoGroupHasAPartOfAPartOrOfAnImpossibleNumber(t *testing.T) {
	t.Parallel()
	group := newGroup(t, newHost(t, true), machine.Size{})
	part := newParts(t, group, 1)[0]
	for name, make := range map[string]func() (*process.Group, error){
		"a part of a part":   func() (*process.Group, error) { return part.Part(1, 1) },
		"a negative number":  func() (*process.Group, error) { return group.Part(-1, 1) },
		"too large a number": func() (*process.Group, error) { return group.Part(255, 1) },
		"no share":           func() (*process.Group, error) { return group.Part(1, 0) },
	} {
		if _, err := make(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: got error %v, want fault.Invalid", name, err)
		}
	}
}

func TestWhatRunsOutOfMemoryInOnePartIsNoOthersEnd(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	if !host.Abilities().Memory {
		t.Skipf("no memory controller: %v", host.Abilities().Why)
	}
	parts := newParts(t, newGroup(t, host, machine.Size{MemoryMB: 128}), 2)
	other, _ := start(t, parts[1], "/", "sleep 1000; exit 3")
	hog, _ := start(t, parts[0], "/", "exec head -c 100m /dev/zero | exec tail")
	if exit, _ := hog.Exit(); !exit.OOMKilled {
		t.Errorf("100 MiB in a part that has half of 128: got %+v, want OOMKilled", exit)
	}
	if err := other.Signal(9); err != nil {
		t.Fatalf("what runs in the other part: got %v, want it to live", err)
	}
	if exit, _ := other.Exit(); exit.OOMKilled {
		t.Errorf("what ran in the other part: got %+v, want nothing about memory", exit)
	}
	if err := parts[0].Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := parts[0].Renew(); err != nil {
		t.Fatal(err)
	}
	next, _ := start(t, parts[0], "/", "exit 3")
	if exit, _ := next.Exit(); exit.OOMKilled {
		t.Errorf("what runs next in the part: got %+v, want nothing about memory", exit)
	}
}

func TestWhatUsesUpTheMemoryOfTheWholeGroupIsNoOthersEnd(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	if !host.Abilities().Memory {
		t.Skipf("no memory controller: %v", host.Abilities().Why)
	}
	group, dir := newGroup(t, host, machine.Size{MemoryMB: 128}), t.TempDir()
	part := newParts(t, group, 2)[0]
	beside, err := group.Part(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	steady, _ := start(t, part, dir, "(head -c 30m /dev/zero; touch full; while [ ! -e over ]; do sleep 0.02; done) | tail -c 30m | wc -c; exit 3")
	eventually(t, "30 MiB are in use", func() bool { list, _ := filepath.Glob(dir + "/full"); return len(list) > 0 })
	hog, _ := start(t, beside, "/", "exec head -c 200m /dev/zero | exec tail")
	if exit, _ := hog.Exit(); !exit.OOMKilled {
		t.Errorf("200 MiB beside 30 in a group that has 128: got %+v, want OOMKilled", exit)
	}
	if err := os.WriteFile(filepath.Join(dir, "over"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if exit, _ := steady.Exit(); exit.Code != 3 {
		t.Errorf("what ran in a part meanwhile: got %+v, want it to go on to its end", exit)
	}
}

func TestAPartIsHeldToItsShareOfTheProcesses(t *testing.T) {
	t.Parallel()
	host := newHost(t, false)
	if !host.Abilities().Processes {
		t.Skipf("no pids controller: %v", host.Abilities().Why)
	}
	parts := newParts(t, newGroup(t, host, machine.Size{Processes: 40, CPUs: 1}), 2)
	bomb, _ := start(t, parts[0], "/", "for i in $(seq 30); do sleep 1000 & done; wait")
	if exit, _ := bomb.Exit(); exit.OK() {
		t.Errorf("30 processes in a part that may have half of 40: got %+v, want a failure", exit)
	}
	if got := output(t, parts[1], "for i in 1 2 3 4 5; do sleep 0 & done; wait; echo fine"); got != "fine\n" {
		t.Errorf("six processes in the other part: got %q, want them to run", got)
	}
}
