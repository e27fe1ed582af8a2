package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dayfly-run/dayfly/internal/store/sqlite"
)

// The environment that makes the test's program something else than a test, when the tests start it again.
const (
	asSubmitter = "DAYFLY_TEST_SUBMIT" // submit jobs to the store at this path until killed
	asOperator  = "DAYFLY_TEST_OP"     // carry out an operation; see failpoint_test.go
)

func TestMain(m *testing.M) {
	if path := os.Getenv(asSubmitter); path != "" {
		submitUntilKilled(path)
	}
	if op := os.Getenv(asOperator); op != "" {
		operate(op)
	}
	os.Exit(m.Run())
}

// submitUntilKilled submits jobs from eight goroutines and prints the number of each that the store has acknowledged.
// The first number is the one after what the store holds.
func submitUntilKilled(path string) {
	s, err := sqlite.Open(context.Background(), path, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	first, err := strconv.ParseInt(os.Getenv("DAYFLY_TEST_FIRST"), 10, 64)
	if err != nil {
		panic(err)
	}
	var next atomic.Int64
	next.Store(first)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for {
				n := next.Add(1)
				if _, _, err := s.Submit(context.Background(), request(n)); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				// One write, so that a line is whole or not there, and is there if the job was acknowledged before.
				if _, err := os.Stdout.WriteString(strconv.FormatInt(n, 10) + "\n"); err != nil {
					os.Exit(1)
				}
			}
		})
	}
	all.Wait()
}

func TestEveryAcknowledgedJobSurvivesAKill(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/store.db"
	acknowledged := map[int64]bool{}
	last := int64(0)
	for round := range 8 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), asSubmitter+"="+path, "DAYFLY_TEST_FIRST="+strconv.FormatInt(last+100, 10))
		var complaints strings.Builder
		cmd.Stderr = &complaints
		output, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Each round is killed at another moment, the first ones before much has been written.
		lines := bufio.NewReader(output)
		for n := 0; ; n++ {
			if n == 1+round*round*40 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			line, err := lines.ReadString('\n')
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			job, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			acknowledged[job] = true
			last = max(last, job)
		}
		if err := cmd.Wait(); err == nil || complaints.Len() > 0 {
			t.Fatalf("round %d ended with %v, want it killed; it said %q", round, err, complaints.String())
		}
	}
	if len(acknowledged) < 100 {
		t.Fatalf("only %d jobs were acknowledged, want enough to lose one", len(acknowledged))
	}
	s := open(t, path, nil)
	for n := range acknowledged {
		id := request(n).Job.ID
		if _, err := s.Job(t.Context(), id); err != nil {
			t.Errorf("job %s was acknowledged and is lost: %v", id, err)
		}
		events, err := s.Events(t.Context(), id, 0, 10)
		if err != nil || len(events) != 1 {
			t.Errorf("job %s has %d events and error %v, want its creation", id, len(events), err)
		}
	}
	closeStore(t, s)
	integrity(t, path)
	t.Logf("%d jobs were acknowledged and are there", len(acknowledged))
}
