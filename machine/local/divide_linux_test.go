package local_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// daemonOf is a script that leaves a process of which nothing tells, and writes its id to a file, in whose name the shell
// puts variables.
func daemonOf(file string) string {
	return fmt.Sprintf(`(setsid env -i F="%[1]s" sh -c 'echo $$ > $F.new; mv $F.new $F; exec /bin/sleep 1000' &); while [ ! -s "%[1]s" ]; do sleep 0.01; done
`, file)
}

func TestThePartsOfAMachineRunAtOnceAndAreMadeAnewAlone(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, scan bool) {
		p, dir := newProvider(t, newDir(t), scan), t.TempDir()
		// Part 1 is in its first round for as long as part 2 has both of its own.
		script := "out=" + dir + `
lives() { grep -qs '^State:[[:space:]]*[DRSTt]' /proc/$1/status; } # a zombie does not
[ -z "$(ls -A .)$(ls -A $TMPDIR)" ] || exit 2
[ "$HOME" = "$PWD" ] || exit 3
touch mine $TMPDIR/mine
echo "$PWD $TMPDIR" > $out/dirs-$PART
while [ ! -s $out/dirs-1 ] || [ ! -s $out/dirs-2 ]; do sleep 0.01; done
` + daemonOf("$out/daemon-$PART-$ROUND") + `
case $PART$ROUND in
11) while [ ! -e $out/over ]; do sleep 0.01; done; [ -e mine ] || exit 4; lives $(cat $out/daemon-1-1) || exit 5 ;;
12|22) ! lives $(cat $out/daemon-$PART-1) || exit 6 ;;
esac
if [ $PART$ROUND = 22 ]; then touch $out/over; fi
`
		m := create(t, p, newAgentSpec("divided", "rounds 2 "+script))
		if exit := exited(t, p, m.ID).Exit; !exit.OK() {
			t.Fatalf("two rounds in each of two parts: got %+v, want success", exit)
		}
		one, _ := os.ReadFile(filepath.Join(dir, "dirs-1"))
		two, _ := os.ReadFile(filepath.Join(dir, "dirs-2"))
		if fields := bytes.Fields(append(one, two...)); len(fields) != 4 || bytes.Equal(fields[0], fields[2]) || bytes.Equal(fields[1], fields[3]) {
			t.Errorf("the directories of the parts: got %q and %q, want different ones", one, two)
		}
		for _, name := range []string{"daemon-1-1", "daemon-1-2", "daemon-2-1", "daemon-2-2"} {
			if pid := readID(t, filepath.Join(dir, name)); alive(pid) {
				t.Errorf("%s lives when its machine has ended", name)
			}
		}
		if exit := outcome(t, p, newSpec("next", `[ -z "$(ls -A "$(dirname "$PWD")" | grep parts)" ]`)); !exit.OK() {
			t.Errorf("the next machine: got %+v, want one that knows nothing of parts", exit)
		}
	})
}

func TestADividedMachineOfADeadSupervisorIsEndedWithAllItsParts(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, scan bool) {
		p, dir := newProvider(t, newDir(t), scan), t.TempDir()
		script := fmt.Sprintf("if [ $PART = 1 ]; then %s else %s fi; exec sleep 1000",
			daemonOf(filepath.Join(dir, "1")), daemonOf(filepath.Join(dir, "2")))
		m := create(t, p, newAgentSpec("divided", "rounds 2 "+script))
		pids := []int{readID(t, filepath.Join(dir, "1")), readID(t, filepath.Join(dir, "2"))}
		signalSupervisor(t, p.dir, 1, syscall.SIGKILL)
		exited(t, p, m.ID)
		wantDead(t, pids)
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Errorf("Destroy: got error %v, want nil", err)
		}
		if slots, err := filepath.Glob(filepath.Join(p.dir, "supervisors", "*", "slots", "*")); err != nil || len(slots) > 0 {
			t.Errorf("directories of machines: got %v and error %v, want none", slots, err)
		}
	})
}

func TestWhatIsDoneToADividedMachineIsDoneToAllOfIt(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, scan bool) {
		p, dir := newProvider(t, newDir(t), scan), t.TempDir()
		spec := newAgentSpec("divided", fmt.Sprintf("rounds 2 echo $$ > %[1]s/$PART-$ROUND; if [ $PART$ROUND != 21 ]; then exec sleep 1000; fi; while [ ! -e %[1]s/go ]; do sleep 0.01; done", dir))
		if p.Abilities().Processes {
			spec.Size.Processes = 60
		}
		m := create(t, p, spec)
		readID(t, filepath.Join(dir, "1-1"))
		readID(t, filepath.Join(dir, "2-1"))

		entered := make(chan *machine.Exit, 1)
		go func() {
			exit, err := p.Exec(t.Context(), m.ID, &machine.Command{Args: []string{"sh", "-c", fmt.Sprintf("echo $$ > %[1]s/entered; while [ ! -e %[1]s/leave ]; do sleep 0.01; done", dir)}})
			if err != nil {
				t.Errorf("Exec in a divided machine: got error %v, want nil", err)
			}
			entered <- exit
		}()
		guest := readID(t, filepath.Join(dir, "entered"))

		if err := p.Suspend(t.Context(), m.ID); err != nil {
			t.Fatalf("Suspend: got error %v, want nil", err)
		}
		touch(t, filepath.Join(dir, "go"))
		select {
		case <-time.After(200 * time.Millisecond): // nothing can tell that nothing happens
		case <-t.Context().Done():
		}
		if _, err := os.Stat(filepath.Join(dir, "2-2")); err == nil {
			t.Error("a part of a suspended machine goes on")
		}
		if err := p.Resume(t.Context(), m.ID); err != nil {
			t.Fatalf("Resume: got error %v, want nil", err)
		}
		readID(t, filepath.Join(dir, "2-2")) // the part has been made anew

		if !alive(guest) {
			t.Error("what was entered into the machine has ended with the round of a part")
		}
		touch(t, filepath.Join(dir, "leave"))
		if exit := <-entered; exit == nil || !exit.OK() {
			t.Errorf("what was entered into the machine: got %+v, want success", exit)
		}
		if err := p.Destroy(t.Context(), m.ID); err != nil {
			t.Errorf("Destroy: got error %v, want nil", err)
		}
		for _, name := range []string{"1-1", "2-2"} {
			if alive(readID(t, filepath.Join(dir, name))) {
				t.Errorf("process %s lives when its machine is destroyed", name)
			}
		}
	})
}

func touch(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEachPartCountsAsAMachine(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false, "max=3")
	many := create(t, p, newAgentSpec("many", "rounds 4 exec sleep 1000"))
	if exit := exited(t, p, many.ID).Exit; exit.Code != 71 || !strings.Contains(exit.Message, "counts as a machine") {
		t.Errorf("four parts where three machines may be: got %+v, want that refused", exit)
	}
	if err := p.Destroy(t.Context(), many.ID); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	divided := create(t, p, newAgentSpec("divided", fmt.Sprintf("rounds 3 echo $$ > %s/$PART; exec sleep 1000", dir)))
	for _, part := range []string{"1", "2", "3"} {
		readID(t, filepath.Join(dir, part))
	}
	if _, err := p.Create(t.Context(), newSpec("another", "true")); err == nil || !strings.Contains(err.Error(), "3 machines") {
		t.Errorf("a machine beside one of three parts, where three may be: got error %v, want it refused", err)
	}
	if err := p.Destroy(t.Context(), divided.ID); err != nil {
		t.Fatal(err)
	}
	again := create(t, p, newAgentSpec("again", "rounds 3 true"))
	if exit := exited(t, p, again.ID).Exit; !exit.OK() {
		t.Errorf("a machine of three parts when the first is gone: got %+v, want success", exit)
	}
}

func TestWhatAJobHasMountedIsNotEmptiedWithItsDirectory(t *testing.T) {
	t.Parallel()
	precious, file := newPrecious(t)
	mount(t, precious, precious, "", syscall.MS_BIND) // shows that this user can
	p := newProvider(t, newDir(t), false)
	for _, parts := range []string{"1", "2"} {
		script := fmt.Sprintf(` [ -z "$(ls -A .)" ] || exit 2; mkdir m && mount --bind %s m && [ -e m/file ]`, precious)
		m := create(t, p, newAgentSpec("mounting-in-"+parts, "rounds "+parts+script))
		if exit := exited(t, p, m.ID).Exit; !exit.OK() {
			t.Errorf("two rounds in %s parts, each of which mounts something: got %+v, want success", parts, exit)
		}
		if text, err := os.ReadFile(file); err != nil || string(text) != "precious" {
			t.Fatalf("after two rounds in %s parts: got %q and error %v, want what was mounted to be left alone", parts, text, err)
		}
	}
}
