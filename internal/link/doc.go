// Package link is one ordered stream of frames, each delivered exactly once, between a parent process and a runner
// that it started. It outlives broken connections, notices silence, and knows when the other process is gone. What a
// frame means is the business of package call.
//
//	parent                                              runner, anywhere
//	home := NewHome(hello, options); go home.Run(ctx)
//	guest := home.Expect("runner-1")
//	guest.Invitation().Encode() ── environment ───────> invitation := ParseInvitation(…)
//	link := guest.Wait(ctx) <────────────────────────── link := Dial(ctx, invitation, hello)
//	go link.Serve(handle)                               link.Serve(handle)
//	link.Send(ctx, frame) <───────────────────────────> link.Send(ctx, frame)
//	link.Close(nil) ──────────── goodbye ─────────────> Serve returns an *End
//
// # Two ways
//
// On one computer a link is a Unix socket in a private directory, and what is written goes into it as it is: the
// kernel says whose process is at the other end, and closes the socket in the moment in which that process dies. So
// nothing is kept, nothing acknowledged, and a socket that ends without a goodbye is a process that died. Everywhere
// else a link is TLS 1.3 over TCP, whose key the invitation pins. There a connection may break while both processes
// live: what is sent is kept until the other side has it, and the runner dials again.
//
// # A connection
//
//	runner                                                                    parent
//	greeting {id, token, secret, attempt, received, hello} ─────────────────>   token or secret right? same build?
//	         <──────────────────────────────────────────── answer {received, silence, hello} or {refusal}
//	records  <──────────────────────────────────────────────────────────────> records
//
// The token admits one runner, once. With it the runner brings a secret of its own making, which from then on is the
// only thing that admits: so an answer that is lost costs nothing, since the runner asks again with the same secret,
// and who reads the invitation later is too late. The attempt counts the runner's connections, so that one which
// arrives late does not replace a newer one.
//
// # Records
//
//	kind (1 byte)  length of the body (3 bytes, big-endian)  body
//	1 frame        what Send was given
//	2 beat         how many bytes of the other's records have been received (8 bytes, big-endian)
//	3 goodbye      JSON: why; nothing follows
//	4 farewell     the goodbye has been read, and with it everything before
//
// The records of one direction, over all connections, are one stream of bytes, and a position in it is how much has
// been received, acknowledged or written. After a cut each side says where it is, and the other goes on from there. A
// record that was received in part is sent again.
//
//	         base        sent        end
//	acknowledged │ kept, written │ kept, unwritten │
//
// # Reading
//
// One goroutine reads and handles frames one after another. A handler that turns out to need long may let another
// goroutine read on with [Link.Pass], so that a short piece of work can be done where it is read: to hand it to a
// goroutine wakes another thread, which costs more than a short call. What such handlers answer with [Link.PostLate]
// is written when no further record has arrived, together.
//
// For the same reason who waits alone for a frame may read it itself, with [Link.Lead], where [Link.Share] was called. The goroutine of
// Serve stands by then, and reads again when nobody else does:
//
//	            eight frames, nobody waits after each            Lead
//	Serve reads ─────────────────────────────────────> nobody ─────────> a leader reads
//	     ^                                              │    ^                │
//	     ├─── for a tick nobody has read ───────────────┘    └─ nobody waits ─┤
//	     └─── others wait, or frames do, or it led for longer than a tick ────┘
//
// While leaders come and go Serve's goroutine looks at each tick; one that stays calls it back when it leaves. A leader sleeps in a read, so
// when its context ends or its deadline has come it is woken by a deadline of the socket.
//
// # States
//
//	             dial, greeting               cut                      (TLS only)
//	(expected) ────────────────> connected ────────> disconnected ──── dials again ────> connected
//	                                 │                    │
//	                                 └────────────────────┴──> over: closed here, goodbye of the peer, or lost
//
// Lost is a link whose peer has died, or of which nothing was heard for the time called silence. Each side counts
// its own heartbeats to know how long that is and not the clock, so that a process which was stopped itself reads
// what has arrived meanwhile before it judges.
package link
