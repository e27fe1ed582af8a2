//go:build linux

package survival_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// helperMark is the first argument of this binary when it is started as a helper.
const helperMark = "helper"

// help plays a helper and returns its exit code.
func help(role string, args []string) int {
	switch role {
	case "nanny":
		return mind(args)
	case "flood":
		return flood(number(args[0]), number(args[1]), int(number(args[2])))
	case "chatter":
		return chatter(number(args[0]))
	case "hog":
		return hog(number(args[0]))
	case "daemon":
		return daemon(args[0], 2)
	case "daemon-again":
		return daemon(args[0], 1)
	case "linger":
		return linger(args[0])
	}
	fmt.Fprintf(os.Stderr, "there is no helper %q\n", role)
	return 2
}

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// helper returns the command line of a helper, to be the command of a job.
func helper(t *testing.T, role string, args ...any) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := []string{self, helperMark, role}
	for _, arg := range args {
		argv = append(argv, fmt.Sprint(arg))
	}
	return argv
}

// flood prints bytes without a single line end, at most perSecond of them in a second unless that is 0.
func flood(size, perSecond int64, exit int) int {
	piece := bytes.Repeat([]byte{'x'}, 1<<20)
	began := time.Now()
	for sent := int64(0); sent < size; {
		n, err := os.Stdout.Write(piece[:min(size-sent, int64(len(piece)))])
		if err != nil {
			return 1
		}
		sent += int64(n)
		if perSecond > 0 {
			pass(time.Duration(sent*int64(time.Second)/perSecond) - time.Since(began))
		}
	}
	return exit
}

// babble returns bytes that are the same each time, in which no two places look alike, and which hold everything that
// something on the way might be tempted to change.
func babble(size int64) []byte {
	text := make([]byte, 0, size+64)
	for i := 0; int64(len(text)) < size; i++ {
		text = fmt.Appendf(text, "%d \x00\x1b[31m\x1b]52;c;aGk=\x07\xff\xfe\r\n\n\nevent: end\ndata: {}\n\n<script>", i)
	}
	return text[:size]
}

// chatter prints babble slowly, over a second or so.
func chatter(size int64) int {
	text := babble(size)
	for piece := max(1, len(text)/100); len(text) > 0; text = text[min(piece, len(text)):] {
		if _, err := os.Stdout.Write(text[:min(piece, len(text))]); err != nil {
			return 1
		}
		pass(10 * time.Millisecond)
	}
	return 0
}

// hog takes memory, one MiB at a time, until it has what it wants.
func hog(size int64) int {
	var memory [][]byte
	for got := int64(0); got < size; got += 1 << 20 {
		piece := make([]byte, 1<<20)
		for i := 0; i < len(piece); i += 512 {
			piece[i] = byte(i)
		}
		memory = append(memory, piece)
	}
	fmt.Println("took", len(memory))
	return 0
}

// daemon starts itself in a session of its own, times times over, so that what is left in the end has neither parent
// nor session in common with the job. It returns once that has noted its process id in the file.
func daemon(file string, times int) int {
	next := []string{"linger", file}
	if times > 1 {
		next = []string{"daemon-again", file}
	}
	cmd := exec.Command("/proc/self/exe", append([]string{helperMark}, next...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for range 1000 {
		if _, err := os.Stat(file); err == nil {
			return 0
		}
		pass(5 * time.Millisecond)
	}
	fmt.Fprintln(os.Stderr, "the daemon has not begun")
	return 1
}

// linger stays, whatever it is told, but not for ever.
func linger(file string) int {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE)
	if err := os.WriteFile(file+".new", fmt.Append(nil, os.Getpid()), 0o644); err != nil {
		return 1
	}
	if err := os.Rename(file+".new", file); err != nil {
		return 1
	}
	pass(10 * time.Minute)
	return 0
}
