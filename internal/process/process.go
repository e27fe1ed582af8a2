package process

import (
	"log/slog"
	"os"
	"time"
)

// Options are the optional parts of [NewHost]; nil means the defaults.
type Options struct {
	// Prefix is the name of the cgroup directory that all groups of this host live under, such as "dayfly-ab12cd".
	// Hosts with the same prefix, also in other processes, see the same groups. Default: "dayfly".
	Prefix string
	// Places are directories, as [Host.Places] of another process returned them, in which [Host.Find] and
	// [Host.Names] look as well: that process may live in another part of the cgroup tree.
	Places []string
	// Logger is told what could not be set up. Default: discards.
	Logger *slog.Logger
	// Brake is how many processes and threads all groups of the prefix may have together, so that a tree that forks
	// without end does not take the computer down. Default: half of the process ids of this computer, and no more than
	// a quarter of the threads that the kernel allows in all.
	Brake int
	// Alone is set when nothing runs in this program's view of the computer but itself and its groups, as in a container.
	// What the kernel kills there for want of memory was then a group's, although that has no limit of its own.
	Alone bool
	// DisableCgroups makes the host behave as if no cgroup could be used.
	DisableCgroups bool
}

// Abilities says what a host can do, and why it cannot do the rest.
type Abilities struct {
	// Kill is how a tree is found and ended: "cgroup2" and "cgroup1" are certain, "scan" searches /proc.
	Kill string
	// Memory, CPU and Processes tell whether the limits of that name in a machine.Size are enforced by a cgroup.
	Memory, CPU, Processes bool
	// Why holds a sentence for a person about each thing that is missing.
	Why []string
}

// Command says what to start.
type Command struct {
	// Argv is the program and its arguments. A program without a slash is searched in the PATH of Env.
	Argv []string
	// Env is the whole environment, as KEY=VALUE. Nothing of the caller's own environment is added. The group adds
	// DAYFLY_GROUP, its mark for the search of /proc, and DAYFLY_MACHINE, its name, when Env has none.
	Env []string
	// Dir is the working directory. It must exist.
	Dir string
	// Stdin, Stdout and Stderr are handed to the process; nil is /dev/null. They stay the caller's to close, and are
	// put into blocking mode, which is what programs expect.
	Stdin, Stdout, Stderr *os.File
	// Terminal says that Stdin is a terminal, which the process's session is to have as its own: what is typed there
	// to interrupt it does.
	Terminal bool
}

// Usage is what one process and the children it waited for have used.
type Usage struct {
	// MaxRSSKB is the largest resident set of any one of them, in KiB, or 0 if none was larger than this program's own:
	// then Linux tells only the latter.
	MaxRSSKB     int64
	User, System time.Duration
}
