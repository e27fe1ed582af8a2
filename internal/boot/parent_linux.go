package boot

import (
	"crypto/rand"
	"os"
	"strconv"
	"strings"
	"sync"
)

// identity returns what tells this process from all others there ever were: this boot of the computer, the process's name
// space, its id in that and when it was started.
func identity() string { return ownIdentity() }

var ownIdentity = sync.OnceValue(func() string {
	computer, ok := thisComputer()
	started, alive := startOf("self")
	if !ok || !alive {
		return "unknown " + rand.Text()
	}
	return computer + " " + strconv.Itoa(os.Getpid()) + " " + started
})

// thisComputer names what a process id means something in.
func thisComputer() (string, bool) {
	boot, err1 := os.ReadFile("/proc/sys/kernel/random/boot_id")
	space, err2 := os.Readlink("/proc/self/ns/pid")
	return strings.TrimSpace(string(boot)) + " " + space, err1 == nil && err2 == nil
}

// startOf returns when a process was started, in the kernel's words. alive is false for one that is not there, or has ended
// and was not waited for.
func startOf(pid string) (started string, alive bool) {
	text, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "", false
	}
	// The program's name, the second field, may hold spaces.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return "", false
	}
	return fields[19], fields[0] != "Z" && fields[0] != "X"
}

// certainlyDead reports whether a process with that identity is known not to run any more. Of one that was started on
// another computer nothing is known.
func certainlyDead(parent string) bool {
	computer, ok := thisComputer()
	words := strings.Fields(parent)
	if !ok || len(words) < 4 || words[0]+" "+words[1] != computer {
		return false
	}
	started, alive := startOf(words[2])
	return !alive || started != words[3]
}
