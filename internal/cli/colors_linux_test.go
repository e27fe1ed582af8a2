package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoColorAndADumbTerminalAreHeeded runs what writes escape sequences to a terminal with each of the wishes not to.
func TestNoColorAndADumbTerminalAreHeeded(t *testing.T) {
	t.Parallel()
	for wish, allowed := range map[string]struct{ colors, moves bool }{
		"TERM=xterm": {colors: true, moves: true},
		"NO_COLOR=1": {moves: true},
		"NO_COLOR=":  {colors: true, moves: true}, // as if it were not there
		"TERM=dumb":  {},
	} {
		t.Run(wish, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "in"), make([]byte, 3<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			// The summary, the progress of the upload and of the download, and what the job prints.
			run := typed(t, dir, exec.Command("env", wish, "dayfly", "run", "--in", "in", "--out", "copy", "--",
				"sh", "-c", `printf '\033[31mred\033[0m\n'; echo >>in; cp in copy`))
			run.exits(0)
			run.drain()
			if red := strings.Contains(run.text(), "\x1b[31mred"); red != allowed.colors || !strings.Contains(run.text(), "red") {
				t.Errorf("the job's output is red: %v, want %v; the terminal shows:\n%q", red, allowed.colors, run.text())
			}
			if moves := strings.Contains(run.text(), "\x1b[1A"); moves != allowed.moves {
				t.Errorf("bars move the cursor: %v, want %v; the terminal shows:\n%q", moves, allowed.moves, run.text())
			}
			if !allowed.moves {
				run.expect(`uploading in, 3\.1 MB\r\n`)
				run.expect(`downloading copy, 3\.1 MB\r\n`)
			}
			checkEscapes(t, run, allowed.colors, allowed.moves)

			serve := typed(t, dir, exec.Command("env", wish, "dayfly", "serve", "--listen", "127.0.0.1:0"))
			serve.expect("engine started")
			serve.press(ctrlC)
			serve.exits(0)
			serve.drain()
			if colors := strings.Contains(serve.text(), "\x1b[92mINF"); colors != allowed.colors {
				t.Errorf("the log has colors: %v, want %v; the terminal shows:\n%q", colors, allowed.colors, serve.text())
			}
			checkEscapes(t, serve, allowed.colors, allowed.moves)
		})
	}
}

// checkEscapes fails the test when a terminal was sent a sequence of a kind that is not allowed.
func checkEscapes(t *testing.T, c *console, colors, moves bool) {
	t.Helper()
	for _, piece := range strings.Split(c.text(), "\x1b")[1:] {
		end := strings.IndexFunc(piece, func(r rune) bool { return r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' })
		if isColor := end >= 0 && piece[end] == 'm'; isColor && !colors || !isColor && !moves {
			t.Errorf("the terminal was sent ESC%.8q, want none of the kind; it shows:\n%q", piece, c.text())
			return
		}
	}
}
