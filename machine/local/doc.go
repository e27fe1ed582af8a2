// Package local makes machines on this computer: a machine is a supervised process tree with its own session, working
// directory, limits, clean environment and closed descriptors.
//
// It is not a sandbox: what runs in a machine runs as the same user, sees the same files, and is trusted as if it had
// been started by hand.
//
// # Who holds what
//
// Machines are held by a supervisor, one process for many of them, which outlives the server. The provider, in the
// server, holds nothing that it could not find again.
//
//	server                       supervisor 7                        machine "m1"
//	  Provider ── sock ────────>   create, destroy ── start, kill ──>  cgroup 7.17
//	     │    <── changes ──────   exits, lifetimes                     first process
//	     │                          │                                    └─ descendants
//	     │ reads                    │ writes
//	     v                          v
//	  machines/m1 ─── link ───>  supervisors/7/slots/17/record       supervisors/7/lock: held for life
//
// The state directory is the truth, and everybody reads it: Get and List need no answer from anybody. Who may write
// what is settled by three things that the kernel looks after:
//
//   - The name. machines/m1 is made as a hard link, which fails if it exists. So one of several supervisors makes a
//     machine, however often and wherever it is asked for. The record is complete before it has the name.
//   - The lock. A supervisor holds one for its life, and the kernel gives it back at its death. A free lock, or another
//     boot id, means that the supervisor is dead. No process id is ever trusted, nor sent a signal.
//   - The process tree. It is found by the name of its cgroup, so that anybody can end it, see package process.
//
// Nothing is flushed to the disk. After a loss of power every machine is gone with the boot it belonged to, and its
// record says so: it names another boot. Or it is empty, because it was not on the disk yet: whoever reads a record that
// makes no sense ends the machine whose slot it is in, if that runs, and removes it.
//
// # A supervisor that dies
//
// The kernel kills its direct children, closes its connections, and frees its lock. Every provider that was connected
// sees that at once, ends what is left of each of its trees, and puts on record that nobody knows how they ended.
// A provider that comes later finds the lock free and does the same. Machines that had ended before keep their exit.
//
// # A supervisor that does not answer
//
// It may have been stopped, and may go on at any moment. A provider that hears nothing of it for two seconds starts
// another, and asks that for the machine again. Both may now carry out the same request, and the name decides.
// Destroying a machine that a sleeping supervisor holds is the delicate case, as it may wake up at every step:
//
//	provider                                     supervisor, asleep or not
//	  1 condemn: make machines/m1.condemned        a take a slot, link machines/m1
//	  2 look for machines/m1; gone: start over     b make the cgroup, open it
//	  3 kill the tree, remove the cgroup           c look for the name and the condemnation; refuse
//	  4 wait until earlier requests are void       d look at the clock; refuse
//	  5 remove the slot, the name, the mark        e fork into the cgroup that was opened
//	                                               …
//	                                               x at the end: remove machines/m1
//	                                               y look for the condemnation; use the slot again, or not
//
// Nothing starts late: if c comes before 1, the cgroup of b exists when 3 looks for it, and e either is killed by 3 or
// fails, since nothing can be forked into a cgroup that has been removed. Nobody else's tree is killed: a slot and
// its cgroup are used again only if y finds no condemnation, and then 2 comes after x and finds no name. And no
// machine returns: a request for it carries a deadline on a clock that does not stop with the computer (d), and until
// that has passed for every request of this provider's which nobody has answered, 4 keeps the name from being made.
//
// Where there are no cgroups, e cannot be made to fail. A supervisor that is stopped for seconds exactly between c and
// e may then run a program for as long as it takes to look again; an agent finds its claim refused.
//
// # A machine for several things at once
//
// The guest of a machine may divide it, see [Cell.Divide]. A part has a process group within the machine's and directories
// within its slot, and nothing of it is known outside of the supervisor: who ends the machine ends its parts. Each is made
// as it was while the others go on, in the order of a, b and c above, so that it does not come to life again either.
//
//	cgroup 7.17, slots/17/          the machine, and all its limits
//	    7.17/0                        what was entered from outside
//	    7.17/1, slots/17/parts/1/     a part, with its share of memory, processes and disk
//	    7.17/2, slots/17/parts/2/     another
//
// # Frames
//
// The socket carries one JSON object per line, at most three mebibytes each, many at once in either direction:
//
//	{"id":1,"hello":true}                                   {"id":1,"hello":{"protocol":1,"program":"…"}}
//	{"id":2,"create":{"spec":{…},"deadline":8230114…}}      {"id":2,"made":{"created":"…"}}
//	{"id":3,"destroy":"m1"}                                 {"id":3}
//	{"id":4,"signal":{"machine":"m1","signal":"SIGHUP"}}    {"id":4}
//	{"id":5,"suspend":{"machine":"m1"}}                     {"id":5}
//	{"id":0,"home":"http://127.0.0.1:8080"}
//	                                                        {"id":0,"changed":[{"name":"m2","ended":{…}}]}
//
// A further command in a machine has a connection of its own, which carries its standard input, output and error as open
// files beside the frame. So its output does not go through the supervisor, and it ends with the connection, and that
// with the process that wanted it:
//
//	{"id":1,"enter":{"machine":"m1","args":["sh"]}} + three files         {"id":1,"exit":{"code":0}}
//
// A supervisor takes requests in order and answers each when it is done. It ends when no machine runs and nobody has
// been connected for a while, or when a newer supervisor has taken over and none of its machines runs.
package local
