// Package pool decides who runs where: callers wait in one line, runners come when they are needed and go when they are not.
//
// It knows nothing of machines, networks or functions. A [Backend] boots runners, a [Runner] says when it is gone and can be
// stopped, and a caller holds a [Slot] for as long as its work goes on. So all that is hard about it, which is what happens
// when two things happen at once, is tested in testing/synctest without a machine in sight.
//
// # The life of a runner
//
//	           Boot                slot taken             last slot released
//	(wanted) ───────> booting ───> idle <──────────────────────────────────> busy
//	   ▲                 │           │ idle for long, or used up               │ lost, or the pool closes
//	   │ back-off        │ fails     ▼                                         ▼
//	   └─────────────────┘         retiring ──── last slot released ────> stopping ──── Stop ────> gone
//	                                   nears the end of its lifetime
//
// A runner that is lost is failing until it is known why, and then stopping: it is given nothing in either state.
//
// # Rules that hold everywhere
//
//   - Booting, up and stopping runners together are never more than Max: a runner counts until its Stop has said that
//     it is gone.
//   - A runner is held by at most Concurrency slots. A slot is free when the work has ended, which its holder says by
//     Release; that the caller has gone away frees nothing. Work that does not end is given up by Abandon, and with it
//     the runner: it gets no more work, and is stopped when the rest of it has ended.
//   - Callers are served in the order in which they came. Whoever frees a slot hands it to the first in line under the
//     same lock, so nobody who comes later can take it, and no place in line is forgotten.
//   - Every event that could free, add or remove a runner ends in settle, which serves the line, boots what is
//     wanted and tells those who wait in vain. There is no second place where that is decided.
//   - A runner is taken out of the choice before it is stopped, under the lock. So a caller never gets a runner that is
//     being shut down, not even one that comes in the moment of the idle limit.
//   - Boots that fail are tried again after a pause that doubles, one at a time until one succeeds. A failure of configuration
//     is not tried again by itself. Either way callers are told the reason.
//   - Callbacks run outside the lock on a goroutine of their own, one at a time and in order. They may take long or
//     panic.
//
// # Time
//
// All time comes from package time, and every goroutine is started by a call of [Pool.Run], of [Pool.Acquire] or by one that
// these started. So a pool that is made inside a testing/synctest bubble lives in it wholly, and its clock is the bubble's. Nothing waits
// in a system call.
package pool
