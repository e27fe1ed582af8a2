package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// command returns a dayfly command to run, with dir as its home and further environment variables.
func command(t *testing.T, dir string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("dayfly")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	if err := setup(dir, func(key, value string) { cmd.Env = append(cmd.Env, key+"="+value) }); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestASignalEndsASubmissionThatIsNotAnswered(t *testing.T) {
	t.Parallel()
	asked, canceled := make(chan string, 16), make(chan struct{}, 16)
	mux := http.NewServeMux()
	first := make(chan struct{}, 1)
	first <- struct{}{}
	mux.HandleFunc("POST /v1/jobs", func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Header.Get("Idempotency-Key")
		select {
		case <-first:
			var body bytes.Buffer
			_, _ = body.ReadFrom(r.Body) // so that the connection's end is noticed
			<-r.Context().Done()
		default:
			_ = json.NewEncoder(w).Encode(map[string]string{"id": "job_late", "state": "queued"})
		}
	})
	mux.HandleFunc("POST /v1/jobs/job_late/cancel", func(w http.ResponseWriter, _ *http.Request) {
		canceled <- struct{}{}
		_ = json.NewEncoder(w).Encode(map[string]string{"id": "job_late", "state": "canceled"})
	})
	slow := httptest.NewServer(mux)
	t.Cleanup(slow.Close)
	cmd := command(t, t.TempDir(), []string{"DAYFLY_URL=" + slow.URL}, "run", "--", "true")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timeout := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer timeout.Stop()
	key := <-asked
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != codeCanceled {
		t.Fatalf("exit code: got %d, want %d; it says:\n%s", got, codeCanceled, &stderr)
	}
	if len(asked) == 0 || <-asked != key || len(canceled) != 1 {
		t.Errorf("the job that the server made after all was canceled %d times, want once; it says:\n%s", len(canceled), &stderr)
	}
	if !strings.Contains(stderr.String(), "job_late was canceled") {
		t.Errorf("standard error: got %q, want that job_late was canceled", &stderr)
	}
}

func TestASignalEndsASubmissionToNobody(t *testing.T) {
	t.Parallel()
	// A server that hangs up without an answer is repeated to for as long as one that is not there.
	asked := make(chan struct{}, 1)
	gone := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(gone.Close)
	c := typed(t, t.TempDir(), exec.Command("env", "DAYFLY_URL="+gone.URL, "dayfly", "run", "--", "true"))
	<-asked
	c.press(ctrlC)
	c.exits(codeCanceled)
	c.expect("interrupted before the server had answered")
}

func TestStandardInputThatNobodyEndsCanBeInterrupted(t *testing.T) {
	t.Parallel()
	temp := t.TempDir()
	c := typed(t, t.TempDir(), exec.Command("env", "TMPDIR="+temp, "dayfly", "run", "--in", "-:x", "--", "cat", "x"))
	c.until("it keeps its standard input", func() bool {
		files, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(c.cmd.Process.Pid), "fd", "*"))
		for _, file := range files {
			if target, _ := os.Readlink(file); strings.Contains(target, "dayfly-stdin-") {
				return true
			}
		}
		return false
	})
	c.press(ctrlC)
	c.exits(codeCanceled)
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left in TMPDIR: %v, %v; want nothing", left, err)
	}
}
