package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func readme(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// blocks returns the fenced blocks of a language.
func blocks(page, language string) []string {
	var found []string
	for _, piece := range strings.Split(page, "```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(piece, "```")
		found = append(found, block)
	}
	return found
}

// typedCommand is a command in a transcript, and what it prints.
type typedCommand struct{ command, output string }

func transcript(block string) []typedCommand {
	var commands []typedCommand
	for _, piece := range strings.Split("\n"+block, "\n$ ")[1:] {
		command, output, _ := strings.Cut(piece, "\n")
		commands = append(commands, typedCommand{command, output})
	}
	return commands
}

// shape is a text without what differs from run to run: ids, sums, numbers, bars and the width of columns.
func shape(text string) string {
	text = onScreen(text)
	for _, r := range []struct{ pattern, with string }{
		{"\x1b\\[[0-9;]*m", ""},
		{`sha256:[0-9a-f]+`, "SUM"},
		{`\b(job|att)_[0-9a-z]+|dayfly-[0-9a-z]{6}-[0-9a-z]+`, "ID"},
		{`[0-9]+([.:T-][0-9]+)*`, "N"},
		{`\bN (min N s|h N min|ms|s)\b`, "TIME"},
		{`\b(now|N[smhd] ago)\b`, "AGO"},
		{`[█▏]+`, ""},
		{`[ \t]+`, " "},
		{`(?m)^ | $`, ""},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.with)
	}
	return strings.TrimSpace(text)
}

// onScreen is what is left on a terminal after a text with progress bars, which go up and clear what is below.
func onScreen(text string) string {
	var lines []string
	for i, piece := range regexp.MustCompile("\x1b\\[[0-9]+A\x1b\\[J").Split(strings.ReplaceAll(text, "\r\n", "\n"), -1) {
		if i > 0 && len(lines) > 1 {
			lines = lines[:len(lines)-2] // the line it went up to, and the empty rest behind it
		}
		lines = append(lines, strings.Split(piece, "\n")...)
	}
	return strings.Join(lines, "\n")
}

func TestTheTranscriptInTheREADMEIsWhatHappens(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	makeSound(t, dir)
	found := blocks(readme(t), "console")
	if len(found) == 0 {
		t.Fatal("README.md has no ```console block")
	}
	commands := 0
	for _, block := range found {
		for _, c := range transcript(block) {
			commands++
			console := typed(t, dir, exec.Command("sh", "-c", c.command))
			select {
			case <-console.done:
			case <-time.After(30 * time.Second):
				t.Fatalf("%s does not end", c.command)
			}
			console.drain()
			if got, want := shape(console.text()), shape(c.output); got != want {
				t.Errorf("$ %s\nREADME.md shows\n%s\n\nit prints\n%s\n\nIn shape:\n%s\n--- want\n%s", c.command, c.output, console.text(), got, want)
			}
		}
	}
	if commands < 2 {
		t.Errorf("README.md shows %d commands, want at least 2", commands)
	}
}

// makeSound makes a short WAV.
func makeSound(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", "sine=frequency=440:duration=30", "-ac", "2", filepath.Join(dir, "song.wav"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("making a WAV: %v\n%s", err, out)
	}
}

// TestTheFirstCommandsInTheREADMEWork runs what a newcomer pastes, except for fetching and building, with the command
// where make puts it.
func TestTheFirstCommandsInTheREADMEWork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, err := exec.LookPath("dayfly")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path, filepath.Join(dir, "bin", "dayfly")); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, block := range blocks(readme(t), "sh") {
		for line := range strings.Lines(block) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "git clone ") || strings.HasPrefix(line, "make ") {
				continue
			}
			cmd := exec.Command("sh", "-c", line)
			cmd.Dir = dir
			cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
			if err := setup(dir, func(key, value string) { cmd.Env = append(cmd.Env, key+"="+value) }); err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil || strings.TrimSpace(string(out)) != "hello" {
				t.Errorf("%s: %v\n%s%s\nwant hello", line, err, out, &stderr)
			}
			ran++
		}
	}
	if ran == 0 {
		t.Error("README.md has no command for a newcomer to run")
	}
}

func TestTheMakeTargetsInTheREADMEExist(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^make (\w+)`).FindAllStringSubmatch(readme(t), -1) {
		if !regexp.MustCompile(`(?m)^` + m[1] + `:`).Match(makefile) {
			t.Errorf("README.md says make %s, and the Makefile has no such target", m[1])
		}
	}
}

func TestTheGoInTheREADMECompiles(t *testing.T) {
	t.Parallel()
	var examples []byte
	for _, file := range []string{"example_test.go", "example_call_test.go"} {
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		examples = append(examples, text...)
	}
	flat := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	for _, block := range blocks(readme(t), "go") {
		for line := range strings.Lines(block) {
			if !strings.Contains(flat(string(examples)), flat(line)) {
				t.Errorf("README.md shows Go that no example_test.go compiles: %s", line)
			}
		}
	}
}

func TestTheFleetInTheGuideToCallsCompiles(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/calls.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../../example_call_test.go")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, block := range blocks(string(guide), "go") {
		if !strings.Contains(block, ".Fleet(") {
			continue
		}
		shown++
		for line := range strings.Lines(block) {
			if line = strings.TrimSpace(line); line != "// …" && !strings.Contains(string(example), "\t"+line+"\n") {
				t.Errorf("docs/calls.md shows Go that example_call_test.go does not compile: %s", line)
			}
		}
	}
	if shown != 1 {
		t.Errorf("got %d examples of a fleet in docs/calls.md, want one", shown)
	}
}

func TestLinksInThePagesLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, page := range []string{"README.md", "ARCHITECTURE.md", "docs/overview.md", "docs/cli.md", "docs/configuration.md", "examples/curl-transcode/README.md"} {
		path := filepath.Join("../..", page)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(data), -1) {
			target := filepath.Join(filepath.Dir(path), m[1])
			text, err := os.ReadFile(target)
			if info, statErr := os.Stat(target); statErr != nil {
				t.Errorf("%s links to %s, which does not exist", page, m[1])
			} else if !info.IsDir() && err == nil && m[2] != "" && !hasHeading(string(text), m[2][1:]) {
				t.Errorf("%s links to %s%s, and there is no such heading", page, m[1], m[2])
			}
		}
	}
}

// hasHeading reports whether a page has a heading that GitHub gives this anchor.
func hasHeading(page, anchor string) bool {
	for line := range strings.Lines(page) {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			if strings.ReplaceAll(strings.ToLower(strings.TrimSpace(title)), " ", "-") == anchor {
				return true
			}
		}
	}
	return false
}
