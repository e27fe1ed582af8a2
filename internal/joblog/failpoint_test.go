//go:build failpoint

package joblog_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
	"github.com/dayfly-run/dayfly/internal/joblog"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// asWriter is the environment variable that makes the test's program write to the store at this path.
const asWriter = "JOBLOG_TEST_WRITE"

// The attempts that the writer knows: of the first there is a log with a torn end, of the second there is none, and the
// third has one that is removed.
const (
	torn    = "att_torn"
	fresh   = "att_fresh"
	removed = "att_removed"
	lines   = 12
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(asWriter); dir != "" {
		if err := writeLogs(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func line(i int) string { return fmt.Sprintf("this is line %d\n", i) }

// writeLogs appends to two logs in turn, of which only one may be open, removes the third, and prints what was
// acknowledged. What fails once is done again, as an agent and the retention do.
func writeLogs(dir string) error {
	s, err := joblog.Open(dir, &joblog.Options{MaxOpen: 1})
	if err != nil {
		return err
	}
	failures := 0
	again := func(do func() error) error {
		err := do()
		if errors.Is(err, fault.Unavailable) && failures == 0 {
			failures++
			err = do()
		}
		return err
	}
	ends := map[string]int64{}
	for i := range lines {
		for _, attempt := range []string{torn, fresh} {
			err := again(func() error {
				stored, err := s.Append(attempt, chunk(wire.Stdout, ends[attempt], line(i)), wire.DefaultLogLimit)
				if err == nil && stored != ends[attempt]+int64(len(line(i))) {
					err = fmt.Errorf("%s: got %d bytes stored, want %d", attempt, stored, ends[attempt]+int64(len(line(i))))
				}
				return err
			})
			if err != nil {
				return err
			}
			ends[attempt] += int64(len(line(i)))
			fmt.Println(attempt, ends[attempt])
		}
	}
	if err := again(func() error { return s.Remove(removed) }); err != nil {
		return err
	}
	fmt.Println(removed, 0)
	return s.Close()
}

// TestAWriteThatFailsAtAPointLosesNothing lets a program fail at each point of a log's life, early and late, and looks
// at what the next one finds.
func TestAWriteThatFailsAtAPointLosesNothing(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"log.append", "log.cut", "log.close", "log.remove"} {
		for _, when := range []string{".before", ".after"} {
			for _, action := range []string{"1*error", "1*kill", "9*off->1*kill"} {
				if strings.HasPrefix(action, "9") && (point == "log.cut" || point == "log.remove") {
					continue // which are passed once
				}
				t.Run(point+when+"="+action, func(t *testing.T) {
					t.Parallel()
					failAt(t, point+when+"="+action, strings.HasSuffix(action, "kill"))
				})
			}
		}
	}
}

func failAt(t *testing.T, program string, kills bool) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	for _, attempt := range []string{torn, removed} {
		if _, err := s.Append(attempt, chunk(wire.Stderr, 0, "before"), 0); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	files, err := filepath.Glob(filepath.Join(dir, "*", torn+".log"))
	if err != nil || len(files) != 1 {
		t.Fatalf("logs: %v, %v", files, err)
	}
	file, err := os.OpenFile(files[0], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("half a record, as a power failure leaves it"); err != nil {
		t.Fatal(err)
	}
	file.Close()

	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), asWriter+"="+dir, failpoint.Variable+"="+program)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	output, err := cmd.Output()
	killed := cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled()
	if killed != kills || !kills && err != nil || complaints.Len() > 0 {
		t.Fatalf("the writer ended with %v, want it killed: %v\n%s", cmd.ProcessState, kills, complaints.String())
	}
	acknowledged := map[string]int64{removed: -1}
	for text := range strings.Lines(string(output)) {
		var attempt string
		var end int64
		if _, err := fmt.Sscan(text, &attempt, &end); err != nil {
			t.Fatalf("the writer printed %q: %v", text, err)
		}
		acknowledged[attempt] = end
	}
	again := open(t, dir, nil)
	checkStored(t, again, torn, acknowledged[torn])
	checkStored(t, again, fresh, acknowledged[fresh])
	switch records, err := again.Read(removed, 0); {
	case fault.Of(err) == fault.NotFound:
	case err != nil || acknowledged[removed] == 0:
		t.Errorf("the removed log can be read (error %v), want fault.NotFound", err)
	default:
		for r, err := range records {
			if err != nil || string(r.Data) != "before" {
				t.Errorf("the log that was to be removed reads %q, %v; want it whole", r.Data, err)
			}
		}
	}
}

// checkStored makes sure that a log holds at least what was acknowledged, that it holds nothing but what was written,
// and that it can be gone on with to the end.
func checkStored(t *testing.T, s *joblog.Store, attempt string, acknowledged int64) {
	t.Helper()
	var whole string
	for i := range lines {
		whole += line(i)
	}
	stored, _, err := s.Lengths(attempt)
	if err != nil || stored < acknowledged {
		t.Fatalf("%s: %d bytes are stored (error %v), want the %d that were acknowledged", attempt, stored, err, acknowledged)
	}
	if _, err := s.Append(attempt, chunk(wire.Stdout, stored, whole[stored:]), 0); err != nil {
		t.Fatal(err)
	}
	records, err := s.Read(attempt, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := map[wire.Stream]string{}
	for r, err := range records {
		if err != nil {
			t.Fatal(err)
		}
		got[r.Stream] += string(r.Data)
	}
	if got[wire.Stdout] != whole {
		t.Errorf("%s reads %q, want %q", attempt, got[wire.Stdout], whole)
	}
	if want := map[string]string{torn: "before"}[attempt]; got[wire.Stderr] != want {
		t.Errorf("%s reads %q on stderr, want %q", attempt, got[wire.Stderr], want)
	}
}
