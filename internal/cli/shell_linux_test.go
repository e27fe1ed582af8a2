package cli

import (
	"os/exec"
	"regexp"
	"testing"
)

func TestAShellInAJobsMachineHasTheTerminal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	job := regexp.MustCompile(`job_[0-9a-z]+`).FindString(runsIn(t, dir, "dayfly run --detach -- sleep 600"))
	ready := `[#$] (\x1b\[[0-9;?]*[a-zA-Z])*$` // what a shell says when it is
	c := inTerminal(t, dir, "shell", job)
	c.expect(`You are in machine \S+ of ` + job + `\. The session ends at [0-9:]+ at the latest; ~\. leaves it\.`)
	c.expect(ready)
	c.press("echo size $(stty size) in ${PWD##*/}\r")
	c.expect(`size 50 120 in work`)
	// Ctrl-C is for what runs there, and not for this command.
	c.press("sh -c 'trap \"echo inter\"\"rupted; exit\" INT; echo bu\"\"sy; while :; do sleep 0.05; done'\r")
	c.expect(`busy\r\n`)
	c.press(ctrlC)
	c.expect(`interrupted\r\n`)
	c.press("exit 5\r")
	c.exits(5)

	c = inTerminal(t, dir, "shell", job)
	c.expect(ready)
	c.press("\r~.")
	c.expect(`You left ` + job)
	c.exits(0)
	if !c.echoes() {
		t.Error("the terminal does not show what is typed any more, want it as it was")
	}
	runsIn(t, dir, "dayfly cancel --wait "+job)
}

// runsIn runs a command line where inTerminal would, and returns what appears.
func runsIn(t *testing.T, dir, line string) string {
	t.Helper()
	c := typed(t, dir, exec.Command("sh", "-c", line))
	c.exits(0)
	c.drain()
	return c.text()
}

func TestTwoKeysAtTheBeginningOfALineLeave(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]struct {
		send  string
		leave bool
	}{
		"ls\r":       {"ls\r", false},
		"~.":         {"", true},
		"ls\r~.rest": {"ls\r", true},
		"ls ~.\r":    {"ls ~.\r", false},
		"~~.\r":      {"~.\r", false},
		"~/bin\r":    {"~/bin\r", false},
		"a\r~a\r~.":  {"a\r~a\r", true},
	} {
		k := &keys{begin: true}
		var send []byte
		leave := false
		for i := 0; i < len(typed) && !leave; i++ { // one key at a time, as they come
			var some []byte
			some, leave = k.press([]byte{typed[i]})
			send = append(send, some...)
		}
		if string(send) != want.send || leave != want.leave {
			t.Errorf("%q: got %q and leave %v, want %q and %v", typed, send, leave, want.send, want.leave)
		}
		if all, left := (&keys{begin: true}).press([]byte(typed)); string(all) != want.send || left != want.leave {
			t.Errorf("%q at once: got %q and leave %v, want %q and %v", typed, all, left, want.send, want.leave)
		}
	}
}
