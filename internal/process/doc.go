// Package process starts process trees, watches them, and ends them without leaving a descendant behind.
//
// A [Group] is one tree: every process that was started in it and everything those have forked since. It is found by
// name, never by process id, so another process can end it after the one that started it has died.
//
//	Host --- Group "a" --- Process --- child
//	   |         |             `------ daemon: forked twice, its own session, parent 1
//	   |         `--- cgroup PREFIX/a: the kernel's own list of all of them
//	   `--- threads that fork, and live as long as what they have forked
//
// # How a tree is held together
//
// Where a cgroup can be made, each group has one of its own and its processes are born inside it, so there is no
// moment at which one could fork away. The kernel then knows the tree, and kills it at once:
//
//	"cgroup2"  clone3 forks into the cgroup; cgroup.kill ends it (before Linux 5.14: freeze, then SIGKILL each)
//	"cgroup1"  the forking thread moves itself into the cgroup, forks, and moves back
//	"scan"     nothing is writable: /proc is searched for the group's marker in the environment, for its tag among the
//	           resource limits, for sessions and for descendants; what is found is stopped before it is killed, until
//	           a search finds nothing
//
// The tag is the soft limit on file locks, RLIMIT_LOCKS, which Linux has long ceased to look at. A process is born with
// it, as are its descendants, so one that was forked twice, left its session and wiped its environment is found by it,
// also by another process when its supervisor is dead. A search can miss one that has done all that and changed this
// limit besides, or made groups of its own by this package, as their processes have tags of their own; and the tag
// cannot be given where the hard limit on file locks was lowered, or by an imitation of Linux that refuses it, which is
// logged. [Abilities] says which of the three a host uses. Limits on memory, CPU and the number of processes need
// the controllers of version 1 or 2, whichever hierarchy has them. They may be in another hierarchy than the one
// that kills; that costs a move of the forking thread and is done only for a group that asks for such a limit.
//
// Whatever the sizes say, all groups of a prefix together are held to [Options.Brake] processes and threads, so that a
// tree that forks without end does not take the computer down. It costs the start of a process nothing.
//
// # Trees within a tree
//
// A group can be divided into parts, see [Group.Part]: each is a tree that starts and ends for itself, and all of them end with
// the group, whoever ends that. A part has a cgroup within the group's. Where there is none its mark is the group's with a
// number behind it, and so is its tag; who looks for the group finds what begins as its own do.
//
// # What every process gets
//
// Its own session, SIGKILL when its supervisor dies, no_new_privs, three descriptors and no other, exactly the
// environment it was given plus the marker, no core dumps, an oom_score_adj that makes it a likelier victim than its
// supervisor, the soft limit of descriptors that its supervisor was started with, and the resource limits of its
// group's size; on a host that scans, the group's tag.
//
// This is not a sandbox: a process runs with its supervisor's user id, sees the whole file system and, when that user
// is root, may leave its cgroup.
package process
