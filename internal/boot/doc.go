// Package boot makes a machine run this program, as a runner that dials home, and ends it again.
//
// It is the whole way from a name to a connected link and back to nothing:
//
//	Boot(name)
//	   │ the way home is found, and a runner of that name is expected there
//	   │ Create: the same bytes again while nobody knows, then look whether it is there
//	   ▼
//	machine made ──── it exits, or another build dials ──> why, what it printed ──> destroyed; an error that tells all that
//	   │     └─────── ctx ends ──────────────────────────> destroyed
//	   │ it dials home
//	   ▼
//	Runner ─── its machine exits, or the link is lost ──> Over, then Done, and Err says why: for want of memory, killed, silent …
//	   │ Stop
//	   ▼
//	link closed ──> machine destroyed until it is gone
//
// # Nothing is left behind
//
// A runner whose parent is gone ends by itself, which link tells it at once on one computer and after a silence elsewhere;
// each machine has an end date besides. What remains is a machine that has exited and that nobody destroys. Every machine
// carries in a label which process is its parent, so whoever next runs the same pool destroys what exited machines of dead
// parents there are, and never one whose parent may live.
//
// # A program that is its own helper
//
// A program that is its own runner is also its own helper: it is started once more to hold the machines of this computer,
// and to be the first process of a container. So a user's program needs nothing beside it, see [Help] and [Local].
package boot
