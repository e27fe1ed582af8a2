package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// console is a terminal with the dayfly command running in it.
type console struct {
	t    *testing.T
	main *os.File // what a person sees and types
	cmd  *exec.Cmd
	done chan error
	read chan struct{} // closed when nothing more will appear

	mu   sync.Mutex
	seen strings.Builder
}

// inTerminal runs dayfly with these arguments in a terminal of its own, with dir as its home.
func inTerminal(t *testing.T, dir string, args ...string) *console {
	t.Helper()
	path, err := exec.LookPath("dayfly") // where TestMain has put it
	if err != nil {
		t.Fatal(err)
	}
	return typed(t, dir, exec.Command(path, args...))
}

// typed runs any command so.
func typed(t *testing.T, dir string, cmd *exec.Cmd) *console {
	t.Helper()
	main, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(main.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(main.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(main.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 120})
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TERM=xterm"}
	if config := filepath.Join(dir, "dayfly.toml"); exists(config) {
		cmd.Env = append(cmd.Env, "DAYFLY_CONFIG="+config)
	}
	if err := setup(dir, func(key, value string) { cmd.Env = append(cmd.Env, key+"="+value) }); err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &console{t: t, main: main, cmd: cmd, done: make(chan error, 1), read: make(chan struct{})}
	go func() {
		defer close(c.read)
		io.Copy(c, main)
	}()
	go func() { c.done <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		main.Close()
	})
	return c
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Write implements io.Writer for what appears on the terminal.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen.Write(p)
}

func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen.String()
}

// drain waits until all that the command has written has appeared. Once nobody has the terminal open any more, reading
// it ends.
func (c *console) drain() {
	c.t.Helper()
	select {
	case <-c.read:
	case <-time.After(5 * time.Second):
		c.t.Fatalf("somebody still has the terminal open; it shows:\n%s", c.text())
	}
}

// expect waits until the terminal shows something.
func (c *console) expect(pattern string) {
	c.t.Helper()
	want := regexp.MustCompile(pattern)
	c.until("the terminal shows "+pattern, func() bool { return want.MatchString(c.text()) })
}

// until waits until something holds.
func (c *console) until(what string, holds func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			c.t.Fatalf("not within 20s: %s; the terminal shows:\n%s", what, c.text())
		}
		<-time.After(5 * time.Millisecond)
	}
}

// press types keys.
func (c *console) press(keys string) {
	c.t.Helper()
	if _, err := c.main.WriteString(keys); err != nil {
		c.t.Fatal(err)
	}
}

// exits waits for the command's end and checks its exit code.
func (c *console) exits(want int) {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(20 * time.Second):
		c.t.Fatalf("dayfly has not ended after 20s; the terminal shows:\n%s", c.text())
	}
	if got := c.cmd.ProcessState.ExitCode(); got != want {
		c.t.Errorf("exit code %d, want %d; the terminal shows:\n%s", got, want, c.text())
	}
}

const ctrlC = "\x03"

func TestATerminalShowsASummaryAndWhatToDoNext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "song.wav"), make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	c := inTerminal(t, dir, "run", "--in", "song.wav", "--out", "copy.wav", "--", "sh", "-c", `printf '\033]0;owned\007\033[31mred\033[0m 10%%\r20%%\n'; cp song.wav copy.wav`)
	c.exits(0)
	for _, want := range []string{
		`\^\[\]0;owned\^G`,                  // the title was not set
		"\x1b\\[31mred\x1b\\[0m 10%\r\n20%", // the color passed; the progress line became two
		`succeeded`,
		`running +[0-9.]+ ms`,
		`artifact +3\.1 MB +copy\.wav +sha256:[0-9a-f]{12}`,
		`dayfly show job_`,
		`dayfly retry job_`,
	} {
		c.expect(want)
	}
	if strings.Contains(c.text(), "\x1b]0;") {
		t.Errorf("the terminal's title was set:\n%q", c.text())
	}
}

func TestANarrowTerminalShowsWhatFitsIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	inTerminal(t, dir, "run", "--name", strings.Repeat("long ", 20), "--", "true").exits(0)
	inTerminal(t, dir, "run", "--", "true").exits(0)
	for columns, want := range map[int]string{
		140: `ID +NAME +STATE +WHY +QUEUE +CREATED +TOOK\r\n`,
		100: `ID +NAME +STATE +WHY +QUEUE +CREATED +TOOK\r\n`,
		80:  `ID +NAME +STATE +WHY +CREATED +TOOK\r\n`,
		60:  `ID +NAME +STATE\r\n`,
	} {
		for _, command := range []string{"dayfly jobs", "dayfly run -- true", "dayfly run --detach -- true", "dayfly --help"} {
			c := typed(t, dir, exec.Command("sh", "-c", fmt.Sprintf("stty cols %d; %s", columns, command)))
			c.exits(0)
			c.drain()
			text := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(c.text(), "")
			for line := range strings.Lines(text) {
				if n := utf8.RuneCountInString(strings.TrimRight(line, "\r\n")); n > max(columns, 80) || command != "dayfly --help" && n > columns {
					t.Errorf("%s on %d columns prints a line of %d: %s", command, columns, n, line)
				}
			}
			if command == "dayfly jobs" && !regexp.MustCompile(want).MatchString(text) {
				t.Errorf("%s on %d columns prints\n%s\nwant a line %s", command, columns, text, want)
			}
		}
	}
	c := inTerminal(t, dir, "jobs", "--limit", "1")
	c.exits(0)
	c.expect("There are more. All of them: --limit 0")
}

func TestATerminalIsToldThatAServerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	c := inTerminal(t, dir, "--server", gone.URL, "jobs")
	c.expect(gone.URL + ` does not answer; trying for 20s more …`)
	c.press(ctrlC)
	c.exits(codeCanceled)
	c.drain()
	if n := strings.Count(c.text(), "does not answer;"); n != 1 {
		t.Errorf("it is said %d times, want once; the terminal shows:\n%s", n, c.text())
	}
}

func TestRawPassesControlCharactersThrough(t *testing.T) {
	t.Parallel()
	c := inTerminal(t, t.TempDir(), "run", "--raw", "--quiet", "--", "printf", `\033]0;title\007`)
	c.exits(0)
	c.expect("\x1b\\]0;title\x07")
}

func TestCtrlCAsksAndTheSecondOneCancels(t *testing.T) {
	t.Parallel()
	c := inTerminal(t, t.TempDir(), "run", "--", "sh", "-c", "echo up; exec sleep 60")
	c.expect("up")
	c.press(ctrlC)
	c.expect(`\[c\]ancel it, \[d\]etach`)
	c.press(ctrlC)
	c.exits(codeCanceled)
	c.expect("canceled")
}

func TestCtrlCCanDetach(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := inTerminal(t, dir, "run", "--", "sh", "-c", "echo up; while [ ! -e "+dir+"/go ]; do sleep 0.05; done; echo done")
	c.expect("up")
	c.press(ctrlC)
	c.expect(`\[d\]etach`)
	c.press("d")
	c.exits(0)
	c.expect(`dayfly wait job_`)
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	id := regexp.MustCompile(`dayfly wait (job_\w+)`).FindStringSubmatch(c.text())[1]
	inTerminal(t, dir, "wait", id).exits(0)
}

func TestCtrlCCanBeTakenBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := inTerminal(t, dir, "run", "--", "sh", "-c", "echo up; while [ ! -e "+dir+"/go ]; do sleep 0.05; done; echo finished")
	c.expect("up")
	c.press(ctrlC)
	c.expect(`\[d\]etach`)
	c.press("x")
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.exits(0)
	c.expect("finished")
}

func TestATerminalIsToldWhyAJobWaits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := filepath.Join(dir, "dayfly.toml")
	if err := os.WriteFile(config, []byte("[queues.narrow]\nconcurrency = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := inTerminal(t, dir, "run", "--queue", "narrow", "--", "sh", "-c", "echo up; while [ ! -e "+dir+"/go ]; do sleep 0.05; done")
	first.expect("up")
	second := inTerminal(t, dir, "run", "--queue", "narrow", "--", "true")
	second.expect("waiting: .*narrow")
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	first.exits(0)
	second.exits(0)
}

// echoes reports whether the terminal shows what is typed and waits for whole lines, as it does at a shell.
func (c *console) echoes() bool {
	c.t.Helper()
	modes, err := unix.IoctlGetTermios(int(c.main.Fd()), unix.TCGETS)
	if err != nil {
		c.t.Fatal(err)
	}
	return modes.Lflag&(unix.ECHO|unix.ICANON) == unix.ECHO|unix.ICANON
}

func TestTheEndOfTheJobEndsTheQuestion(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]string{"when it prints nothing": "", "when it prints": "echo finished"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c := inTerminal(t, dir, "run", "--", "sh", "-c", "echo up; while [ ! -e "+dir+"/go ]; do sleep 0.05; done; "+last)
			c.expect("up")
			c.press(ctrlC)
			c.expect(`\[d\]etach`)
			if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			c.exits(0)
			if !c.echoes() {
				t.Error("the terminal was left in raw mode")
			}
			c.drain()
			if !regexp.MustCompile(`succeeded`).MatchString(c.text()) || !strings.Contains(c.text(), last[strings.LastIndex(last, " ")+1:]) {
				t.Errorf("the terminal shows:\n%s\nwant %q and the summary", c.text(), last)
			}
		})
	}
}

func TestCtrlCDuringAnUploadAsksAboutTheUpload(t *testing.T) {
	t.Parallel()
	canceled := make(chan struct{}, 16)
	mux := http.NewServeMux()
	stalled := httptest.NewServer(mux)
	t.Cleanup(stalled.Close)
	mux.HandleFunc("POST /v1/jobs", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"id": "job_late", "state": "created", "inputs": [{"name": "in", "upload": {"url": %q, "method": "PUT"}}]}`, stalled.URL+"/in")
	})
	mux.HandleFunc("PUT /in", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the connection's end is noticed
		<-r.Context().Done()
	})
	mux.HandleFunc("POST /v1/jobs/job_late/cancel", func(w http.ResponseWriter, _ *http.Request) {
		canceled <- struct{}{}
		fmt.Fprint(w, `{"id": "job_late", "state": "canceled"}`)
	})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in"), make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	c := typed(t, dir, exec.Command("env", "DAYFLY_URL="+stalled.URL, "dayfly", "run", "--in", "in", "--", "true"))
	c.expect("uploading in")
	c.press(ctrlC)
	c.expect(`Uploading to job_late\. \[c\]ancel, or any other key to go on`)
	c.press("c")
	c.exits(codeCanceled)
	c.expect("job_late was canceled")
	if len(canceled) != 1 || !c.echoes() {
		t.Errorf("the job was canceled %d times and the terminal echoes: %v; want once, and true", len(canceled), c.echoes())
	}
}
