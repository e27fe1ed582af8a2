//go:build linux

package survival_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/store/sqlite"
)

// TestTheServerMayBeKilledAnywhere kills the server at each point of each story, starts it again, and lets the client
// go on.
func TestTheServerMayBeKilledAnywhere(t *testing.T) {
	t.Parallel()
	eachPoint(t, func(t *testing.T, s story, point string) {
		in := s.install(t)
		if s.begin != nil {
			s.begin(t, in)
		}
		restarted := in.keep(in.start(point+"="+s.until()+"1*kill"), !s.endless)
		s.tell(t, in)
		if err := poll(t.Context(), 15*time.Second, restarted); err != nil {
			t.Errorf("%s was never passed: %v", point, err)
		}
		in.quiet()
	})
}

// TestAnswersMayGetLostAnywhere makes each step fail once for whoever asked for it, before or after it was carried
// out.
func TestAnswersMayGetLostAnywhere(t *testing.T) {
	t.Parallel()
	eachPoint(t, func(t *testing.T, s story, point string) {
		in := s.install(t)
		if s.begin != nil {
			s.begin(t, in)
		}
		server := in.launch(point + "=" + s.until() + "1*error")
		if err := in.answers(server); err != nil {
			// It is right not to serve from a store that could not be opened, as long as that is all.
			if !server.wait(t, 5*time.Second).Exited() {
				t.Fatal(err)
			}
			in.start("")
		}
		s.tell(t, in)
		in.quiet()
	})
}

// until lets a failpoint be passed until it matters.
func (s *story) until() string {
	if s.passed == 0 {
		return ""
	}
	return fmt.Sprintf("%d*off->", s.passed)
}

// eachPoint runs a test for each failpoint of each story.
func eachPoint(t *testing.T, test func(t *testing.T, s story, point string)) {
	for name, s := range stories() {
		for _, point := range s.points {
			for _, when := range []string{".before", ".after"} {
				t.Run(name+", "+point+when, func(t *testing.T) {
					t.Parallel()
					test(t, s, point+when)
				})
			}
		}
	}
}

// TestEveryFailpointIsPartOfAStory looks for failpoints in the sources: a new write or a new call to a provider is not
// done before it has been interrupted here. A server removes an uploaded program when it was not used for a day, for which
// no story waits; package hire's own tests kill a process there.
func TestEveryFailpointIsPartOfAStory(t *testing.T) {
	t.Parallel()
	told := map[string]bool{"program.delete.before": true, "program.delete.after": true}
	for _, s := range stories() {
		for _, point := range s.points {
			told[point+".before"], told[point+".after"] = true, true
		}
	}
	for _, point := range failpoints(t) {
		if !told[point] {
			t.Errorf("no story passes the failpoint %s", point)
		}
		delete(told, point)
	}
	for point := range told {
		t.Errorf("a story passes the failpoint %s, which does not exist", point)
	}
}

// failpoints returns the names of all failpoints: those of the store's writes, and those in the sources.
func failpoints(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, op := range sqlite.Ops() {
		names = append(names, "store."+op+".before", "store."+op+".after")
	}
	literal := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`)
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, match := range literal.FindAllSubmatch(source, -1) {
			names = append(names, string(match[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// keep starts the server again when it has been killed, as a service manager would; but if a command runs and patient
// is set, not before it has ended, so that it ends while there is no server. The returned function says whether the
// server was started again.
func (in *installation) keep(first *server, patient bool) func() error {
	var restarted atomic.Bool
	over := make(chan struct{})
	ctx, cancel := context.WithCancel(in.t.Context())
	in.t.Cleanup(func() { cancel(); <-over })
	go func() {
		defer close(over)
		select {
		case <-ctx.Done():
			return
		case <-first.ended:
		}
		if !first.status.Signaled() || first.status.Signal() != syscall.SIGKILL {
			in.t.Errorf("the server ended by itself: %s", describe(first.status))
		}
		_ = poll(ctx, 5*time.Second, func() error {
			if open := len(in.entries("start", "")) - len(in.entries("end", "")); open > 0 && patient {
				return fmt.Errorf("%d commands run", open)
			}
			return nil
		})
		if _, err := in.begin(""); err != nil {
			in.t.Errorf("the server cannot be started again: %v", err)
			return
		}
		restarted.Store(true)
	}()
	return func() error {
		if !restarted.Load() {
			return errors.New("the server still is the one that was started first")
		}
		return nil
	}
}
