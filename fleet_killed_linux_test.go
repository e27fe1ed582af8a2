package dayfly_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
)

func TestNothingIsLeftOfAFleetWhoseProgramsWereAllKilledAndItBeginsAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, serving{Lease: 5 * time.Second})
	client := s.client(t)
	uses := func() map[string]int {
		all := map[string]int{}
		for m, err := range client.Machines(t.Context(), false) {
			if err != nil {
				t.Fatal(err)
			}
			all[m.Use]++
		}
		return all
	}
	terms := sharing{Options: dayfly.FleetOptions{Min: 1, Max: 3, Idle: 100 * time.Millisecond}, Pool: sharingPool{Concurrency: 1}}
	var programs []*sharer
	for i := range 3 { // each has a runner that works
		p := s.share(t, terms)
		begun := fmt.Sprint(dir, "/begun", i)
		p.start(t, order{Call: "wait", Wait: waiting{Begun: begun, Until: dir + "/never"}})
		eventually(t, "the work to begin", func() bool { return exists(begun) })
		programs = append(programs, p)
	}
	warm := s.runners(t)
	if got := uses(); len(warm) != 3 || got["busy"] != 3 {
		t.Fatalf("got the runners %v, which do %v, want three that are busy", warm, got)
	}
	for _, p := range programs {
		p.kill(t)
	}
	eventually(t, "a runner to be idle as its program was killed", func() bool { return uses()["idle"] > 0 && uses()["busy"] == 0 })
	eventually(t, "the runners to go with those who have announced them", func() bool { return len(s.runners(t)) == 0 && len(uses()) == 0 })
	eventually(t, "the fleet to be forgotten", func() bool {
		fleets, err := client.Fleets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(fleets) == 0
	})
	for _, place := range []string{"data/hired", "machines/machines"} {
		left, err := os.ReadDir(filepath.Join(s.Dir, place))
		if err != nil || len(left) > 0 {
			t.Errorf("left in %s: got %v and error %v, want nothing", place, left, err)
		}
	}

	next := s.shareAs(t, anotherBuild(t), terms)
	if got := next.whoami(t); slices.Contains(warm, got.PID) || got.Parent.PID != next.command.Process.Pid {
		t.Errorf("a program of another build, which comes next: got the runner %+v, want one of its own", got)
	}
	eventually(t, "only the one that it wants to be left", func() bool { return len(s.runners(t)) == 1 })
}
