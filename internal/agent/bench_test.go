package agent_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/agent"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// TestMain lets the test binary be the server of the benchmarks, so that its work is not counted as the agent's.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		serveBench()
		return
	}
	os.Exit(m.Run())
}

// serveBench answers every claim with a job that does nothing, until its standard input ends.
func serveBench() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		switch {
		case strings.HasSuffix(r.URL.Path, "/batch"):
			var b wire.Batch
			if err := json.Unmarshal(body, &b); err != nil {
				panic(err)
			}
			answer := wire.BatchAnswer{Answers: make([]wire.CallAnswer, len(b.Calls))}
			for i, c := range b.Calls {
				if c.Claim != nil {
					answer.Answers[i].Assignment = noop(c.Attempt)
				}
			}
			_ = json.NewEncoder(w).Encode(answer)
		case strings.HasSuffix(r.URL.Path, "/claim"):
			var c wire.ClaimRequest
			if err := json.Unmarshal(body, &c); err != nil {
				panic(err)
			}
			_ = json.NewEncoder(w).Encode(noop(c.Attempt))
		default:
			_, _ = w.Write([]byte("{}"))
		}
	}))
	fmt.Println(server.URL)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func noop(attempt string) *wire.Assignment {
	return &wire.Assignment{
		Job: "job_" + attempt, Attempt: attempt, Number: 1, Token: "session", JobToken: "job", Command: []string{"/bin/true"},
		KillGraceMS: 10_000, HeartbeatMS: 5000, OrphanAfterMS: 600_000, RunTimeoutMS: 3_600_000, LogLimit: wire.DefaultLogLimit,
	}
}

// benchServer starts the server and returns its URL.
func benchServer(b *testing.B) string {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	server := exec.Command(self, "serve")
	stdin, err := server.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		if err := server.Wait(); err != nil {
			b.Error(err)
		}
	})
	url, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(url)
}

// cpu returns the processor time that this process has used, without the commands and the server.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchParallel runs op for b.N numbers, several at once, each worker in a place of its own, and reports the processor
// time of one.
func benchParallel(b *testing.B, op func(place *agent.Place, i int64) error) {
	b.ReportAllocs()
	const workers = 16
	places := make(chan *agent.Place, workers)
	for range workers {
		places <- newPlace(b, machine.Agent{})
	}
	var next atomic.Int64
	failed := make(chan error, workers)
	b.ResetTimer()
	before := cpu(b)
	for range workers {
		go func() {
			place := <-places
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := op(place, i); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range workers {
		if err := <-failed; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
}

// runNoop carries out one attempt whose command does nothing.
func runNoop(link agent.Link, place *agent.Place, url string, i int64) error {
	here := *place
	here.Boot = machine.Agent{URL: url, Attempt: "att_" + strconv.FormatInt(i, 10), Token: "bootstrap"}
	if exit := agent.Run(context.Background(), link, &here, nil); exit.Code != 0 {
		return fmt.Errorf("the agent ended with %+v", exit)
	}
	return nil
}

// BenchmarkNoop is a job that does nothing, from claim to result, with the server in another process. Compare with
// BenchmarkExec, which starts and ends the same process without an agent.
func BenchmarkNoop(b *testing.B) {
	b.Run("shared", func(b *testing.B) {
		url, link := benchServer(b), agent.NewShared("bench")
		defer link.Close()
		benchParallel(b, func(place *agent.Place, i int64) error { return runNoop(link, place, url, i) })
	})
	b.Run("direct", func(b *testing.B) {
		url, link := benchServer(b), agent.NewDirect("bench")
		defer link.Close()
		benchParallel(b, func(place *agent.Place, i int64) error { return runNoop(link, place, url, i) })
	})
	b.Run("without transport", func(b *testing.B) {
		benchParallel(b, func(place *agent.Place, i int64) error { return runNoop(immediate{}, place, "", i) })
	})
}

// BenchmarkExec is what a job costs that has no agent.
func BenchmarkExec(b *testing.B) {
	benchParallel(b, func(place *agent.Place, _ int64) error {
		p, err := place.Group.Start(&process.Command{Argv: []string{"/bin/true"}, Env: place.Env, Dir: place.WorkDir})
		if err != nil {
			return err
		}
		<-p.Done()
		return place.Group.Kill(context.Background())
	})
}

// immediate is a link that answers at once.
type immediate struct{}

func (immediate) Claim(_ context.Context, to agent.Address, _ *wire.ClaimRequest) (*wire.Assignment, error) {
	return noop(to.Attempt), nil
}

func (immediate) Beat(ctx context.Context, _ agent.Address, _ *wire.Heartbeat) (*wire.HeartbeatAnswer, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (immediate) Log(_ context.Context, _ agent.Address, c *wire.LogChunk) (*wire.LogAnswer, error) {
	return &wire.LogAnswer{Stored: c.Offset + int64(len(c.Data)) + c.Gap}, nil
}

func (immediate) Artifacts(context.Context, agent.Address, *wire.ArtifactRequest) (*wire.ArtifactAnswer, error) {
	return nil, fmt.Errorf("no artifacts here")
}

func (immediate) Result(context.Context, agent.Address, *wire.Result) error { return nil }
