// Package agent is what runs inside or beside a machine: it claims one attempt, brings its inputs in, runs its
// command, ships what the command prints, brings its outputs out and reports the result.
//
//	Run ── claim ──> fetch ──> command ──> finish ──> result ──> exit
//	          │         │          │           │          │
//	          │         │          │           │          └─ repeated until accepted or refused
//	          │         │          │           └─ outputs uploaded, hashed while they are sent
//	          │         │          └─ output: pipe ─> backlog (memory, then disk) ─> shipper ─> server
//	          │         └─ inputs: temporary name, size and SHA-256 verified, renamed
//	          └─ refused: exit, run nothing
//
//	all the while: heartbeats ask for orders, and a clock that counts suspend measures silence and the deadline
//
// # Who decides
//
// The server decides what an attempt is; the agent decides nothing it could be wrong about. It starts the command only
// after its claim was answered, at most once. It ends the command, with every descendant, when the server says that the
// attempt is over, when the run timeout passes, and when the server has been silent for the time the assignment names.
// After the last of these there may be another attempt elsewhere, so nothing of this one is left running.
//
// # Three contexts
//
// Run's own context ends everything at once. From it derives the attempt's life, which also ends when the attempt is
// refused or orphaned: then the command is killed and nothing more is sent. From that derives its work, which also
// ends on an order to stop: then the command gets SIGTERM and its grace, and the result is still reported.
//
// # Machines of pools
//
// On a machine of a pool the agent carries out one attempt after the other, and in between makes the machine as it was, or
// says that it cannot be. When the machine has several slots, each has a runner of its own, with its own claims, process tree
// and directories:
//
//	Run ── claim ──> divide ──> runner, slot 1 ── attempt ── renew ── claim ── …
//	                    └─────> runner, slot 2 ── claim ── attempt ── renew ── …
//
// What one attempt may leave to those after and beside it, and how that is prevented, is told at [Ground].
//
// # Layers
//
// A [Link] carries one call to the server, once; [Direct] makes a request of each, [Shared] gathers the calls of many
// attempts into few. Above it, a line repeats calls, counts silence and recognizes a refusal. Above that, the attempt
// never looks at a status code.
//
// # Output never waits
//
// A command must not stand still because a server is slow or away. So its pipes are read at once into a backlog: a
// little memory, then a nameless file on disk, then, beyond the limit, a count of what was not kept. Memory stays
// bounded whatever the command prints and however long the server is away, and every byte read is either stored once,
// in order, or its absence is on record.
package agent
