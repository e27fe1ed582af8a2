package agent_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/agent/memhome"
	"github.com/dayfly-run/dayfly/internal/wire"
)

func TestOutputIsKeptByteForByte(t *testing.T) {
	t.Parallel()
	want := []byte("nul \x00 esc \x1b[31m osc \x1b]52;c;aGk=\x07 cr \r invalid \xff\xfe <script> \n\nevent: forged\ndata: x\n\n no newline")
	home := memhome.New(t)
	eachLink(t, func(t *testing.T, link agent.Link) {
		for _, quick := range []bool{true, false} { // in the result, and by a log call
			job := script("cat data; cat data >&2; " + map[bool]string{true: "", false: "sleep 0.3"}[quick])
			boot := home.Add(job)
			place := newPlace(t, boot)
			if err := os.WriteFile(filepath.Join(place.WorkDir, "data"), want, 0o644); err != nil {
				t.Fatal(err)
			}
			exit := agent.Run(t.Context(), link, place, nil)
			a := home.Attempt(boot.Attempt)
			wantOutcome(t, exit, a, wire.Succeeded, "")
			for name, s := range a.Streams {
				if !bytes.Equal(s.Data, want) {
					t.Errorf("%s = %q, want %q", name, s.Data, want)
				}
			}
		}
	})
}

func TestOutputIsShippedWhileTheCommandRuns(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		r := begin(t, home, link, script(`echo one; while [ ! -e go ]; do sleep 0.01; done; echo two >&2; exec sleep 3600`), nil)
		home.Await(r.id, "the first line is stored", func(a memhome.Attempt) bool {
			return string(a.Streams[wire.Stdout].Data) == "one\n"
		})
		began := time.Now()
		touch(t, r, "go")
		home.Await(r.id, "the second line is stored", func(a memhome.Attempt) bool {
			return string(a.Streams[wire.Stderr].Data) == "two\n"
		})
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("a line took %v to the server", took)
		}
	})
}

func TestOutputIsShippedAlsoWhenTheCommandClosesItAndGoesOn(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		r := begin(t, home, link, script(`echo live; exec >/dev/null 2>&1; while [ ! -e go ]; do sleep 0.01; done`), nil)
		home.Await(r.id, "the line is stored while the command runs", func(a memhome.Attempt) bool {
			return string(a.Streams[wire.Stdout].Data) == "live\n"
		})
		touch(t, r, "go")
		exit := r.wait(t)
		wantOutcome(t, exit, home.Attempt(r.id), wire.Succeeded, "")
	})
}

func TestOutputThatTheServerDoesNotStoreIsKeptAsLongAsTheCommandRuns(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	clock := newClock()
	var calls atomic.Int64
	var taken atomic.Bool
	home.Fault = func(c memhome.Call) memhome.Failure {
		if c.Kind == "log" && !taken.Load() {
			calls.Add(1)
			return memhome.Failure{Status: http.StatusInsufficientStorage, Code: "store_full"}
		}
		return memhome.Failure{}
	}
	link := agent.NewDirect("test")
	t.Cleanup(link.Close)
	job := script("head -c 200000 /dev/zero; exec >/dev/null 2>&1; while [ ! -e go ]; do sleep 0.01; done")
	job.HeartbeatMS = 20 // the server goes on answering these
	r := begin(t, home, link, job, &agent.Options{Clock: clock.now})
	looks := 0
	eventually(t, "the server has refused the output for much longer than it may hold up the end", func() bool {
		clock.advance(200 * time.Millisecond)
		looks++
		return looks > 500 && calls.Load() >= 5
	})
	taken.Store(true)
	touch(t, r, "go")
	exit := r.wait(t)
	a := home.Attempt(r.id)
	wantOutcome(t, exit, a, wire.Succeeded, "")
	if s := a.Streams[wire.Stdout]; len(s.Data) != 200_000 || len(s.Gaps) > 0 {
		t.Errorf("%d bytes and gaps %+v, want all 200000", len(s.Data), s.Gaps)
	}
}

// numbers prints the numbers from 1 to n, one a line.
func numbers(n int) string { return fmt.Sprintf("seq 1 %d", n) }

func numbersOutput(n int) []byte {
	var b bytes.Buffer
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "%d\n", i)
	}
	return b.Bytes()
}

func TestLogIsWholeAfterTheServerWasAway(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		var away atomic.Bool
		home.Fault = func(memhome.Call) memhome.Failure { return memhome.Failure{Drop: away.Load()} }
		// The command prints far more than is kept in memory, and must not notice that nobody takes it.
		r := begin(t, home, link, script(`echo start; while [ ! -e go ]; do sleep 0.01; done; `+numbers(300_000)+`; `+numbers(50_000)+` >&2; echo printed > printed; sleep 0.2; echo end`), nil)
		home.Await(r.id, "it has begun", func(a memhome.Attempt) bool { return len(a.Streams[wire.Stdout].Data) > 0 })
		away.Store(true)
		touch(t, r, "go")
		r.awaitFile(t, "printed")
		left, err := os.ReadDir(r.place.ScratchDir)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range left {
			if strings.Contains(file.Name(), "spool") {
				t.Errorf("the command can see the spool %s", file.Name())
			}
		}
		away.Store(false)
		exit := r.wait(t)
		a := home.Attempt(r.id)
		wantOutcome(t, exit, a, wire.Succeeded, "")
		want := "start\n" + string(numbersOutput(300_000)) + "end\n"
		if got := a.Streams[wire.Stdout]; string(got.Data) != want || len(got.Gaps) > 0 {
			t.Errorf("stdout has %d bytes and %d gaps, want exactly the %d bytes that were printed", len(got.Data), len(got.Gaps), len(want))
		}
		if got := a.Streams[wire.Stderr]; !bytes.Equal(got.Data, numbersOutput(50_000)) {
			t.Errorf("stderr has %d bytes, and not those that were printed", len(got.Data))
		}
	})
}

func TestUnreliableServerStoresEveryByteOnce(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		home.Fault = func(c memhome.Call) memhome.Failure {
			switch {
			case c.Kind != "log" && c.Kind != "result":
				return memhome.Failure{}
			case c.Number%4 == 1:
				return memhome.Failure{Drop: true, After: true} // stored, and the answer is lost
			case c.Number%4 == 2:
				return memhome.Failure{Status: http.StatusServiceUnavailable, Code: "unavailable"}
			}
			return memhome.Failure{}
		}
		boot := home.Add(script(numbers(100_000)))
		exit := agent.Run(t.Context(), link, newPlace(t, boot), nil)
		a := home.Attempt(boot.Attempt)
		wantOutcome(t, exit, a, wire.Succeeded, "")
		if got := a.Streams[wire.Stdout]; !bytes.Equal(got.Data, numbersOutput(100_000)) || len(got.Gaps) > 0 {
			t.Errorf("stdout has %d bytes and %d gaps, want each byte once", len(got.Data), len(got.Gaps))
		}
	})
}

func TestOutputLimitEndsInAGapRecord(t *testing.T) {
	t.Parallel()
	home := memhome.New(t)
	for name, c := range map[string]struct {
		script string
		kept   int
		lost   int64
	}{
		"OfASmallJob": {"head -c 3000 /dev/zero; sleep 0.1; head -c 500 /dev/zero; exit 3", 2048, 1452},
		"OfALargeJob": {"head -c 3000000 /dev/zero; exit 3", 2048, 2997952},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := script(c.script)
			job.LogLimit = 2048
			exit, a := carryOut(t, home, job)
			wantOutcome(t, exit, a, wire.Failed, "exit_nonzero")
			s := a.Streams[wire.Stdout]
			if len(s.Gaps) != 1 || s.Gaps[0].Offset != int64(c.kept) || s.Gaps[0].Gap != c.lost {
				t.Fatalf("gaps %+v, want one at %d of %d bytes", s.Gaps, c.kept, c.lost)
			}
			if want := fmt.Sprintf("output limit of 2 KiB reached; %d bytes not kept", c.lost); s.Gaps[0].Why != want {
				t.Errorf("why = %q, want %q", s.Gaps[0].Why, want)
			}
			if a.Result.Exit.Code != 3 {
				t.Errorf("exit %+v, want the command's 3", a.Result.Exit)
			}
		})
	}
}

// TestFloodOfOutputLeavesMemoryBounded prints 1 GiB without a newline, with a server that takes it slowly.
func TestFloodOfOutputLeavesMemoryBounded(t *testing.T) {
	home := memhome.New(t)
	home.Fault = func(c memhome.Call) memhome.Failure {
		if c.Kind == "log" {
			return memhome.Failure{Wait: 20 * time.Millisecond}
		}
		return memhome.Failure{}
	}
	link := agent.NewDirect("test")
	t.Cleanup(link.Close)
	job := script("head -c 1073741824 /dev/zero; exit 3")
	job.LogLimit = 8 << 20
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	r := begin(t, home, link, job, nil)
	var most uint64
	var exited bool
	for !exited {
		select {
		case exit := <-r.exit:
			exited = true
			a := home.Attempt(r.id)
			wantOutcome(t, exit, a, wire.Failed, "exit_nonzero")
			s := a.Streams[wire.Stdout]
			if s.Length != 1<<30 || len(s.Gaps) != 1 || s.Gaps[0].Offset != 8<<20 {
				t.Errorf("%d bytes, gaps %+v; want 8 MiB and one gap for the rest of the GiB", s.Length, s.Gaps)
			}
			if a.Result.Exit.Code != 3 {
				t.Errorf("exit %+v, want 3", a.Result.Exit)
			}
		case <-time.After(5 * time.Millisecond):
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			// What the fake server has stored is not the agent's.
			if a := home.Stored(r.id); now.HeapAlloc > before.HeapAlloc+a {
				most = max(most, now.HeapAlloc-before.HeapAlloc-a)
			}
		}
	}
	t.Logf("1 GiB in %v, at most %d KiB of heap", time.Since(began), most>>10)
	if most > 48<<20 {
		t.Errorf("the heap grew by %d MiB, want at most 48", most>>20)
	}
}

func TestBytesThatTheServerLostBecomeAGap(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]string{"FoundByTheResult": "", "FoundByALogCall": "sleep 0.3"} {
		t.Run(name, func(t *testing.T) {
			eachLink(t, func(t *testing.T, link agent.Link) {
				home := memhome.New(t)
				r := begin(t, home, link, script(`echo first line; while [ ! -e go ]; do sleep 0.01; done; echo second line; `+last), nil)
				home.Await(r.id, "the first line is stored", func(a memhome.Attempt) bool { return len(a.Streams[wire.Stdout].Data) == 11 })
				home.Forget(r.id, wire.Stdout, 5) // as after a restore from a backup
				touch(t, r, "go")
				exit := r.wait(t)
				a := home.Attempt(r.id)
				wantOutcome(t, exit, a, wire.Succeeded, "")
				s := a.Streams[wire.Stdout]
				if got, want := string(s.Data), "firstsecond line\n"; got != want {
					t.Errorf("stdout = %q, want %q", got, want)
				}
				if len(s.Gaps) != 1 || s.Gaps[0].Offset != 5 || s.Gaps[0].Gap != 6 || !strings.Contains(s.Gaps[0].Why, "no longer has them") {
					t.Errorf("gaps %+v, want one of 6 bytes with a reason", s.Gaps)
				}
			})
		})
	}
}

func TestOutputThatTheServerRefusesBecomesAGap(t *testing.T) {
	t.Parallel()
	eachLink(t, func(t *testing.T, link agent.Link) {
		home := memhome.New(t)
		home.Fault = func(c memhome.Call) memhome.Failure {
			if c.Kind == "log" && c.Number == 1 {
				return memhome.Failure{Status: http.StatusRequestEntityTooLarge, Code: "too_large"}
			}
			return memhome.Failure{}
		}
		boot := home.Add(script("echo one; sleep 0.3; echo two"))
		exit := agent.Run(t.Context(), link, newPlace(t, boot), nil)
		a := home.Attempt(boot.Attempt)
		wantOutcome(t, exit, a, wire.Succeeded, "")
		s := a.Streams[wire.Stdout]
		if got, want := string(s.Data), "two\n"; got != want || len(s.Gaps) != 1 {
			t.Errorf("stdout = %q with gaps %+v, want %q with one", got, s.Gaps, want)
		}
	})
}
