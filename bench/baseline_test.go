package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
)

// serveMinimalHere serves the minimal program inside the test.
func serveMinimalHere(t *testing.T, workers int) string {
	t.Helper()
	m, err := openMinimal(t.TempDir(), workers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.close)
	server := httptest.NewServer(m.handler())
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestTheMinimalProgramRunsWhatItIsGivenAndKeepsTheExitStatus(t *testing.T) {
	t.Parallel()
	address := serveMinimalHere(t, 4)
	for _, c := range []struct {
		command string
		state   dayfly.State
		code    int
	}{{"/bin/true", dayfly.Succeeded, 0}, {"/bin/false", dayfly.Failed, 1}} {
		done, err := (&load{address: address, count: 40, spec: &dayfly.JobSpec{Command: []string{c.command}}}).run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ends, err := awaitEnds(t.Context(), address, done.ids)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range ends {
			if e.State != c.state || e.ExitCode == nil || *e.ExitCode != c.code || e.FinishedAt.Before(done.began) {
				t.Fatalf("%s as %s: got %+v, want %s with exit status %d", c.command, done.ids[i], e, c.state, c.code)
			}
		}
		if err := allSucceeded(done.ids, ends); (err == nil) != (c.code == 0) {
			t.Errorf("allSucceeded for %s = %v", c.command, err)
		}
	}
}

func TestALoadTimesEverySubmitAndNamesEveryJobOnce(t *testing.T) {
	t.Parallel()
	address := serveMinimalHere(t, 0)
	const count = 100
	done, err := (&load{address: address, count: count, spec: &dayfly.JobSpec{Command: []string{"/bin/true"}}, keys: "k"}).run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, id := range done.ids {
		if seen[id] || id == "" || done.latencies[i] <= 0 || done.latencies[i] > done.elapsed {
			t.Fatalf("submit %d: id %q (seen before: %v), took %v of %v", i, id, seen[id], done.latencies[i], done.elapsed)
		}
		seen[id] = true
	}
}

func TestALoadFailsWithTheFirstSubmitThatIsRefused(t *testing.T) {
	t.Parallel()
	address := serveMinimalHere(t, 0)
	_, err := (&load{address: address, count: 50, spec: &dayfly.JobSpec{}}).run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("got %v, want the status 400", err)
	}
}

func TestTheFileServersGiveBackWhatTheyWereGiven(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("dayfly "), 100_000)
	sum := sha256.Sum256(content)
	for _, careful := range []bool{false, true} {
		server := httptest.NewServer((&fileServer{dir: t.TempDir(), careful: careful}).handler())
		defer server.Close()
		put, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL+"/files/large", bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(put)
		if err != nil {
			t.Fatal(err)
		}
		said, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := hex.EncodeToString(sum[:]); resp.StatusCode != http.StatusCreated || careful && string(said) != want {
			t.Errorf("careful %v: PUT got %d %q, want 201 %q", careful, resp.StatusCode, said, want)
		}
		resp, err = http.Get(server.URL + "/files/large")
		if err != nil {
			t.Fatal(err)
		}
		back, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !bytes.Equal(back, content) {
			t.Errorf("careful %v: GET gave %d bytes, want the %d that were PUT", careful, len(back), len(content))
		}
	}
}

func TestInParallelStopsAtTheFirstError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	calls := make(chan int, 1000)
	err := inParallel(t.Context(), 1000, 4, func(_ context.Context, i int) error {
		calls <- i
		if i == 10 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if n := len(calls); n > 20 {
		t.Errorf("%d calls were made, want it to stop soon after the 11th", n)
	}
}

func TestWorkshopLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	shop, err := newWorkshop()
	if err != nil {
		t.Fatal(err)
	}
	defer shop.clear()
	dir, err := shop.place("test")
	if err != nil {
		t.Fatal(err)
	}
	// One that is not our child and does not care for being asked to end, like a job whose server is gone.
	stubborn := exec.CommandContext(t.Context(), "/bin/sh", "-c", `sh -c 'trap "" TERM; : >begun; sleep 600; :' &`)
	stubborn.Dir = dir
	if err := stubborn.Run(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "begun")); err == nil {
			break
		}
		if err := pause(t.Context(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if got := processesBelow(shop.dir); len(got) == 0 {
		t.Fatal("processesBelow found nothing, want the process that was started")
	}
	if err := shop.clear(); err != nil {
		t.Fatal(err)
	}
	if got := processesBelow(shop.dir); len(got) > 0 {
		t.Errorf("processes left: %v", got)
	}
	if _, err := os.Stat(shop.dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}
