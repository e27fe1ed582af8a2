package boot

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestOnlyAParentThatCertainlyRunsNoMoreIsDead(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	started, alive := startOf(pid)
	computer, ok := thisComputer()
	if !alive || !ok {
		t.Fatalf("got started %q alive %v and computer %q, want a process that runs here", started, alive, computer)
	}
	other := computer + " " + pid + " " + started + " ABCDEFGH"
	if certainlyDead(identity()) || certainlyDead(other) {
		t.Error("a process that runs is taken for dead")
	}
	if !certainlyDead(computer + " " + pid + " 1") {
		t.Error("a process whose id was given to another is not taken for dead")
	}
	for what, parent := range map[string]string{
		"of another boot":     strings.Replace(computer, "-", "0", 1) + " " + pid + " 1",
		"of another computer": "unknown ABCDEFGH",
		"of nobody":           "",
		"in other words":      computer + " " + pid,
	} {
		if certainlyDead(parent) {
			t.Errorf("a parent %s is taken for dead, want that nothing is known of it", what)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// It is dead as soon as it has ended, whether anybody has waited for it or not.
	for deadline := time.Now().Add(10 * time.Second); !certainlyDead(other); {
		if time.Now().After(deadline) {
			t.Fatal("a process that was killed is not taken for dead, want that it is before anybody has waited for it")
		}
	}
	_ = cmd.Wait() // it was killed
	if !certainlyDead(other) {
		t.Error("a process that is gone is not taken for dead")
	}
}

func TestNamesAreMadeOfWhateverAnybodyHasCalledSomething(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"thumbnails": "thumbnails", "My Program.exe": "my-program-exe", "9lives": "p9lives", "": "p", "-": "p-", "événement": "p-v-nement",
		strings.Repeat("x", 80): strings.Repeat("x", 20),
	} {
		if got := shortName(name, 20); got != want {
			t.Errorf("shortName(%q): got %q, want %q", name, got, want)
		}
	}
	if a, b := ownerOf("a", "b"), ownerOf("a-b", ""); a == b || a != ownerOf("a", "b") || len(a) > 63 {
		t.Errorf("owners: got %q and %q, want different ones of at most 63 characters, each always the same", a, b)
	}
}
